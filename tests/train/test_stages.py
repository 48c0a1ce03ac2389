"""Stages train what they name and nothing else, and adapters end up in a plain checkpoint."""

import pytest
import torch

from tests.model.tiny import observation, tiny_config, tiny_policy
from tests.train.conftest import run
from vla.model import checkpoint
from vla.model.adapters import merged
from vla.model.network import Network
from vla.model.policy import VLAPolicy
from vla.train.optimizer import build_optimizer
from vla.train.stages import PARTS, keep_frozen_statistics, part_of, prepare

LORA = {"parts": ["vision", "language"], "rank": 4, "alpha": 8}


def stepped(network, rates):
    """Take one step of the optimizer with gradients of one everywhere; return which tensors changed, by part."""
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = build_optimizer(network, 1e-2, 0.0, lambda name: rates.get(part_of(name), 1.0))
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 * group["share"]
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    ways = {
        name: float((parameter.detach() - before[name]).abs().max()) for name, parameter in network.named_parameters()
    }
    return {part: {way for name, way in ways.items() if part_of(name) == part} for part in PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_rate_zero_stays_as_it_is_and_another_moves_by_its_share(part):
    network, other = tiny_policy().network, PARTS[(PARTS.index(part) + 1) % len(PARTS)]
    rates = {part: 0.0, other: 0.1}
    prepare(network, rates, None)
    moved = stepped(network, rates)
    assert moved[part] == {0.0}
    assert max(moved[other]) == pytest.approx(1e-3, rel=1e-3)
    assert all(max(moved[rest]) == pytest.approx(1e-2, rel=1e-3) for rest in set(PARTS) - {part, other})


def test_frozen_batch_statistics_do_not_change():
    policy = tiny_policy()
    network = policy.network.train()
    prepare(network, {"vision": 0.0}, None)
    keep_frozen_statistics(network)
    before = [buffer.clone() for buffer in network.vision.encoder.buffers()]
    network.vision(policy.processor.images([observation(), observation()]))
    assert before and all(torch.equal(*pair) for pair in zip(before, network.vision.encoder.buffers(), strict=True))
    assert network.head.training


def test_what_cannot_be_done_is_said():
    with pytest.raises(ValueError, match=r"no part \['eyes'\], possible: vision, connector, language, head"):
        prepare(tiny_policy().network, {"eyes": 0.0}, None)
    with pytest.raises(ValueError, match="nothing is left to train"):
        prepare(tiny_policy().network, dict.fromkeys(PARTS, 0.0), None)
    with pytest.raises(ValueError, match="'head' has no adapters"):
        prepare(tiny_policy().network, {}, LORA | {"parts": ["head"]})
    with pytest.raises(ValueError, match=r"'vision' has no adapters.*of a rate above 0"):
        prepare(tiny_policy().network, {"vision": 0.0}, LORA)
    with pytest.raises(ValueError, match=r"keys parts, rank and alpha, got \['parts', 'r'\]"):
        prepare(tiny_policy().network, {}, {"parts": ["language"], "r": 4})


def test_what_nothing_has_taught_yet_is_not_frozen(demonstrations, tmp_path):
    with pytest.raises(ValueError, match=r"init=None: .* tensors of vision have no equal there"):
        run(demonstrations, tmp_path, "rates.vision=0.0")
    with pytest.raises(ValueError, match=r"tensors of language .* give a checkpoint of the same model"):
        run(demonstrations, tmp_path, "rates.language=0.0", "init=nano")  # which is larger: its weights would be cut


def test_adapters_start_as_nothing_train_few_weights_and_end_in_a_plain_network():
    policy = tiny_policy()
    plain = policy.act([observation()])[0].actions
    network = policy.network
    prepare(network, {}, LORA)
    assert (policy.act([observation()])[0].actions == plain).all()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "wte" in name for name in trained if part_of(name) in ("vision", "language"))
    assert {part_of(name) for name in trained} == set(PARTS)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    adapted = VLAPolicy(network, policy.processor).act([observation()])[0].actions
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    again = Network(**tiny_config(policy.processor.tokenizer))
    checkpoint.load_weights(again, merged(network, weights))
    mine = VLAPolicy(again, policy.processor).act([observation()])[0].actions
    assert abs(adapted - plain).max() > 0.01
    assert mine == pytest.approx(adapted, abs=1e-4)


def test_alignment_and_then_adapters_leave_checkpoints_that_act(demonstrations, tmp_path):
    small = ["steps=3", "save_every=2", "warmup_steps=1", "store=float32"]
    run(demonstrations, tmp_path / "base", *small)
    base = checkpoint.load(tmp_path / "base/checkpoints/last")
    run(demonstrations, tmp_path / "1", "recipe=stages/alignment", *small, f"init={tmp_path / 'base/checkpoints/last'}")
    aligned = checkpoint.load(tmp_path / "1/checkpoints/last")
    for name, tensor in base.network.state_dict().items():
        if part_of(name) != "connector" and not name.startswith("vision.connector"):
            torch.testing.assert_close(aligned.network.state_dict()[name], tensor, msg=name)
    small += [f"init={tmp_path / '1/checkpoints/last'}", "recipe=stages/instruction", "shards=2"]
    run(demonstrations, tmp_path / "2", *small)
    policy = checkpoint.load(tmp_path / "2/checkpoints/last")
    mine, theirs = (p.network.state_dict()["language.transformer.h.0.mlp.c_fc.weight"] for p in (policy, aligned))
    assert mine.shape == theirs.shape and not torch.equal(mine, theirs)
