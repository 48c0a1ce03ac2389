"""`vla train recipe=compact`, with pretrained parts as small as they can be: what it leaves behind sits on them."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from safetensors.torch import load_file

from tests.model.pretrained import save_encoder, save_language_model
from tests.train.conftest import given
from vla.model import checkpoint
from vla.train.batches import Labels
from vla.train.train import train
from vla.types import Observation


@pytest.fixture(scope="module")
def parts(demonstrations, tmp_path_factory):
    root, sentences = tmp_path_factory.mktemp("parts"), Labels.read(demonstrations).texts()
    return save_encoder(root / "vision"), save_language_model(root / "language", sentences=sentences)


def run(demonstrations, parts, out, *overrides, recipe=("recipe=compact", "lora.rank=2")):
    small = [
        f"model.vision.pretrained={parts[0]}",
        f"model.language.pretrained={parts[1]}",
        "model.language.num_hidden_layers=1",
        "model.cameras={front: [28, 56], wrist: [28, 28]}",
        "batch_size=8",
        "steps=3",
        "save_every=2",
        "precision=float32",
    ]
    with initialize_config_module("configs", version_base="1.3"):
        words = [f"out={out}", *given(demonstrations), *recipe, *small, *overrides]
        config = OmegaConf.to_container(compose("train", overrides=words), resolve=True)
    return train(config, out)


def act(policy, state, instruction="pick it"):
    sizes = {name: (camera.height, camera.width) for name, camera in policy.embodiment.cameras.items()}
    images = {name: np.zeros((*size, 3), np.uint8) for name, size in sizes.items()}
    return policy.act([Observation(images, state, instruction, 0.0)])[0].actions


def test_compact_leaves_adapters_beside_its_base_and_resumes(demonstrations, parts, tmp_path):
    assert run(demonstrations, parts, tmp_path, "leg_minutes=0")["steps"] == 1
    result = run(demonstrations, parts, tmp_path)
    assert result["complete"] and np.isfinite(result["loss"])
    folder = tmp_path / "checkpoints" / "last"
    assert set(json.loads((folder / "config.json").read_text())["base"]) == {"vision", "language"}
    names = load_file(folder / "model.safetensors")
    held = [name for name in names if name.startswith(("language.", "vision.encoder."))]
    assert held and all(name.endswith((".lora_A", ".lora_B", ".added")) for name in held)
    policy, state = checkpoint.load(folder), demonstrations.column("observation.state")[0]
    assert act(policy, state).shape == (16, 6)
    assert policy.unknown_words("pick up the red zebra") == ["zebra"]
    assert policy.generate(
        [Observation({n: np.zeros((28, 28, 3), np.uint8) for n in ("front", "wrist")}, state, "", 0)], ["x"]
    )
    run(demonstrations, parts, tmp_path / "on", f"init={folder}", "steps=1", "learning_rate=0.0", "store=float32")
    whole = checkpoint.load(tmp_path / "on" / "checkpoints" / "last")
    assert "base" not in json.loads((tmp_path / "on" / "checkpoints" / "last" / "config.json").read_text())
    assert act(whole, state) == pytest.approx(act(policy, state), abs=1e-3)


def test_a_connector_is_aligned_to_pretrained_parts_that_stay(demonstrations, parts, tmp_path):
    rates = "rates={vision: 0.0, connector: 1.0, language: 0.0, head: 1.0}"
    run(demonstrations, parts, tmp_path, rates, "lora=null", "steps=1")
    names = load_file(tmp_path / "checkpoints" / "last" / "model.safetensors")
    assert [name for name in names if name.startswith(("language.", "vision.encoder."))] == [
        "language.model.embed_tokens.added"
    ]


@pytest.mark.slow
def test_flamingo_joins_pretrained_parts_that_stay_as_they_are(demonstrations, parts, tmp_path):
    flamingo = ("recipe=fusion/flamingo", "model=compact", "~model.connector.factor", "init=null")
    result = run(demonstrations, parts, tmp_path, "model.connector.tokens=4", "store=float32", recipe=flamingo)
    assert result["complete"] and np.isfinite(result["loss"])
    policy = checkpoint.load(tmp_path / "checkpoints" / "last")
    after, layer = policy.network.state_dict(), "layers.0.self_attn.q_proj.weight"
    before = load_file(parts[1] / "model.safetensors")[f"model.{layer}"]
    torch.testing.assert_close(after[f"language.model.{layer}"], before)
    assert all(look.attention_gate != 0 for look in policy.network.cross.looks.values())
    assert act(policy, demonstrations.column("observation.state")[0]).shape == (16, 6)
