"""An export is what was measured, or it is not there."""

import json

import numpy as np
import pytest

from tests.model.tiny import JOINTS, PROMPTS, embodiment, observation, tiny_config, tiny_policy
from vla.cli import run
from vla.data.writer import DatasetWriter
from vla.model import checkpoint
from vla.model import export as export_module
from vla.model.export import ExportError, export, words
from vla.model.fidelity import compare
from vla.model.history import History
from vla.model.looks import Look, recorded

LOOKS = [Look(observation(seed, PROMPTS[seed % 2]), ("is there a red cube",)) for seed in range(2)]
BOUND = {"mean_rad": 0.02, "answers": 0.5}


@pytest.fixture
def source(tmp_path):
    policy = tiny_policy()
    return save(policy, tmp_path / "source"), policy


def save(policy, folder):
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(folder, config, policy.network.state_dict(), policy.processor, {"steps": 3})
    (folder / "README.md").write_text("the card")
    return folder


def with_an_outlier(policy):
    """Make one channel a thousand times larger and its reader's weights as much smaller: the same in float32."""
    for layer in policy.network.language.transformer.h:
        for norm, reader in ((layer.ln_1, layer.attn.c_attn), (layer.ln_2, layer.mlp.c_fc)):
            norm.weight.data[0] *= 1000
            norm.bias.data[0] *= 1000
            reader.weight.data[0] /= 1000
    return policy


def test_the_result_says_what_the_loaded_export_does(source, tmp_path):
    folder, policy = source
    result = export(folder, policy, tmp_path / "small", LOOKS, precision="int8", bound=BOUND, calls=1)
    loaded = checkpoint.load(tmp_path / "small")
    again = compare(policy, loaded, LOOKS)
    assert {key: result[key] for key in again} == again
    assert 0 < result["action_error"]["mean_rad"] <= 0.02 and result["answers"]["asked"] == 2
    assert result["weight_bytes"]["after"] == (tmp_path / "small" / "model.safetensors").stat().st_size
    made = json.loads((tmp_path / "small" / "provenance.json").read_text())
    assert made["steps"] == 3 and made["exported"] == {"from": "source", "precision": "int8"}
    assert (tmp_path / "small" / "README.md").read_text().endswith("the card")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small", "source"]


def test_an_export_that_breaks_the_bound_is_refused_with_the_numbers_and_leaves_nothing(source, tmp_path):
    policy = with_an_outlier(tiny_policy())
    same = [p.act([LOOKS[0].observation])[0].actions for p in (policy, source[1])]
    np.testing.assert_allclose(*same, atol=1e-3)
    folder = save(policy, tmp_path / "outlier")
    with pytest.raises(ExportError, match=r"mean_rad is 0\.\d+, bound 0\.02.*Nothing was written.*int8_weights"):
        export(folder, policy, tmp_path / "small", LOOKS, precision="int8", bound=BOUND, calls=1)
    assert not (tmp_path / "small").exists()
    fine = export(folder, policy, tmp_path / "small", LOOKS, precision="int8_weights", bound=BOUND, calls=1)
    assert fine["action_error"]["mean_rad"] <= 0.02


def test_what_would_be_overwritten_or_exported_twice_is_refused(source, tmp_path):
    folder, policy = source
    with pytest.raises(ValueError, match="holds a checkpoint already"):
        export(folder, policy, folder, LOOKS, precision="bfloat16", bound=BOUND, calls=1)
    export(folder, policy, tmp_path / "half", LOOKS, precision="bfloat16", bound=BOUND, calls=1)
    with pytest.raises(ValueError, match=r"is an export already \(bfloat16\)"):
        export(tmp_path / "half", policy, tmp_path / "quarter", LOOKS, precision="int8", bound=BOUND, calls=1)
    with pytest.raises(ValueError, match=r"bound\.median is nothing that is measured, possible: mean_rad"):
        export(folder, policy, tmp_path / "other", LOOKS, precision="bfloat16", bound={"median": 1.0}, calls=1)


def test_a_slower_export_is_called_slower():
    times = {"before": {"p50": 10.0, "p95": 11.0}, "after": {"p50": 12.5, "p95": 13.0}}
    error = dict.fromkeys(("mean_rad", "p99_rad", "max_rad", "gripper_mean"), 0.0)
    result = {"precision": "int8", "frames": 1, "action_error": error, "answers": {"asked": 1, "changed": 0}}
    result |= {
        "visual_tokens": {"before": 4, "after": 4},
        "weight_bytes": {"before": 2**20, "after": 2**19},
        "chunk_latency_ms": times,
    }
    assert "slower here, 1.25 times the time" in words(result | {"times_as_fast": 0.8})
    assert "1.25 times as fast" in words(result | {"times_as_fast": 1.25})
    assert "as fast as before" in words(result | {"times_as_fast": 1.01})


def test_recorded_frames_come_with_their_words_and_questions(tmp_path):
    vector = {"dtype": "float32", "shape": [len(JOINTS)], "names": None}
    features = {f"observation.images.{name}": {"dtype": "video", "shape": [64, 64, 3]} for name in ("front", "wrist")}
    features = {name: feature | {"names": ["height", "width", "channels"]} for name, feature in features.items()}
    features |= {"observation.state": vector, "action": vector, "vqa": {"dtype": "string", "shape": [1], "names": None}}
    asked = [{"question": PROMPTS[2], "answer": "no", "type": "yesno"}, {"question": "where", "type": "where"}]
    metadata = {"embodiment": embodiment().to_dict()}
    with DatasetWriter(tmp_path / "set", 10, features, metadata=metadata) as writer, writer.record() as recorder:
        for number in range(4):
            frame = {key: np.full((64, 64, 3), 60 * number, np.uint8) for key in features if "images" in key}
            vectors = {key: np.full(3, number / 10, np.float32) for key in ("observation.state", "action")}
            recorder.add(frame | vectors | {"vqa": json.dumps(asked)}, task=PROMPTS[0])
        recorder.save()
    policy = tiny_policy()
    looks = recorded(policy, tmp_path / "set", seed=0, count=3)
    assert len(looks) == 3 and all(look.questions == (PROMPTS[2],) for look in looks)
    assert {look.observation.instruction for look in looks} == {PROMPTS[0]}
    assert len({float(look.observation.state[0]) for look in looks}) == 3
    assert compare(policy, policy, looks)["action_error"]["max_rad"] == 0
    policy.processor.history = History(frames=2, stride=1)
    for look in recorded(policy, tmp_path / "set", seed=0, count=4):
        number = round(float(look.observation.state[0]) * 10)
        shown = [images["front"].mean() for images in (look.observation.images, *look.observation.earlier)]
        np.testing.assert_allclose(shown, [60 * max(0, number - age) for age in range(3)], atol=4)


def test_the_verb_exports_the_shipped_checkpoint_and_says_how_it_compares(tmp_path, capsys):
    out = tmp_path / "small"
    loose = ["bound.mean_rad=0.1", "bound.p99_rad=1"]
    assert run(["export", "scenes=1", "looks=1", "calls=1", f"out={out}", *loose]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["precision"] == "int8" and result["frames"] == 1 and result["times_as_fast"] > 0
    assert "MiB of weights instead of" in capsys.readouterr().out
    looked = checkpoint.load(out).act([observation_of(checkpoint.load(out))])[0]
    assert looked.actions.shape == (16, 6) and np.isfinite(looked.actions).all()


def test_what_cannot_be_exported_is_refused_before_the_policy_acts(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_module, "acted", None)
    refusals = {
        "precision 'int4' is not known, possible: bfloat16": [f"out={tmp_path / 'out'}", "precision=int4"],
        "holds a checkpoint already": [f"out={source[0]}"],
    }
    for said, asked in refusals.items():
        for name in ("VLA_DEBUG", "HYDRA_FULL_ERROR"):
            monkeypatch.delenv(name, raising=False)
        assert run(["export", f"checkpoint={source[0]}", *asked]) == 1
        assert said in capsys.readouterr().err


def observation_of(policy):
    body = policy.embodiment
    images = {name: np.zeros((camera.height, camera.width, 3), np.uint8) for name, camera in body.cameras.items()}
    middle = (np.array(body.position_min) + np.array(body.position_max)) / 2
    return type(LOOKS[0].observation)(images, middle.astype(np.float32), "press the button", 0.0)


def test_an_export_may_let_fewer_visual_tokens_through(source, tmp_path):
    folder, policy = source
    full = policy.network.vision.num_tokens
    result = export(folder, policy, tmp_path / "few", LOOKS, precision="bfloat16", keep=4, bound={}, calls=1)
    assert result["visual_tokens"] == {"before": full, "after": 4} and result["action_error"]["mean_rad"] > 0
    assert checkpoint.load(tmp_path / "few").network.keep == 4
    with pytest.raises(ExportError, match="Nothing was written"):
        export(folder, policy, tmp_path / "one", LOOKS, precision="bfloat16", keep=1, bound={"max_rad": 0.0}, calls=1)
