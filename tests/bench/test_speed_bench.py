"""The speed bench compares what is the same, in turns, and tells what is off; lerobot itself is asked where it is."""

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vla.bench import lerobot_peer, speed_data, speed_policy
from vla.bench.lerobot_peer import ACTION, STATE, Croppable, needed
from vla.bench.parity import GOLDEN
from vla.bench.speed import measure
from vla.bench.speed_data import measure_data
from vla.bench.speed_policy import measure_inference, measure_training
from vla.bench.speed_shape import Shape, draw
from vla.bench.turns import peak_growth, seconds_each
from vla.data.dataset import EpisodeDataset
from vla.data.writer import DatasetWriter
from vla.model import lerobot_weights, onednn

SMALL = Shape(  # of the weights in golden/lerobot-smolvla
    cameras=("front", "wrist"),
    image=32,
    patch=8,
    shuffle=2,
    vision_width=24,
    vision_layers=1,
    vision_heads=2,
    vision_inner=48,
    width=32,
    inner=48,
    heads=4,
    key_heads=2,
    head_width=8,
    vlm_layers=3,
    layers=2,
    vocabulary=json.loads((GOLDEN / "lerobot-smolvla/vlm/config.json").read_text())["text_config"]["vocab_size"],
    action_horizon=5,
    flow_steps=3,
    words=4,
    padded=8,
)
KEYS = ("observation.images.front", "observation.images.wrist")


class Peer(nn.Module):
    """Stands in for lerobot's policy: its weights, computed by torch's own layers in the order of our network."""

    def __init__(self, wrong: float = 0.0) -> None:
        super().__init__()
        self.theirs = load_file(GOLDEN / "lerobot-smolvla/model.safetensors")
        self.theirs = {name: value.float() for name, value in self.theirs.items()}
        with patch.object(onednn, "AVAILABLE", False):
            self.network = lerobot_weights.smolvla(self.theirs, SMALL.vlm(3), 2, 5)
        self.network.learn_expert()
        self.network.field.outward.bias.data += wrong
        self.config = SimpleNamespace(get_optimizer_preset=lambda: self)

    def state_dict(self, *_, **__):
        return self.theirs

    def get_optim_params(self):
        return self.parameters()

    def build(self, parameters):
        return torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-4)

    def seen(self, batch):
        inputs = draw(SMALL, len(batch[STATE]), "cpu")
        return type(inputs)({}, batch[lerobot_peer.WORDS], batch[lerobot_peer.WORDS_MASK], batch[STATE], *[None] * 3)

    def predict_action_chunk(self, batch, noise):
        context = speed_policy._context(self.network, SMALL, self.seen(batch), batch)
        return self.network.act(context, SMALL.flow_steps, noise)[..., : SMALL.joints]

    def forward(self, batch, noise, time):
        context = speed_policy._context(self.network, SMALL, self.seen(batch), batch)
        targets = speed_policy._padded(batch[ACTION], SMALL)
        error = self.network.field.error(targets, noise, time[:, None].expand(-1, 5), context)
        return error[..., : SMALL.joints].mean(), {}


class Copy:
    """Stands in for lerobot's dataset: items as it gives them."""

    def __init__(self, root: str, horizon: int, changed: float = 0.0) -> None:
        self.dataset, self.horizon, self.changed = EpisodeDataset(root), horizon, changed

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        found = self.dataset.window(index, self.horizon)
        images = {key: torch.from_numpy(found[key]).permute(2, 0, 1)[None] for key in KEYS}
        state = torch.from_numpy(np.array(found[STATE]))[None] + self.changed
        return images | {STATE: state, ACTION: torch.from_numpy(found[ACTION])}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three short episodes of two cameras."""
    features = {key: {"dtype": "video", "shape": [16, 24, 3], "names": ["height", "width", "channels"]} for key in KEYS}
    features |= {key: {"dtype": "float32", "shape": [2], "names": ["a", "b"]} for key in (STATE, ACTION)}
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "dataset", 10, features, codec="h264_444") as writer:
        for length in (6, 1, 9):
            with writer.record() as recorder:
                for _ in range(length):
                    images = {key: rng.integers(0, 255, (16, 24, 3), np.uint8) for key in KEYS}
                    vectors = {key: rng.normal(size=2).astype(np.float32) for key in (STATE, ACTION)}
                    recorder.add(images | vectors, task="pick")
                recorder.save()
    return tmp_path / "dataset"


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Peer:
    made = Peer()
    monkeypatch.setattr(speed_policy, "build_smolvla", lambda shape, device: made)
    return made


def test_contenders_take_turns_and_the_median_counts():
    order: list[str] = []
    taken = seconds_each({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, title="try")
    assert order == list("ab" * 4) and taken.keys() == {"a", "b"}
    with pytest.raises(ValueError, match="rounds=0"):
        seconds_each({}, rounds=0, title="try")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_memory_that_is_let_go_of_again_is_counted_and_what_was_there_is_not():
    kept = torch.ones(1 << 24)  # 64 MiB
    grown = peak_growth(lambda: torch.ones(1 << 25).sum(), "cpu")
    assert grown is None or 100 << 20 < grown < 250 << 20
    small = peak_growth(lambda: kept[:10].sum(), "cpu")
    assert small is None or small < 30 << 20


def test_windows_are_those_that_lerobot_gives(monkeypatch, root, tmp_path):
    monkeypatch.setattr(speed_data, "open_dataset", lambda root, cameras, horizon, fps, backend: Copy(root, horizon))
    found = measure_data(root, tmp_path / "frames", seed=0, horizon=4, windows=12, rounds=1)
    assert found["max_pixel_diff"] == 0 and found["prepare"]["bytes"] == 16 * 2 * 16 * 24 * 3
    assert found["ratio"] == found["windows_per_s"] / found["lerobot_windows_per_s"]
    assert found["lerobot_windows_per_s"] == max(found["lerobot"].values()) and found["frames"] == 16


def test_other_states_than_lerobots_are_told(monkeypatch, root, tmp_path):
    monkeypatch.setattr(speed_data, "open_dataset", lambda root, *_: Copy(root, 4, changed=1.0))
    with pytest.raises(ValueError, match=r"reads another observation.state of frame"):
        measure_data(root, tmp_path / "frames", seed=0, horizon=4, windows=12, rounds=1)


def test_chunks_of_the_same_weights_are_compared_and_the_parallel_head_answers_in_the_same_shape(peer):
    found = measure_inference(SMALL, 1, ["float32", "bfloat16"], "cpu")
    row = found["float32"]
    assert row["same_weights"]["ok"] and row["same_weights"]["ratio"] == row["lerobot_ms"] / row["same_weights"]["ms"]
    assert found["bfloat16"]["same_weights"]["tolerance"] > row["same_weights"]["tolerance"]
    assert found["flops"]["parallel"] > 0 and found["flops"]["lerobot"] > 0
    seen = draw(SMALL, 2, "cpu")
    assert speed_policy._parallel_chunk(speed_policy._parallel(SMALL), seen).shape == (2, 5, 6)


def test_losses_and_gradients_agree_before_a_step_is_timed(peer):
    found = measure_training(SMALL, 1, 2, ["float32"], "cpu")
    assert found["float32"]["ok"] and found["float32"]["gradient"] > 0
    assert found["parameters"]["trained"] == found["parameters"]["lerobot_trained"] < found["parameters"]["all"]
    assert found["flops_per_sample"] > 0


def test_what_is_off_is_told(monkeypatch):
    monkeypatch.setattr(speed_policy, "build_smolvla", lambda shape, device: Peer(wrong=1e-2))
    assert not measure_inference(SMALL, 1, ["float32"], "cpu")["float32"]["same_weights"]["ok"]
    assert not measure_training(SMALL, 1, 2, ["float32"], "cpu")["float32"]["ok"]


def test_only_the_expert_and_the_state_learn_and_no_more_is_computed_than_they_need(peer):
    network = speed_policy._ours(peer, SMALL)
    network.learn_expert()
    seen = draw(SMALL, 2, "cpu")
    batch = lerobot_peer.batch_of(SMALL, seen)
    speed_policy._loss(network, SMALL, seen, batch).backward()
    learned = {name.split(".")[0] for name, weight in network.named_parameters() if weight.grad is not None}
    assert learned == {"field", "state"} and network.state.weight.grad.abs().sum() > 0
    context = speed_policy._context(network, SMALL, seen, batch)
    keys = context.cache.layers[1].keys
    keys.sum().backward()
    assert keys.requires_grad and context.cache.layers[1].get_seq_length() == 2 * 4 + 4 + 1


def test_what_is_not_possible_is_refused(peer):
    with pytest.raises(ValueError, match=r"parts \['speed'\]: choose some of data, inference, training"):
        measure(seed=0, out="", parts=["data", "speed"], demonstrations=None)
    with pytest.raises(ValueError, match="precision 'float8' is not known, possible: float32, bfloat16"):
        measure_inference(SMALL, 1, ["float8"], "cpu")
    with pytest.raises(ValueError, match=r"Install lerobot==0\.6\.1"):
        needed("lerobot_that_is_not_there")


def test_a_cache_can_be_cut_to_a_length():
    cache = Croppable()
    keys = torch.randn(1, 2, 7, 4)
    cache.update(keys, -keys, 0)
    cache.crop(5)
    assert torch.equal(cache.layers[0].keys, keys[:, :, :5]) and torch.equal(cache.layers[0].values, -keys[:, :, :5])


@pytest.mark.skipif(find_spec("lerobot") is None, reason="lerobot is not installed")
def test_lerobot_itself_agrees(root):
    shape = {name: value for name, value in vars(SMALL).items() if value != getattr(Shape(), name)}
    shape["cameras"] = list(shape["cameras"])
    settings = dict(parts=["data", "inference", "training"], rounds=1, windows=5, window_rounds=1, device="cpu")
    found = measure(seed=0, out="", demonstrations=None, dataset=str(root), shape=shape, **settings)
    assert found["data"]["max_pixel_diff"] <= 3
    assert found["inference"]["float32"]["same_weights"]["ok"] and found["training"]["float32"]["ok"]
