"""The simulator's bench reports what the issue asks for, consistently."""

from envs.tabletop.bench import measure


def test_measure_reports_speed_and_likeness():
    result = measure(seed=0, seconds=0.5, size=64)
    assert set(result) == {
        "control_steps_per_s",
        "ratio_to_mujoco_renderer",
        "ratio_to_shadowless_renderer",
        "psnr_db",
        "limit_control_steps_per_s",
    }
    assert result["limit_control_steps_per_s"] > result["control_steps_per_s"] > 0
    assert result["ratio_to_mujoco_renderer"] > result["ratio_to_shadowless_renderer"]
    assert result["psnr_db"] >= 35
