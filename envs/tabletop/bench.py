"""Measures a control step of the tabletop with two cameras against `mujoco.Renderer` and against physics alone."""

import time
from collections.abc import Callable

import mujoco
import numpy as np

from envs.tabletop import arm, scene
from envs.tabletop.env import TabletopEnv

_ROUNDS = 5  # at least; every round times every variant once, in turn


def measure(seed: int, seconds: float, size: int = 128) -> dict[str, float]:
    """Return speeds and likeness of rendering, medians over interleaved rounds.

    One control step is the physics of 0.1 s and one frame of each of two cameras, size x size; all on one thread.

    control_steps_per_s: this renderer, by `TabletopEnv.step`. ratio_to_mujoco_renderer: against the same physics drawn
    by `mujoco.Renderer` with its defaults. ratio_to_shadowless_renderer: and with its shadows off. psnr_db: this image
    against that shadowless one, the worse camera. limit_control_steps_per_s: physics alone. seconds: the time to spend.
    """
    env = TabletopEnv(kinds=("place",), image_size={"front": (size, size), "wrist": (size, size)})
    observation, _ = env.reset(seed=seed)
    action = observation["agent_pos"]
    theirs = mujoco.Renderer(env.model, size, size)
    shadow = int(mujoco.mjtRndFlag.mjRND_SHADOW)

    def physics() -> None:
        for target in arm.servo_ramp(arm.from_state(action), action, scene.SUBSTEPS, scene.TIMESTEP_S):
            env.data.ctrl[:] = target
            mujoco.mj_step(env.model, env.data)

    def reference(shadows: bool) -> dict[str, np.ndarray]:
        theirs.scene.flags[shadow] = shadows
        frames = {}
        for camera in env.sizes:
            theirs.update_scene(env.data, camera)
            frames[camera] = theirs.render()
        return frames

    def step_with(shadows: bool) -> Callable[[], None]:
        def step() -> None:
            physics()
            reference(shadows)

        return step

    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: env.step(action),
        "defaults": step_with(True),
        "shadowless": step_with(False),
        "limit": physics,
    }
    period_s = _time_rounds(variants, seconds)
    likeness = min(_psnr_db(env.observe()["pixels"][name], frame) for name, frame in reference(False).items())
    theirs.close()
    env.close()
    return {
        "control_steps_per_s": 1 / period_s["ours"],
        "ratio_to_mujoco_renderer": period_s["defaults"] / period_s["ours"],
        "ratio_to_shadowless_renderer": period_s["shadowless"] / period_s["ours"],
        "psnr_db": likeness,
        "limit_control_steps_per_s": 1 / period_s["limit"],
    }


def _time_rounds(variants: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Run the variants in turn until the time is up; return the median time of each [s]."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    end = time.perf_counter() + seconds
    for call in variants.values():
        call()  # the first call loads and compiles
    while time.perf_counter() < end or len(times["ours"]) < _ROUNDS:
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def _psnr_db(image: np.ndarray, reference: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images [dB], 100 for equal ones."""
    error = np.mean((image.astype(np.float64) - reference) ** 2)
    return 100.0 if error == 0 else float(min(100.0, 10 * np.log10(255**2 / error)))
