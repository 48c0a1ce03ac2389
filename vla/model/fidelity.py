"""How much one policy differs from another: joint targets, answers, the time that a chunk takes.

N frames, T action horizon, A action dimension.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm, trange

from vla.model.looks import Look
from vla.model.policy import VLAPolicy


def compare(reference: VLAPolicy, candidate: VLAPolicy, looks: Sequence[Look]) -> dict[str, Any]:
    """Ask both the same and return `action_error` and `answers`.

    action_error: mean, 99th percentile and maximum over all frames, steps and joints of the difference of targets
    [rad], `first_step_mean_rad` of the step that is executed in any case, and mean and maximum of the gripper's [0..1].
    """
    chunks, answers = [], []
    for look in tqdm(looks, desc="compare", unit="frame", leave=False):
        chunks.append([policy.act([look.observation])[0].actions for policy in (reference, candidate)])
        for question in look.questions:
            pair = [policy.generate([look.observation], [question], 2)[0] for policy in (reference, candidate)]
            answers.append(pair[0] == pair[1])
    ours, theirs = np.stack(chunks, axis=1).astype(np.float64)  # float[N, T, A] each
    error = np.abs(ours - theirs)
    return {
        "frames": len(looks),
        "action_error": {
            "mean_rad": error[..., :-1].mean(),
            "p99_rad": np.percentile(error[..., :-1], 99),
            "max_rad": error[..., :-1].max(),
            "first_step_mean_rad": error[:, 0, :-1].mean(),
            "gripper_mean": error[..., -1].mean(),
            "gripper_max": error[..., -1].max(),
        },
        "answers": {"asked": len(answers), "changed": answers.count(False)},
    }


def latencies_ms(policies: Sequence[VLAPolicy], looks: Sequence[Look], calls: int) -> list[dict[str, float]]:
    """Time `calls` chunks of each policy, in turns, so that whatever else the machine does is shared fairly."""
    seconds = np.empty((calls, len(policies)))
    for call in trange(-5, calls, desc="time", unit="chunk", leave=False):
        for number, policy in enumerate(policies):
            start = time.perf_counter()
            policy.act([looks[call % len(looks)].observation])
            if call >= 0:  # the first ones warm up
                seconds[call, number] = time.perf_counter() - start
    return [{"p50": p50 * 1e3, "p95": p95 * 1e3} for p50, p95 in np.percentile(seconds, [50, 95], axis=0).T]
