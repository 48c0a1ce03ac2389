"""What we compute is what others compute, and what is off is told.

Set VLA_LEROBOT_PYTHON to a Python that has lerobot 0.6.1 with transformers 5.4 or 5.5, or to several with `:` between
them, to ask lerobot itself instead of the golden files.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vla.bench import parity_connectors, parity_fusion
from vla.bench.parity import GOLDEN, TOLERANCE, measure, row
from vla.bench.parity_networks import pi0_of_lerobot, smolvla_of_lerobot
from vla.model.connectors import QFormer
from vla.model.fusion import GatedCrossAttention
from vla.model.lerobot_policy import LeRobotPolicy

PYTHONS = [path for path in os.environ.get("VLA_LEROBOT_PYTHON", "").split(os.pathsep) if path]
LOOK = GatedCrossAttention.forward
SCRIPTS = Path(__file__).parent / "golden"
VERSIONS = """
from importlib.metadata import version
lerobot, transformers = (tuple(map(int, version(name).split(".")[:2])) for name in ("lerobot", "transformers"))
raise SystemExit(not (lerobot >= (0, 6) and (5, 4) <= transformers < (5, 6)))
"""


def off(result) -> list[str]:
    return [f"{line['reference']}: {line['quantity']}: {line['max_abs_diff']}" for line in result if not line["ok"]]


def test_everything_agrees_with_the_golden_files_and_the_installed_packages():
    result = measure(seed=0, threads=1)
    assert result["ok"], off(result["rows"])
    found = {line["reference"] for line in result["rows"]}
    names = ("PI0For", "PI0Policy", "SmolVLAPolicy, att", "SmolVLA", "ACT", "Normalizer", "sinusoidal", "RTC", "DDPM")
    for name in (
        *names,
        "OpenVLA",
        "FAST",
        "InternVL",
        "Blip2",
        "InstructBlip",
        "Idefics2Perceiver",
        "anyres",
        "IdeficsGated",
    ):
        assert any(name in reference for reference in found), name
    assert len(result["rows"]) == 52  # a quantity that is no longer compared is missed
    assert {line["tolerance"] for line in result["rows"]} == {0.0, TOLERANCE} and TOLERANCE <= 1e-5
    assert result["compared"] == len(result["rows"])


def test_the_golden_files_are_small():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 1 << 20


@pytest.mark.parametrize(
    ("ours", "ok"),
    [([1.0, 2.0], True), ([1.0, 2.00002], False), ([1.0, float("nan")], False), ([[1.0, 2.0]], False)],
)
def test_what_is_off_is_told(ours, ok):
    assert row("they", "numbers", torch.tensor(ours), torch.tensor([1.0, 2.0]))["ok"] is ok


def test_ids_must_be_the_same():
    assert not row("they", "ids", torch.tensor([3, 4]), torch.tensor([3, 5]))["ok"]


@pytest.mark.parametrize(
    ("compare", "folder", "setting", "value"),
    [(smolvla_of_lerobot, "lerobot-smolvla", "causal", False), (pi0_of_lerobot, "lerobot-pi0", "causal", True)],
)
@torch.no_grad()
def test_who_sees_whom_shows_in_the_comparison(monkeypatch, compare, folder, setting, value):
    load = LeRobotPolicy.load

    def wrong(*arguments, **named):
        policy = load(*arguments, **named)
        setattr(policy.network.field, setting, value)
        return policy

    monkeypatch.setattr(LeRobotPolicy, "load", wrong)
    rows = [row("lerobot", *pair) for pair in compare(GOLDEN / folder)]
    assert {line["quantity"].split(",")[0] for line in rows if not line["ok"]} == {
        "velocity of noise",
        "loss",
        "chunk after 10 Euler steps",
        "observation to actions",
    }


@pytest.mark.slow
@pytest.mark.skipif(not PYTHONS, reason="VLA_LEROBOT_PYTHON names no Python that has lerobot")
@pytest.mark.parametrize("python", PYTHONS)
def test_everything_agrees_with_lerobot_itself(python, tmp_path):
    if subprocess.run([python, "-c", VERSIONS], env=os.environ | {"PYTHONPATH": ""}).returncode:
        pytest.skip("no lerobot 0.6 with the transformers that it asks for")
    for interpreter, script in ((python, "write_lerobot.py"), (sys.executable, "write_published.py")):
        command = [interpreter, str(SCRIPTS / script), str(tmp_path)]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    result = measure(seed=1, golden=str(tmp_path))
    assert result["ok"], off(result["rows"])


@torch.no_grad()
def test_words_and_gates_show_in_the_comparison(monkeypatch):
    """What is copied has a part in what is compared."""
    monkeypatch.setattr(QFormer, "_in_order", lambda self, words, present: self.words(words))
    assert not any(row("they", *pair)["ok"] for pair in parity_connectors.instructblip())
    monkeypatch.setattr(GatedCrossAttention, "forward", gated_by_sigmoid)
    assert not any(row("they", *pair)["ok"] for pair in parity_fusion.idefics())


def gated_by_sigmoid(self, hidden, visual):
    for gate in (self.attention_gate, self.mlp_gate):
        gate.data = gate.sigmoid().atanh()
    return LOOK(self, hidden, visual)
