"""The command line: what it offers, and how it answers mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vla.cli import VERBS, quote_text


def vla(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the console script's module in a process of its own."""
    variables = {key: value for key, value in os.environ.items() if key not in ("VLA_DEBUG", "HYDRA_FULL_ERROR")}
    command = [sys.executable, "-m", "vla.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables | environment, check=False)


def test_vla_alone_prints_every_verb_on_a_line_of_its_own() -> None:
    done = vla()
    assert done.returncode == 0
    for name, verb in VERBS.items():
        assert f"{name} {' ' * (8 - len(name))}{verb.does}" in done.stdout


def test_bench_alone_prints_every_bench() -> None:
    done = vla("bench")
    assert done.returncode == 0
    assert "\n  sim " in done.stdout and "\n  policy " in done.stdout


@pytest.mark.parametrize(
    "arguments, answer",
    [
        (["evl"], "vla has no verb 'evl', did you mean 'eval'?; possible: demo, collect, train, eval, bench"),
        (["bench", "smi"], "no bench 'smi', did you mean 'sim'?; possible: policy, sim"),
        (["bench", "seed=1"], "Available options: policy sim"),
        (["bench", "sim", "sed=1"], "no key 'sed', did you mean 'seed'?; possible: seed, out"),
        (["bench", "policy", "bench.cals=9"], "no key 'bench.cals', did you mean 'bench.calls'?"),
        (["bench", "policy", "bench.calls=many"], "bench.calls=many: must be a whole number; the default is 100"),
        (["bench", "sim", "fast"], "'fast' is not key=value"),
        (["bench", "sim", "seed=[1"], "cannot read 'seed=[1'"),
        (["bench", "sim", "seed=1,2"], "add --multirun"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line_with_what_is_possible(arguments: list[str], answer: str) -> None:
    done = vla(*arguments)
    assert done.returncode == 2
    assert answer in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_wrong_value_that_the_verb_finds_is_one_message_and_debug_shows_where(tmp_path: Path) -> None:
    arguments = ["bench", "policy", "bench.calls=5", f"out={tmp_path}"]
    done, debug = vla(*arguments), vla(*arguments, VLA_DEBUG="1")
    assert done.returncode == 1
    assert "vla bench: calls=5 is too few for a 95th percentile; give at least 20" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in debug.stderr


def test_show_config_prints_keys_and_runs_nothing(tmp_path: Path) -> None:
    done = vla("bench", "policy", f"out={tmp_path / 'new'}", "--cfg", "job")
    assert "calls: 100" in done.stdout
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "key, given, passed_on",
    [
        ("instruction", "pick up the red cube, then open the drawer", '"pick up the red cube, then open the drawer"'),
        ("instruction", '"quoted, already"', '"quoted, already"'),
        ("instruction", 'say "no"', '"say \\"no\\""'),
        ("instruction", "", '""'),
        ("instruction", "null", "null"),
        ("out", "runs/lr=1 (a, b)", '"runs/lr=1 (a, b)"'),
    ],
)
def test_sentences_and_paths_are_taken_as_typed(key: str, given: str, passed_on: str) -> None:
    quoted = quote_text(f"{key}={given}")
    assert quoted == f"{key}={passed_on}"
    value = OverridesParser.create().parse_override(quoted).value()
    assert value == {"null": None, '"quoted, already"': "quoted, already"}.get(given, given)


def test_other_keys_are_left_to_the_grammar() -> None:
    assert quote_text("seed=1,2") == "seed=1,2"


@pytest.mark.slow
def test_a_multirun_writes_a_result_for_each_job(tmp_path: Path) -> None:
    done = vla("bench", "sim", "seed=1,2", f"out={tmp_path}", "--multirun")
    assert done.returncode == 0, done.stderr
    seeds = [json.loads((tmp_path / job / "result.json").read_text())["seed"] for job in ("0", "1")]
    assert seeds == [1, 2]
