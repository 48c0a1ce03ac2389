"""The record of a verb."""

import json
from pathlib import Path

import numpy as np
import pytest

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
