"""The command line: what it offers, and how it answers mistakes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vla.cli import SYSTEM_LIBRARIES, VERBS, check, quote_text, run
from vla.evaluate.workers import WorkerCrash

BENCHES = sorted(path.stem for path in (Path(__file__).parent.parent / "configs" / "bench").glob("*.yaml"))


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
    for name in BENCHES:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    "arguments, answer",
    [
        (["bench", "smi"], f"no bench 'smi', did you mean 'sim'?; possible: {', '.join(BENCHES)}"),
        (["bench", "seed=1"], f"Available options: {' '.join(BENCHES)}"),
        (["bench", "sim", "sed=1"], "no key 'sed', did you mean 'seed'?; possible: seed, out"),
        (["bench", "policy", "calls=many"], "bench.calls=many: must be a whole number; the default is 100"),
        (["bench", "policy", "bench.cals=9"], "no key 'bench.cals', did you mean 'bench.calls'?"),
        (["bench", "policy", "bench.calls=many"], "bench.calls=many: must be a whole number; the default is 100"),
        (["bench", "sim", "fast"], "'fast' is not key=value"),
        (["deploy", "planner=chat", "planner.ulr=x"], "no key 'planner.ulr', did you mean 'planner.url'?"),
        (["eval", "~tasks.pik"], "no key 'tasks.pik', did you mean"),
        (["bench", "delay", "~tasks.pik"], "no key 'bench.tasks.pik', did you mean"),
        (["bench", "sim", "seed=[1"], "cannot read 'seed=[1'"),
        (["bench", "sim", "seed=1,2"], "add --multirun"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line_with_what_is_possible(
    arguments: list[str], answer: str, undisturbed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert answer in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_key_that_has_no_default_can_be_given() -> None:
    check("deploy", ["planner=chat", "planner.url=http://127.0.0.1:9/v1", "planner.model=any"])


@pytest.mark.parametrize("plus", ["+", "++"])
def test_a_key_can_be_added_as_hydra_has_it(plus: str) -> None:
    check("train", [f"{plus}model.connector={{name: linear}}"])


def test_a_wrong_verb_ends_the_process_with_one_line_and_code_2() -> None:
    done = vla("evl")
    assert done.returncode == 2
    assert done.stderr == f"vla: vla has no verb 'evl', did you mean 'eval'?; possible: {', '.join(VERBS)}\n"


class RoomError(RuntimeError):
    """An error that a room of ours words for people."""

    __module__ = "vla.room"


@pytest.fixture
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `run` find and leave this process as the console script's."""
    monkeypatch.setattr(sys, "argv", ["vla"])
    for name in ("VLA_DEBUG", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def failing(undisturbed: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run `vla bench sim` with a verb that raises the given error."""

    def run_it(error: BaseException) -> int:
        def main() -> None:
            raise error

        monkeypatch.setitem(sys.modules, VERBS["bench"].module, SimpleNamespace(main=main))
        return run(["bench", "sim"])

    return run_it


@pytest.mark.parametrize(
    "error", [ValueError("give at least 20"), FileNotFoundError("no such folder"), RoomError("another body")]
)
def test_an_error_worded_for_people_is_one_line(
    error: Exception, failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(error) == 1
    assert capsys.readouterr().err == f"vla bench: {error}\n"


def test_an_error_of_ours_shows_where(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(RuntimeError("a bug")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debugging_passes_every_error_on(
    failing: Callable[[BaseException], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLA_DEBUG", "1")
    with pytest.raises(ValueError, match="give at least 20"):
        failing(ValueError("give at least 20"))


def test_interrupting_is_no_error(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test's own process stays interruptible
    assert failing(KeyboardInterrupt()) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="Linux packages")
def test_a_failed_import_names_the_missing_system_library_and_its_package(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SYSTEM_LIBRARIES, "libNoSuch.so.1", "libnosuch1")
    message = "vla bench: missing system libraries libNoSuch.so.1: sudo apt-get install libnosuch1\n"
    for error in (ImportError("libNoSuch.so.1: cannot open shared object file"), WorkerCrash("Traceback ...")):
        assert failing(error) == 1
        assert capsys.readouterr().err == message


def test_of_what_raised_in_a_worker_people_read_what_was_said_to_them(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(WorkerCrash("Traceback ...\nWindowError: no display", told="no display")) == 1
    assert capsys.readouterr().err == "vla bench: no display\n"
    assert failing(WorkerCrash("Traceback ...\nKeyError: 3")) == 1
    assert "Traceback" in capsys.readouterr().err


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


def test_a_second_run_in_the_same_process_is_told_of_errors_as_the_first_was(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert failing(FileNotFoundError("no such camera")) == 1
        assert "no such camera" in capsys.readouterr().err
