"""The one skill that needs no network: back to the pose in which demonstrations begin, with an open hand.

From there a policy knows its way best, and the arm hides nothing from the cameras.
"""

import numpy as np

from vla.types import ActionChunk, Embodiment, Observation

SPEED = 0.3  # share of the fastest that a joint can move
NEAR = 0.1  # [rad] from the pose, for every joint but the gripper, is there


def way_back(
    observation: Observation, ready: np.ndarray, body: Embodiment, steps: int, decided: np.ndarray | None = None
) -> ActionChunk:
    """Lead all joints to the pose `ready` float[A] at once, the slowest setting the pace, the gripper going first.

    steps: of the chunk; decided: float[N, A], leading steps that are kept, and gone on from. `done` is 1 once the arm
    is there.
    """
    decided = np.zeros((0, len(ready))) if decided is None else decided[:steps]
    start = decided[-1] if len(decided) else np.asarray(observation.state, float)
    way, fastest = np.asarray(ready, float) - start, np.asarray(body.velocity_max) / body.control_hz
    count = np.arange(1, steps - len(decided) + 1)
    needed = max(1.0, (np.abs(way) / fastest)[:-1].max() / SPEED)
    path = start + np.minimum(count / needed, 1.0)[:, None] * way
    path[:, -1] = start[-1] + np.clip(way[-1], -count * fastest[-1], count * fastest[-1])
    away = np.abs(np.asarray(ready) - observation.state)[:-1].max()
    return ActionChunk(
        actions=np.concatenate([decided, path]).astype(np.float32),
        dt_s=1 / body.control_hz,
        time_s=observation.time_s,
        done=float(away < NEAR),
    )
