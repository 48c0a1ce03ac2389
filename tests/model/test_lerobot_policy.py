"""Folders of lerobot and OpenVLA are read as they are meant, or refused with the reason."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from vla.bench.parity import GOLDEN
from vla.model import lerobot_weights
from vla.model.lerobot_policy import UNSUPPORTED, LeRobotFolder, LeRobotPolicy, fitted
from vla.model.normalization import MODES, Bounds, Normalization
from vla.model.openvla import OpenVLAActions
from vla.types import Observation

SMOLVLA, PI0, OPENVLA = GOLDEN / "lerobot-smolvla", GOLDEN / "lerobot-pi0", GOLDEN / "openvla"
WORDS = {"lerobot-smolvla": "vlm", "lerobot-pi0": "tokenizer"}
numbers = st.floats(-100, 100, width=32)


def copy(folder: Path, to: Path, document: str = "config.json", **changes) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    content = json.loads((to / document).read_text())
    (to / document).write_text(json.dumps(content | changes))
    return to


@functools.cache
def shipped(folder: Path) -> LeRobotPolicy:
    return load(folder)


def load(folder: Path) -> LeRobotPolicy:
    kind = "lerobot-smolvla" if (folder / "vlm").exists() else "lerobot-pi0"
    return LeRobotPolicy.load(folder, vlm=folder / "vlm", tokenizer=folder / WORDS[kind])


def observation(instruction="pick up the red cube", **changes):
    rng = np.random.default_rng(0)
    images = {
        "front": rng.integers(0, 255, (24, 32, 3), np.uint8),
        "wrist": rng.integers(0, 255, (20, 20, 3), np.uint8),
    }
    return Observation(
        **{"images": images, "state": np.ones(6, np.float32), "instruction": instruction, "time_s": 0.0} | changes
    )


@pytest.mark.parametrize("folder", [SMOLVLA, PI0])
def test_a_policy_answers_in_the_units_of_its_data_and_each_observation_for_itself(folder):
    policy = shipped(folder)
    other = observation("open the drawer", state=-np.ones(6, np.float32))
    both, alone = policy.actions([observation(), other]), policy.actions([observation()])
    assert both.shape == (2, 5, 6) and both.dtype == np.float32
    np.testing.assert_allclose(both[:1], alone, atol=1e-4)
    assert np.abs(both[0] - both[1]).max() > 1e-2
    stats = load_file(next(folder.glob("policy_postprocessor_step_*_unnormalizer_processor.safetensors")))
    np.testing.assert_allclose(both[..., -1], stats["action.mean"][-1].item(), atol=1e-5)  # it never moved


@pytest.mark.parametrize("by_map", [False, True])
def test_images_are_seen_whatever_their_features_are_called(by_map, tmp_path):
    """By the policy itself, as "observation.image", or by the map from the names of the data to its own."""
    features = json.loads((SMOLVLA / "config.json").read_text())["input_features"]
    if by_map:
        steps = json.loads((SMOLVLA / "policy_preprocessor.json").read_text())["steps"]
        renaming = next(step for step in steps if step.get("registry_name") == "rename_observations_processor")
        renaming["config"] = {"rename_map": {"observation.images.top": "observation.images.front"}}
        folder = copy(SMOLVLA, tmp_path / "renamed", "policy_preprocessor.json", steps=steps)
    else:
        plain = {key.replace("images.front", "top"): feature for key, feature in features.items()}
        folder = copy(SMOLVLA, tmp_path / "renamed", input_features=plain)
    policy, one = load(folder), observation()
    assert policy.folder.cameras == ["top", "wrist"]
    images = {"top": one.images["front"], "wrist": one.images["wrist"]}
    np.testing.assert_array_equal(policy.actions([observation(images=images)]), shipped(SMOLVLA).actions([one]))
    states = {key: feature for key, feature in features.items() if feature["type"] == "STATE"}
    with pytest.raises(ValueError, match=r"none of its inputs .* is an image"):
        load(copy(SMOLVLA, tmp_path / "blind", input_features=states))


def test_a_camera_that_is_missing_and_an_instruction_that_is_too_long_are_refused():
    policy = shipped(SMOLVLA)
    with pytest.raises(ValueError, match=r"cameras \['wrist'\] are missing; the policy sees \['front', 'wrist'\]"):
        policy.actions([observation(images={"front": observation().images["front"]})])
    with pytest.raises(ValueError, match="tokens, the policy reads 48"):
        policy.actions([observation("red " * 60)])


def test_of_other_policies_the_normalisation_is_read(tmp_path):
    folder = copy(SMOLVLA, tmp_path / "act", type="act")
    with pytest.raises(ValueError, match="type 'act'; the weights of pi0 and smolvla are read"):
        load(folder)
    found = LeRobotFolder.read(folder)
    assert found.kind == "act" and found.action_dim == 6 and found.cameras == ["front", "wrist"]
    values = torch.randn(3, 6)
    torch.testing.assert_close(found.action.decode(found.action.encode(values))[..., :5], values[..., :5])


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_setting_that_is_not_computed_here_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}=7 is not supported"):
        load(copy(PI0, tmp_path / "folder", **{name: 7}))


@pytest.mark.parametrize(("mode", "every"), [("cross_attn", -1), ("cross_attn", 0), ("cross", 2)])
def test_layers_that_would_look_elsewhere_are_refused(tmp_path, mode, every):
    """With -1 the package lets every layer look at the language model alone."""
    with pytest.raises(ValueError, match=f"attention_mode='{mode}' with self_attn_every_n_layers={every} is not"):
        load(copy(SMOLVLA, tmp_path / "folder", attention_mode=mode, self_attn_every_n_layers=every))


def test_a_configuration_that_is_given_stays_as_it_was():
    vlm = AutoConfig.from_pretrained(SMOLVLA / "vlm")
    before = vlm.to_dict()
    lerobot_weights.smolvla(load_file(SMOLVLA / "model.safetensors"), vlm, joint_every=2, action_horizon=5)
    assert vlm.to_dict() == before


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        load(tmp_path)
    with pytest.raises(ValueError, match="not of a lerobot policy"):
        load(copy(OPENVLA, tmp_path / "openvla"))
    old = copy(PI0, tmp_path / "old")
    (old / "policy_preprocessor.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"written by lerobot before 0\.4"):
        load(old)
    steps = json.loads((PI0 / "policy_postprocessor.json").read_text())["steps"]
    strange = copy(PI0, tmp_path / "strange", "policy_postprocessor.json", steps=[*steps, {"registry_name": "square"}])
    with pytest.raises(ValueError, match=r"steps \['square'\] are not supported"):
        load(strange)


@pytest.mark.parametrize("folder", [SMOLVLA, PI0])
def test_weights_are_read_strictly(tmp_path, folder):
    damaged = copy(folder, tmp_path / "damaged")
    weights = load_file(damaged / "model.safetensors")
    name = "model.action_out_proj.bias"
    save_file({key: value for key, value in weights.items() if key != name}, damaged / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing \['field.outward.bias'\]"):
        load(damaged)
    save_file(weights | {"model.more.weight": torch.ones(1)}, damaged / "model.safetensors")
    with pytest.raises(ValueError, match=r"more.weight' belongs to nothing that is known"):
        load(damaged)


def test_another_vision_language_model_than_the_one_of_training_is_refused(tmp_path):
    other = copy(SMOLVLA / "vlm", tmp_path / "vlm")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="give the configuration that they were trained with"):
        LeRobotPolicy.load(SMOLVLA, vlm=other, tokenizer=other)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(MODES), st.lists(st.tuples(numbers, st.floats(0.01, 50), numbers), min_size=1, max_size=5))
def test_every_mode_is_an_inverse_pair(mode, rows):
    low, width, values = (torch.tensor(column) for column in zip(*rows, strict=True))
    names = ("min", "q01", "q10", "mean"), ("max", "q99", "q90")
    stats = dict.fromkeys(names[0], low) | dict.fromkeys(names[1], low + width) | {"std": width}
    normalization = Normalization(mode, stats)
    torch.testing.assert_close(normalization.decode(normalization.encode(values)), values, atol=1e-3, rtol=1e-4)
    if mode in ("MIN_MAX", "QUANTILES", "QUANTILE10"):
        torch.testing.assert_close(normalization.encode(low), torch.full_like(low, -1))


def test_a_mode_without_its_statistics_is_refused():
    with pytest.raises(ValueError, match=r"QUANTILES needs the statistics \['q99'\], given are \['mean', 'q01'\]"):
        Normalization("QUANTILES", {"q01": torch.ones(1), "mean": torch.ones(1)})
    with pytest.raises(ValueError, match="'STD' is not known, possible: IDENTITY, MEAN_STD"):
        Normalization("STD")
    with pytest.raises(ValueError, match="two lists of one length"):
        Bounds(torch.ones(2), torch.ones(3))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_openvla_ids_say_actions_to_half_a_bin(shares):
    actions = OpenVLAActions.read(OPENVLA)
    low, high = actions.bounds.low, actions.bounds.high
    meant = low + torch.tensor(shares).double() * (high - low)
    ids = actions.encode(meant)
    assert ((ids >= 31744) & (ids < 32000)).all()
    half_a_bin = torch.where(actions.bounds.mask, (high - low) / 255 / 2, 1 / 255)
    assert ((actions.decode(ids) - meant).abs() <= half_a_bin * 1.001 + 1e-6).all()


def test_openvla_says_nothing_of_a_joint_that_never_moved(tmp_path):
    """As `normalize_action_and_proprio` of its data does: 0, the middle bin, and not the lowest."""
    own = {"q01": [-1.0, 0.5], "q99": [1.0, 0.5], "min": [-2.0, 0.5], "max": [2.0, 0.5]}
    actions = OpenVLAActions.read(copy(OPENVLA, tmp_path / "still", norm_stats={"still": {"action": own}}))
    values = torch.tensor([[0.3, 0.5]])
    assert actions.bounds.encode(values).tolist() == [[pytest.approx(0.3), 0.0]]
    torch.testing.assert_close(actions.decode(actions.encode(values)), values, atol=5e-3, rtol=0)
    with pytest.raises(ValueError, match=r"bounds of 2 values need as many of mask and unused, got \(3,\)"):
        Bounds(torch.zeros(2), torch.ones(2), torch.ones(3) > 0)


def test_openvla_needs_to_know_the_dataset(tmp_path):
    every = json.loads((OPENVLA / "config.json").read_text())["norm_stats"]
    two = copy(OPENVLA, tmp_path / "two", norm_stats=every | {"fractal": every["bridge_orig"]})
    with pytest.raises(ValueError, match=r"dataset None is not in .*, possible: bridge_orig, fractal"):
        OpenVLAActions.read(two)
    assert torch.equal(OpenVLAActions.read(two, "fractal").bounds.low, OpenVLAActions.read(OPENVLA).bounds.low)
    poor = copy(OPENVLA, tmp_path / "poor", norm_stats={"bridge_orig": {"action": {"mean": [0.0]}}})
    with pytest.raises(ValueError, match=r"the actions of bridge_orig have no \['q01', 'q99'\], only \['mean'\]"):
        OpenVLAActions.read(poor)
    with pytest.raises(ValueError, match="not of an OpenVLA checkpoint"):
        OpenVLAActions.read(PI0)
    with pytest.raises(FileNotFoundError, match="give the folder of an OpenVLA checkpoint"):
        OpenVLAActions.read(tmp_path)


@pytest.mark.parametrize(
    ("size", "centred", "box"), [((20, 40), True, (7, 21, 0, 28)), ((40, 20), False, (0, 28, 14, 28))]
)
def test_frames_keep_their_proportions(size, centred, box):
    found = fitted(torch.ones(1, 3, *size), 28, 28, centred)[0, 0]
    expected = torch.zeros(28, 28)
    expected[box[0] : box[1], box[2] : box[3]] = 1
    torch.testing.assert_close(found, expected)
