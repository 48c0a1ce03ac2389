"""`vla train` learns, resumes exactly after a kill, refuses what it cannot do, and leaves a checkpoint that acts."""

import dataclasses
import json
import multiprocessing
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import torch

from tests.model.tiny import tiny_config, tiny_policy
from tests.train.conftest import SMALL, given, run
from vla import cli
from vla.data.dataset import EpisodeDataset
from vla.model import checkpoint
from vla.model.network import Network
from vla.model.vocabulary import build_tokenizer
from vla.train.optimizer import Average, build_optimizer, learning_rate_at
from vla.train.snapshot import load_snapshot, save_snapshot
from vla.train.train import _start_from
from vla.types import Observation

TWO_CORES = ("steps=12", "save_every=4", "warmup_steps=4", "shards=2")


@pytest.fixture(scope="module")
def trained(demonstrations, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, run(demonstrations, out, *TWO_CORES)


def test_result_and_checkpoint_are_complete(trained, demonstrations):
    out, result = trained
    assert result["steps"] == 12 and result["complete"] and result["samples_per_s"] > 0 and np.isfinite(result["loss"])
    policy = checkpoint.load(out / "checkpoints" / "last")
    size = policy.embodiment.cameras["front"]
    images = {name: np.zeros((size.height, size.width, 3), np.uint8) for name in policy.processor.cameras}
    chunk = policy.act([Observation(images, demonstrations.column("observation.state")[0], "pick it", 0.0)])[0]
    assert chunk.actions.shape == (16, 6)
    provenance = json.loads((out / "checkpoints" / "last" / "provenance.json").read_text())
    assert provenance["dataset"]["hash"] == demonstrations.hash and provenance["steps"] == 12


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(trained, demonstrations, tmp_path):
    out, result = trained
    words = ["train", *given(demonstrations), f"out={tmp_path}", *SMALL, *TWO_CORES]
    process = multiprocessing.get_context("forkserver").Process(target=cli.run, args=(words,))
    process.start()
    while not (tmp_path / "training_state").exists():
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert run(demonstrations, tmp_path, *TWO_CORES)["loss"] == result["loss"]
    weights = (folder / "checkpoints" / "last" / "model.safetensors" for folder in (out, tmp_path))
    first, second = (path.read_bytes() for path in weights)
    assert first == second


def test_a_finished_run_is_not_trained_again_and_says_the_same(trained, demonstrations):
    out, result = trained
    again = run(demonstrations, out, *TWO_CORES)
    assert again["steps"] == 12 and again["loss"] == result["loss"]
    assert again["samples_per_s"] == pytest.approx(12 * 8 / again["train_seconds"]) and again["samples_per_s"] > 0


def test_other_settings_do_not_continue_a_run(trained, demonstrations):
    out, _ = trained
    with pytest.raises(ValueError, match="steps: 12 before, 13 now"):
        run(demonstrations, out, *TWO_CORES, "steps=13")


def test_other_data_do_not_continue_a_run(trained, demonstrations, tmp_path):
    """Action ranges were fitted to the first ones; the same data may lie elsewhere."""
    for folder, copied in ((trained[0], "run"), (demonstrations.root, "moved")):
        shutil.copytree(folder, tmp_path / copied)
    run(EpisodeDataset(tmp_path / "moved"), tmp_path / "run", *TWO_CORES)
    info = tmp_path / "moved/meta/info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"more": "words"}))
    with pytest.raises(ValueError, match=r"run holds a run on other data than .*moved.*: give the same"):
        run(EpisodeDataset(tmp_path / "moved"), tmp_path / "run", *TWO_CORES)


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint_named(demonstrations, tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is .* still good"):
        run(demonstrations, tmp_path, "steps=4", "learning_rate=1e30", "warmup_steps=1", "max_grad_norm=1e30")


def test_memory_may_be_saved_from_one_leg_to_the_next(demonstrations, tmp_path):
    small = ["steps=3", "save_every=1", "warmup_steps=1"]
    assert run(demonstrations, tmp_path, *small, "leg_minutes=0")["steps"] == 1
    result = run(demonstrations, tmp_path, *small, "accumulate=2", "checkpointing=true")
    assert result["complete"] and np.isfinite(result["loss"])
    with pytest.raises(ValueError, match="accumulate=0: a batch runs in one piece at least"):
        run(demonstrations, tmp_path, *small, "accumulate=0")


def test_no_data_says_what_to_give(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)  # which the verb replaces
    assert cli.run(["train", f"out={tmp_path}", f"dataset={tmp_path}/nothing"]) == 1
    assert "is not a finished LeRobotDataset" in capsys.readouterr().err


def test_learning_rate_rises_then_falls():
    rates = [learning_rate_at(step, 100, 1.0, 10) for step in range(100)]
    assert np.argmax(rates) in (9, 10) and max(rates) == 1.0
    assert all(np.diff(rates[:10]) > 0) and all(np.diff(rates[10:]) < 0) and rates[-1] < 0.03


def test_average_follows_the_weights_and_tied_ones_once():
    network = tiny_policy().network
    average = Average(network, decay=0.9)
    assert len(average.weights) < len(network.state_dict())  # the tied output layer is not kept twice
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    before = average.weights["head.placeholders"].clone()
    average.update(network, step=1000)
    moved = average.weights["head.placeholders"] - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), atol=1e-4, rtol=1e-3)


def test_snapshot_restores_weights_moments_and_progress(tmp_path):
    network = tiny_policy().network
    optimizer, average = build_optimizer(network, 1e-3, 0.1), Average(network, 0.9)
    sum(parameter.square().sum() for parameter in network.parameters()).backward()
    optimizer.step()
    save_snapshot(tmp_path, network, average, optimizer, {"step": 5})
    other = tiny_policy(seed=1).network
    fresh, other_average = build_optimizer(other, 1e-3, 0.1), Average(other, 0.9)
    assert load_snapshot(tmp_path, other, other_average, fresh) == {"step": 5}
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(optimizer.state[mine]["exp_avg"], fresh.state[theirs]["exp_avg"])


def test_the_state_of_a_network_of_which_more_was_trained_is_refused(tmp_path):
    network = tiny_policy().network
    optimizer, average = build_optimizer(network, 1e-3, 0.1), Average(network, 0.9)
    sum(parameter.square().sum() for parameter in network.parameters()).backward()
    optimizer.step()
    save_snapshot(tmp_path, network, average, optimizer, {})
    network.vision.requires_grad_(False)
    with pytest.raises(ValueError, match="state of another network, which has more that is trained; choose another"):
        load_snapshot(tmp_path, network, average, build_optimizer(network, 1e-3, 0.1))


def test_a_run_starts_from_the_weights_of_a_checkpoint(trained, demonstrations, tmp_path):
    """No step is taken, so the weights are those that it started from."""
    source = trained[0] / "checkpoints" / "last"
    run(demonstrations, tmp_path, f"init={source}", "steps=1", "learning_rate=0.0", "store=float32")
    mine, theirs = (checkpoint.load(f).network.head.placeholders for f in (tmp_path / "checkpoints" / "last", source))
    torch.testing.assert_close(mine, theirs)


def test_a_start_from_a_checkpoint_of_other_words_keeps_those_that_both_know(demonstrations, tmp_path):
    source = tiny_policy()
    checkpoint.save(
        tmp_path / "other", tiny_config(source.processor.tokenizer), source.network.state_dict(), source.processor, {}
    )
    network, processor = _fresh_network(source.processor, ["pick up the red teapot", "a cube"])
    before = network.embedding.weight.detach().clone()
    _start_from(tmp_path / "other", network, processor)
    mine, theirs = processor.tokenizer.get_vocab(), source.processor.tokenizer.get_vocab()
    assert mine["red"] != theirs["red"] and "teapot" not in theirs
    for word in ("red", "cube", "<act000>", "<loc1023>"):
        assert torch.equal(network.embedding.weight[mine[word]], source.network.embedding.weight[theirs[word]])
    assert torch.equal(network.embedding.weight[mine["teapot"]], before[mine["teapot"]])
    assert torch.equal(network.head.placeholders, source.network.head.placeholders)


def test_a_narrower_network_starts_from_the_first_rows_and_columns_and_says_what_has_no_equal(tmp_path, capsys):
    wide = tiny_policy()
    config = tiny_config(wide.processor.tokenizer)
    checkpoint.save(tmp_path / "wide", config, wide.network.state_dict(), wide.processor, {})
    language = config["language"]
    narrow = Network(**{**config, "language": {**language, "n_inner": 8}, "action_dim": config["action_dim"] + 1})
    before = {name: tensor.clone() for name, tensor in narrow.state_dict().items()}
    _start_from(tmp_path / "wide", narrow, wide.processor)
    own, theirs = narrow.state_dict(), wide.network.state_dict()
    inner = next(name for name in own if name.endswith("h.0.mlp.c_fc.weight"))
    assert torch.equal(own[inner], theirs[inner][:, :8])
    assert torch.equal(own["state.0.weight"], before["state.0.weight"])  # wider than what there is
    assert "state.0.weight" in capsys.readouterr().out


def _fresh_network(like, texts):
    tokenizer = build_tokenizer(texts)
    torch.manual_seed(5)
    return Network(**tiny_config(tokenizer)), dataclasses.replace(like, tokenizer=tokenizer)
