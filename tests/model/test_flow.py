"""The expert of flow matching sees what pi0's and SmolVLA's see, and nothing else."""

import pytest
import torch

from tests.model.tiny import CAMERAS, tiny_config, tiny_processor
from vla.model.network import Network

LLAMA = dict(model_type="llama", hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)
STEPS, DIM = 4, 3


def head_and_context(seed=0, **settings):
    torch.manual_seed(seed)
    config = tiny_config(tiny_processor().tokenizer, STEPS)
    config |= dict(
        cameras={"wrist": list(CAMERAS["wrist"])},
        language=LLAMA | dict(num_key_value_heads=2, max_position_embeddings=96),
        head=dict(name="flow", expert=dict(intermediate_size=24), **settings),
    )
    network = Network(**config).eval()
    for weight in network.parameters():  # large enough that every path through the network shows
        weight.data.mul_(3 if weight.ndim > 1 else 1)
    ids, mask = tiny_processor().text(["pick up the red cube"])
    batch = dict(
        images={"wrist": torch.zeros(1, *CAMERAS["wrist"], 3, dtype=torch.uint8)},
        text_ids=ids,
        text_mask=mask,
        state=torch.zeros(1, DIM),
        given_actions=torch.zeros(1, STEPS, DIM),
        given_steps=torch.zeros(1, dtype=torch.long),
    )
    return network, network(**batch, taught=False).context


def moved_by(network, context, step):
    """Which steps of the velocity change with one step of the noisy chunk."""
    noisy, time = torch.zeros(1, STEPS, DIM), torch.full((1, STEPS), 0.5)
    before = network.head.field.velocity(noisy, time, context)
    noisy[:, step] += 1
    change = network.head.field.velocity(noisy, time, context) - before
    return (change.abs().amax(-1)[0] > 1e-6).tolist()


@pytest.mark.parametrize(("joint_every", "reads_state"), [(1, False), (1, True), (2, True)])
@torch.no_grad()
def test_a_causal_expert_sees_no_later_step_and_another_all(joint_every, reads_state):
    network, context = head_and_context(joint_every=joint_every, reads_state=reads_state)
    assert moved_by(network, context, step=2) == [True] * STEPS
    network.head.field.causal = True
    assert moved_by(network, context, step=2) == [False, False, True, True]


@torch.no_grad()
def test_layers_that_only_cross_see_no_other_step():
    network, context = head_and_context(joint_every=3)
    network.head.field.expert.model.layers[0].self_attn.o_proj.weight.data.zero_()
    assert moved_by(network, context, step=2) == [False, False, True, False]


@torch.no_grad()
def test_a_state_that_the_expert_reads_moves_it_and_sees_nothing_of_the_chunk():
    network, context = head_and_context(reads_state=True)
    noisy, time = torch.zeros(1, STEPS, DIM), torch.full((1, STEPS), 0.5)
    before = network.head.field.velocity(noisy, time, context)
    context.state = context.state + 1
    assert (network.head.field.velocity(noisy, time, context) - before).abs().max() > 1e-4
    sees = network.head.field._sees(context.present, 1 + STEPS)[0, 0]
    real = torch.cat([context.present[0], torch.ones(1 + STEPS, dtype=torch.bool)])
    assert not sees[0, -STEPS:].any() and torch.equal(sees[1:], real.expand(STEPS, -1))


@pytest.mark.parametrize("joint_every", [1, 2])
@torch.no_grad()
def test_every_layer_looks_at_the_language_model(joint_every):
    network, context = head_and_context(joint_every=joint_every)
    noisy, time = torch.zeros(1, STEPS, DIM), torch.full((1, STEPS), 0.5)
    before = network.head.field.velocity(noisy, time, context)
    for layer in context.cache.layers:
        kept, layer.values = layer.values, layer.values + 1
        assert (network.head.field.velocity(noisy, time, context) - before).abs().max() > 1e-6
        layer.values = kept


def test_layers_that_cross_need_rotary_positions():
    config = tiny_config(tiny_processor().tokenizer, STEPS) | dict(head=dict(name="flow", joint_every=2))
    with pytest.raises(ValueError, match=r"joint_every=2 needs a language model with rotary positions, .* not gpt2"):
        Network(**config)
