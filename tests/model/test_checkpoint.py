"""A checkpoint comes back as it was; anything missing, foreign or edited is refused by name."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.tiny import observation, tiny_config, tiny_policy
from vla.model import checkpoint


@pytest.fixture
def saved(tmp_path):
    policy = tiny_policy()
    folder = tmp_path / "tiny"
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(folder, config, policy.network.state_dict(), policy.processor, {"steps": 3})
    return policy, folder


def test_loaded_policy_acts_exactly_as_the_saved_one(saved):
    policy, folder = saved
    loaded = checkpoint.load(folder)
    np.testing.assert_array_equal(loaded.act([observation()])[0].actions, policy.act([observation()])[0].actions)
    assert loaded.embodiment == policy.embodiment
    assert loaded.generate([observation()], ["is there"], 4) == policy.generate([observation()], ["is there"], 4)


def test_bfloat16_weights_stay_close(saved, tmp_path):
    policy, _ = saved
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(tmp_path / "half", config, policy.network.state_dict(), policy.processor, {}, torch.bfloat16)
    half = checkpoint.load(tmp_path / "half")
    assert half.network.embedding.weight.dtype == torch.float32
    difference = half.act([observation()])[0].actions - policy.act([observation()])[0].actions
    assert 0 < np.abs(difference).max() < 0.5


def test_the_second_save_replaces_the_first_and_keeps_the_card(saved):
    policy, folder = saved
    (folder / "README.md").write_text("card")
    (folder / "demo.jpg").write_bytes(b"picture")
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(folder, config, policy.network.state_dict(), policy.processor, {"steps": 4})
    assert json.loads((folder / "provenance.json").read_text())["steps"] == 4
    assert (folder / "README.md").read_text() == "card" and (folder / "demo.jpg").read_bytes() == b"picture"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_all_files_are_on_the_disk_before_the_checkpoint_takes_its_name(saved, monkeypatch):
    """A power loss leaves the old one or the new one."""
    policy, folder = saved
    done, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda opened: done.append(Path(os.readlink(f"/proc/self/fd/{opened}")).name))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(folder, config, policy.network.state_dict(), policy.processor, {"steps": 4})
    first = done.index("rename")
    assert {*checkpoint.FILES, ".tiny.partial"} <= set(done[:first])
    assert done[first:] == ["rename", "rename", folder.parent.name]


def test_the_old_checkpoint_comes_back_if_saving_ended_between_two_renames(saved):
    policy, folder = saved
    (folder / "README.md").write_text("card")
    folder.rename(folder.with_name(".tiny.old"))
    assert checkpoint.load(folder).embodiment == policy.embodiment
    folder.rename(folder.with_name(".tiny.old"))
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(folder, config, policy.network.state_dict(), policy.processor, {"steps": 4})
    assert (folder / "README.md").read_text() == "card"


def test_a_glimpse_that_is_no_picture_is_refused(saved):
    (saved[1] / "glimpse-front.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"glimpse-front\.png is not a picture"):
        checkpoint.load(saved[1])


@pytest.mark.parametrize("ready", [None, [0.5, -1.25, 0.25]])
def test_the_ready_pose_comes_back(tmp_path, ready):
    policy = tiny_policy()
    policy.processor.ready = None if ready is None else np.array(ready, np.float32)
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(tmp_path / "tiny", config, policy.network.state_dict(), policy.processor, {})
    loaded = checkpoint.load(tmp_path / "tiny").ready
    assert loaded is None if ready is None else loaded.tolist() == ready


def test_a_ready_pose_of_another_body_is_refused(saved):
    path = saved[1] / "processor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ready": [0.0, 1.0]}))
    with pytest.raises(ValueError, match="ready pose must be 3 finite values"):
        checkpoint.load(saved[1])


def test_glimpses_come_back_to_the_bit(tmp_path):
    policy = tiny_policy()
    glimpse = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    policy.processor.glimpses["front"] = glimpse
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(tmp_path / "tiny", config, policy.network.state_dict(), policy.processor, {})
    assert np.array_equal(checkpoint.load(tmp_path / "tiny").processor.glimpses["front"], glimpse)


@pytest.mark.parametrize("room", [0, 3])
def test_a_full_disk_leaves_the_old_checkpoint(saved, monkeypatch, room):
    """No room for the weights, or for one of the documents after them."""
    policy, folder = saved
    new = tiny_config(policy.processor.tokenizer), policy.network.state_dict(), policy.processor, {"steps": 4}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", limited(save_file, room))
        patch.setattr(Path, "write_text", limited(Path.write_text, room - 1))
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(folder, *new)
    assert json.loads((folder / "provenance.json").read_text())["steps"] == 3
    assert checkpoint.load(folder).embodiment == policy.embodiment
    checkpoint.save(folder, *new)
    assert json.loads((folder / "provenance.json").read_text())["steps"] == 4


def limited(write, times):
    """Return a way to write that finds the disk full after so many times."""
    written = []

    def write_or_fail(*arguments, **more):
        if len(written) >= times:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(1)
        return write(*arguments, **more)

    return write_or_fail


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_missing_file_is_named(saved, name):
    _, folder = saved
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        checkpoint.load(folder)


def test_what_ships_is_found_by_its_name(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.load("nano").embodiment.name == "so101"
    assert checkpoint.digest("nano") == checkpoint.digest(checkpoint.DEFAULT) != checkpoint.digest(saved[1])
    for ask in (checkpoint.load, checkpoint.digest):
        with pytest.raises(FileNotFoundError, match=r"pico is not a checkpoint.*what ships: dual, nano"):
            ask("pico")


def test_a_missing_weight_is_named(saved):
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    del weights["head.placeholders"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing .*head\.placeholders"):
        checkpoint.load(folder)


def test_an_edited_embodiment_is_refused(saved):
    _, folder = saved
    body = json.loads((folder / "embodiment.json").read_text())
    body["velocity_max"][0] = 100.0
    (folder / "embodiment.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match="changed by hand"):
        checkpoint.load(folder)


def test_a_missing_statistic_is_refused(saved):
    _, folder = saved
    settings = json.loads((folder / "processor.json").read_text())
    del settings["actions"]["low"]
    (folder / "processor.json").write_text(json.dumps(settings))
    with pytest.raises(KeyError, match="low"):
        checkpoint.load(folder)


def test_another_format_and_broken_json_are_refused(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        checkpoint.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        checkpoint.load(folder)
