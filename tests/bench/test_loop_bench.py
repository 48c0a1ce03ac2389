"""The loop's bench tells even ticks from uneven ones, and reports every loop."""

import shutil

import numpy as np
import pytest

from envs.tabletop import arm
from vla.bench.loop import compile_c, measure, period_errors, run_c


def test_even_ticks_have_no_error():
    errors = period_errors(5.0 + np.arange(1000) / 100, 100.0)
    assert errors["max_us"] == pytest.approx(0.0, abs=1e-3)
    assert errors["missed"] == 0 and errors["drift_us"] == pytest.approx(0.0, abs=1e-3)


def test_a_late_tick_a_missed_one_and_drift_are_told_apart():
    woke_s = np.arange(1000) / 100
    woke_s[500] += 0.002
    errors = period_errors(woke_s, 100.0)
    assert errors["max_us"] == pytest.approx(2000) and errors["p50_us"] == pytest.approx(0, abs=1e-3)
    assert period_errors(np.delete(woke_s, 700), 100.0)["missed"] == 1
    slow = period_errors(np.arange(1000) * 0.0101, 100.0)
    assert slow["drift_us"] == pytest.approx(99_900) and slow["missed"] == 0


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_loop_in_c_keeps_its_deadlines(tmp_path):
    woke_s = run_c(compile_c(tmp_path), 200.0, 40)
    assert len(woke_s) == 40
    assert (woke_s >= np.arange(40) / 200 - 1e-6).all()  # never early
    assert (np.diff(woke_s) >= 0).all()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_every_loop_is_reported_idle_and_loaded():
    result = measure(seed=0, rates=[50], seconds=0.2, body=arm.embodiment_limits(), drift_seconds=0.3)
    assert result["drift"]["seconds"] == 0.3 and {"drift_us", "p99_us", "missed"} <= set(result["drift"])
    row = result["rates"]["50"]
    assert {
        "idle",
        "loaded",
        "loaded_by_process",
        "c",
        "c_idle",
        "lerobot_idle",
        "openpi_loaded",
        "loaded_p99_to_c",
    } <= set(row)
    for name in ("idle", "loaded", "loaded_by_process", "c"):
        assert {"p50_us", "p99_us", "p999_us", "max_us", "missed"} <= set(row[name])
        assert 0 <= row[name]["p50_us"] <= row[name]["p99_us"] <= row[name]["max_us"]
