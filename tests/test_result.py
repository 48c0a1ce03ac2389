"""The record of a verb."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vla import result
from vla.result import write_result


def test_values_come_back_and_replace_those_of_an_earlier_run(tmp_path: Path) -> None:
    write_result(tmp_path / "a" / "b", old=1)
    path = write_result(tmp_path / "a" / "b", rate=np.float32(0.5), ci95=np.array([0.25, 0.75]), video=Path("x.mp4"))
    assert json.loads(path.read_text()) == {"rate": 0.5, "ci95": [0.25, 0.75], "video": "x.mp4"}
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("value", [float("nan"), np.float64("inf"), object()])
def test_what_json_cannot_say_is_refused_and_the_earlier_record_stays(tmp_path: Path, value: object) -> None:
    path = write_result(tmp_path, good=1)
    with pytest.raises((ValueError, TypeError)):
        write_result(tmp_path, bad=value)
    assert json.loads(path.read_text()) == {"good": 1}


def test_a_copy_outside_of_its_repository_does_not_take_the_commit_of_another(tmp_path: Path) -> None:
    package = tmp_path / "venv" / "vla"
    package.mkdir(parents=True)
    shutil.copy(str(result.__file__), package / "result.py")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another project"], check=True)

    def said() -> str:
        asked = [sys.executable, "-c", "from result import commit; print(commit())"]
        return subprocess.run(asked, cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    assert said() == "unknown"
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "its own"], check=True)
    assert re.fullmatch(r"[0-9a-f]{40}", said())
    (package / "result.py").write_text((package / "result.py").read_text() + "# changed\n")
    assert re.fullmatch(r"[0-9a-f]{40}-dirty", said())
