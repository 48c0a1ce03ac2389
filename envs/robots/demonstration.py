"""One demonstration of the scripted expert on the tabletop, as a path of joint targets with what it achieved."""

from typing import Any, NamedTuple

import numpy as np

from envs.tabletop.env import TabletopEnv
from envs.tabletop.expert import Expert
from envs.tabletop.scene import CONTROL_HZ

LONGEST_S = 20.0


class Demonstration(NamedTuple):
    """What the expert did, one row a control step."""

    targets: np.ndarray  # float32[N, 6] joint targets [rad], gripper 0..1
    joints: np.ndarray  # float32[N, 6] measured when the target was given
    lifted: np.ndarray  # bool[N], whether the object was held above the table


def demonstrate(seed: int, instruction: str, **world: Any) -> Demonstration:
    """Let the expert carry out one instruction in the scene of a seed; raises ValueError where it does not succeed."""
    env, expert = TabletopEnv(cameras=[], **world), Expert()
    _, info = env.reset(seed=seed, options={"instruction": instruction})
    targets, joints, lifted = [], [], []
    while not info["is_success"]:
        if len(targets) >= LONGEST_S * CONTROL_HZ:
            raise ValueError(f"the expert does not {instruction!r} in scene {seed} within {LONGEST_S:.0f} s")
        joints.append(env.joints())
        scene, goal = env.expert_observation()
        height_m = scene.position(goal.object)[2] - scene.items[goal.object].half_height
        lifted.append(scene.held() == goal.object and height_m > 0.03)
        targets.append(expert.act((scene, goal)))
        *_, info = env.step(targets[-1])
    env.close()
    return Demonstration(np.array(targets), np.array(joints), np.array(lifted))
