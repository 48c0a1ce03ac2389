"""Knowledge insulation: the language model learns actions as tokens, the expert as velocities, neither the other's."""

import json

import numpy as np
import pytest
import torch

from tests.model.test_heads import DIM, HORIZON, batch_of, loss_of, network_with, smooth_chunks
from tests.model.tiny import handed_over, observation, tiny_config, tiny_processor
from vla.model import checkpoint
from vla.model.heads import fit_head
from vla.model.network import Network
from vla.model.policy import VLAPolicy

TOKENS = dict(scale=10.0, vocabulary=160)
COUNTED = torch.ones(3, HORIZON, dtype=torch.bool)


def settings(weight=1.0, **changes):
    tokens = dict(TOKENS, weight=weight)
    return fit_head(smooth_chunks(200), "flow", expert=dict(n_inner=32), insulate=True, tokens=tokens, **changes)


def insulated(weight=1.0, **changes):
    own = settings(weight)
    del own["name"]
    return network_with("flow", **own | changes)


def taught(seed=1):
    return batch_of(3, targets=smooth_chunks(3, seed))


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


def of_expert(name):
    return name.startswith("head.field.")


def test_the_language_model_learns_from_tokens_alone_and_the_expert_from_velocities_alone():
    network, batch = insulated(), taught()
    both = gradients(network, loss_of(network, batch))
    outputs = network(**batch)
    of_tokens = gradients(network, network.head.tokens.loss(outputs.action_hidden, batch["given_actions"], COUNTED))
    velocities = insulated(weight=0.0)
    of_velocities = gradients(velocities, loss_of(velocities, batch))
    assert {name for name, gradient in both.items() if gradient.any() and not of_expert(name)} >= {
        *(f"language.{name}" for name, _ in network.language.named_parameters() if name != "transformer.wpe.weight"),
        *(f"vision.{name}" for name, _ in network.vision.connector.named_parameters(prefix="connector")),
        "head.tokens.weight",
    }
    for name, gradient in both.items():
        source, other = (of_velocities, of_tokens) if of_expert(name) else (of_tokens, of_velocities)
        torch.testing.assert_close(gradient, source[name], msg=name)
        assert name not in other or not other[name].any(), name
    assert sum(map(of_expert, both)) > 10


def test_without_insulation_the_language_model_learns_from_both():
    network, batch = insulated(insulate=False), taught()
    both = gradients(network, loss_of(network, batch))
    outputs = network(**batch)
    of_tokens = gradients(network, network.head.tokens.loss(outputs.action_hidden, batch["given_actions"], COUNTED))
    name = "language.transformer.h.0.attn.c_attn.weight"
    assert (both[name] - of_tokens[name]).abs().max() > 1e-6


@pytest.mark.parametrize("fusion", ["prefix", "cross_attention"])
@pytest.mark.parametrize("question", [False, True])
@torch.no_grad()
def test_the_expert_sees_no_token_so_it_says_in_training_what_it_says_when_it_acts(fusion, question):
    torch.manual_seed(0)
    config = tiny_config(tiny_processor().tokenizer, HORIZON)
    network = Network(**config, head=settings(), fusion=dict(name=fusion)).eval()
    for weight in network.parameters():  # large enough that every path through the network shows
        weight.mul_(3 if weight.ndim > 1 else 1)
    batch = taught()
    batch["images"] = {
        name: torch.zeros(3, *size, 3, dtype=torch.uint8) for name, size in tiny_processor().cameras.items()
    }
    if question:
        batch |= dict(question_ids=batch["text_ids"].flip(0), question_mask=batch["text_mask"].flip(0))
    noisy, time = torch.randn(3, HORIZON, DIM), torch.full((3, HORIZON), 0.5)

    def velocity(actions, taught=True):
        context = network(**{**batch, "given_actions": actions}, taught=taught).context
        return network.head.field.velocity(noisy, time, context)

    acting = velocity(batch["given_actions"], taught=False)
    assert network.head.tokens.taught(smooth_chunks(3, 5))[0].shape[1] > 2
    for seed in (1, 5):
        torch.testing.assert_close(velocity(smooth_chunks(3, seed)), acting, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_token_is_said_in_the_light_of_those_before_it_alone():
    network, batch = insulated(), taught()
    tokens, real = network.head.tokens.spell(batch["given_actions"])
    other = tokens.clone()
    other[:, 2] = (other[:, 2] + 1) % len(network.head.tokens.weight)
    hidden = []
    for said in (tokens, other):
        network.head.tokens.spell = lambda _, said=said: (said, real)
        hidden.append(network(**batch).action_hidden)
    assert hidden[0].shape[1] == tokens.shape[1]  # the readout says the first, nothing follows the last
    torch.testing.assert_close(hidden[0][:, :3], hidden[1][:, :3], atol=1e-6, rtol=1e-5)
    assert (hidden[0][:, 3] - hidden[1][:, 3])[real[:, 3]].abs().max() > 1e-5


def test_tokens_and_chunks_are_learnt_together():
    network, batch = insulated(), taught()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, fused=True)
    for step in range(60):
        optimizer.zero_grad()
        loss_of(network, batch, step, times=1).backward()
        optimizer.step()
    outputs = network(**batch)
    tokens, real = network.head.tokens.spell(batch["given_actions"])
    said = (outputs.action_hidden @ network.head.tokens.weight.T).argmax(-1)
    assert (said == tokens)[real].float().mean() > 0.9
    error = (network.act(**batch).values - batch["given_actions"]).abs()
    untaught = (insulated().act(**batch).values - batch["given_actions"]).abs()
    assert error.mean() < 0.8 * untaught.mean()


def test_a_checkpoint_keeps_the_tokens_and_goes_to_other_processes(tmp_path):
    processor = tiny_processor(HORIZON)
    torch.manual_seed(0)
    config = tiny_config(processor.tokenizer, HORIZON) | dict(head=settings(weight=0.5))
    policy = VLAPolicy(Network(**json.loads(json.dumps(config))), processor)
    checkpoint.save(tmp_path / "kept", config, policy.network.state_dict(), processor, {})
    loaded, seen = checkpoint.load(tmp_path / "kept"), observation()
    assert loaded.network.head.tokens_weight == 0.5
    chunks = [one.act([seen])[0].actions for one in (policy, loaded, VLAPolicy(handed_over(policy.network), processor))]
    np.testing.assert_array_equal(chunks[1], chunks[0])
    np.testing.assert_array_equal(chunks[2], chunks[0])
    spelt = [one.network.head.tokens.spell(smooth_chunks(3))[0] for one in (policy, loaded)]
    assert torch.equal(*spelt)
