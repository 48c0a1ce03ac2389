"""The scripted demonstrator: a feedback law from the true state of the world to joint targets.

What it does next follows from the present state alone (where the hand is, how far the jaws are open, where the
objects are), never from a clock or from what it did before. So it recovers from slips, drops and pushes by itself, and
two equal states always get the same action, which is what makes it learnable. Each action aims a short, limited way
ahead of the measured hand, so that the length of that step sets the speed.
"""

from dataclasses import dataclass

import numpy as np

from envs.tabletop import arm, scene
from envs.tabletop.goals import CLOSED, DIRECTIONS, PUSH_LINES, Goal, gap, is_in, is_on
from envs.tabletop.world import World

STEP_FREE, STEP_NEAR = 0.040, 0.020  # furthest target ahead of the hand [m]; about 0.24 and 0.12 m/s
JOINT_STEP, GRIPPER_STEP = 0.30, 0.20  # furthest joint target from the measured joint [rad], [1]
CLEAR_Z = 0.055  # the tip may move sideways above this height [m]
READY_OPENING = 0.33  # open enough to descend around an object
RELEASED = 0.06  # the jaws have let go when open by this much more than the object is wide
GAPS_M = (0.0, 0.015, 0.0305, 0.0457, 0.0601, 0.0729)  # between the tips, gripper at 0, 0.1, .. 0.5
PUSH_Z, HANDLE_Z = 0.014, 0.042
FINGERS_RADIUS = 0.011  # of the closed jaws [m]
PUSH_GAP_M = 0.014  # how close to push something next to something
PRESS_BELOW_M = 0.010  # target below the end of the travel, so that a hand that is a little too high presses too
STANDOFF_M = 0.018  # free space in which the hand comes down behind what it pushes
GRASP_FUNNEL, SHOVE_FUNNEL = (0.005, 0.012, 0.050), (0.012, 0.020, 0.055)  # low within the first, high beyond the last
OPEN_TO, CLOSE_TO = 0.92, CLOSED / 2


@dataclass(frozen=True)
class Hand:
    """The measured arm."""

    joints: np.ndarray  # float64[5] [rad]
    opening: float  # 0..1

    def at(self, offset: float = arm.TIP_SIDE) -> np.ndarray:
        """Return the tip, or another point between the jaws (see arm.ik_vertical), float64[3] [m]."""
        return arm.tip_position(self.joints, offset)


class Expert:
    """Turns the truth about the world into joint targets, and disturbs them on demand.

    `noise` 0..1 scales how often and how far `perturb` leads the arm astray.
    """

    def __init__(self, noise: float = 0.0, seed: int = 0):
        self.noise = noise
        self._rng = np.random.default_rng(seed)
        self._bias = np.zeros(6)
        self._bias_steps = 0

    def act(self, observation: tuple[World, Goal]) -> np.ndarray:
        """Return the joint targets float32[6] for the end of the next control period, in state units.

        `observation` is what `TabletopEnv.expert_observation` returns. Where nothing remains to be done, hold still.
        """
        world, goal = observation
        plan = {
            "pick": _pick,
            "place": _place,
            "stack": _place,
            "push": _push,
            "open": _open,
            "close": _close,
            "press": _press,
        }[goal.kind]
        return plan(world, goal, self.hand(world)).astype(np.float32)

    def hand(self, world: World) -> Hand:
        """Measure the arm."""
        state = arm.to_state(world.data.qpos[arm.joint_addresses(world.model)]).astype(np.float64)
        return Hand(state[:5], float(state[5]))

    def perturb(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the action float32[6] to execute instead, and whether it differs; `act` stays the label.

        Disturbances last some steps: a small drift, now and then a push of some 2-4 cm, seldom a jaw that opens or one
        that closes on nothing, which is what a missed grasp looks like.
        """
        if self.noise <= 0:
            return action, False
        if self._bias_steps == 0:
            self._draw_bias()
        self._bias_steps -= 1
        executed = action + self._bias
        if self._bias[5]:
            executed[5] = arm.OPEN if self._bias[5] > 0 else 0.0
        executed = np.clip(executed, arm.POSITION_MIN, arm.POSITION_MAX).astype(np.float32)
        return executed, bool(np.abs(executed - action).max() > 1e-6)

    def _draw_bias(self) -> None:
        """Draw the next disturbance and how long it lasts."""
        rng, kind = self._rng, self._rng.random()
        self._bias = np.zeros(6)
        if kind < 0.03 * self.noise:
            self._bias[5] = 1.0
            self._bias_steps = 5
        elif kind < 0.09 * self.noise:
            self._bias[5] = -1.0
            self._bias_steps = int(rng.integers(3, 7))
        elif kind < 0.16 * self.noise:
            direction = rng.normal(size=4)
            self._bias[:4] = 0.16 * direction / np.linalg.norm(direction)
            self._bias_steps = int(rng.integers(3, 6))
        elif kind < 0.5 * self.noise:
            self._bias[:5] = rng.normal(scale=[0.03, 0.03, 0.03, 0.03, 0.06])
            self._bias_steps = int(rng.integers(3, 9))
        else:
            self._bias_steps = int(rng.integers(4, 12))


def _pick(world: World, goal: Goal, hand: Hand) -> np.ndarray:
    """Grasp from above, lift straight up, hold it there."""
    if not _grips(world, goal.object, hand):
        return _grasp(world, goal.object, hand)
    return _move(hand, np.array([*hand.at()[:2], arm.TRAVEL_Z]), gripper=0.0)


def _place(world: World, goal: Goal, hand: Hand) -> np.ndarray:
    """Grasp, carry over the target, lower, let go, and retreat upwards."""
    thing, target = world.position(goal.object), world.position(goal.target)
    arrived = is_in if goal.kind == "place" else is_on
    if _grips(world, goal.object, hand):
        place = hand.at()
        place[:2] += target[:2] - thing[:2]
        low = place[2] - (thing[2] - world.items[goal.object].half_height) + _release_height(world, goal)
        if np.linalg.norm(place[:2] - hand.at()[:2]) < 0.005 and hand.at()[2] < low + 0.004:
            return _move(hand, np.array([*place[:2], low]), gripper=arm.OPEN)
        return _approach(hand, place[:2], low, gripper=0.0)
    if not arrived(world, goal.object, goal.target):
        return _grasp(world, goal.object, hand)
    if hand.opening < opening_around(world, goal.object) + RELEASED and hand.at()[2] < thing[2] + 0.02:
        return _move(hand, hand.at(), gripper=arm.OPEN)
    return _move(hand, np.array([*thing[:2], arm.TRAVEL_Z]), gripper=arm.OPEN, offset=arm.WIDE_SIDE)


def _push(world: World, goal: Goal, hand: Hand) -> np.ndarray:
    """Descend behind the object with closed jaws, push it as far as it should go, and retreat upwards."""
    thing = world.position(goal.object)[:2]
    if goal.target:
        way = world.position(goal.target)[:2] - thing
        direction = way / np.linalg.norm(way)
        arrived = gap(world, goal.object, goal.target) < PUSH_GAP_M
    else:
        direction = np.array(DIRECTIONS[goal.side])
        arrived = np.dot(thing, direction) > PUSH_LINES[goal.side]
    radius = world.items[goal.object].half_size + FINGERS_RADIUS
    return _shove(hand, thing, direction, radius, low=PUSH_Z, arrived=bool(arrived))


def _close(world: World, goal: Goal, hand: Hand) -> np.ndarray:
    """Descend on the outer side of the handle with closed jaws, push the drawer in, and retreat upwards."""
    radius = scene.HANDLE_HALF[0] + FINGERS_RADIUS
    arrived = world.drawer_opening < CLOSE_TO
    return _shove(hand, world.handle_position[:2], np.array([1.0, 0.0]), radius, low=HANDLE_Z, arrived=arrived)


def _open(world: World, goal: Goal, hand: Hand) -> np.ndarray:
    """Descend with one jaw on either side of the handle, pull the drawer out, and retreat upwards."""
    handle = world.handle_position
    pan = arm.ik_vertical(handle[0], handle[1], HANDLE_Z)[0]
    roll = float(np.clip(arm.ROLL_ZERO + np.pi + pan, arm.JOINT_MIN[4], arm.JOINT_MAX[4]))  # jaws open along -x
    if world.drawer_opening > OPEN_TO:
        return _move(hand, np.array([*handle[:2], arm.TRAVEL_Z]), gripper=arm.OPEN, roll=roll)
    here = hand.at()
    behind = here[0] - handle[0]
    if -0.020 < behind < 0.012 and abs(here[1] - handle[1]) < 0.015 and here[2] < HANDLE_Z + 0.012:
        return _move(hand, np.array([here[0] - STEP_NEAR, handle[1], HANDLE_Z]), gripper=arm.OPEN, roll=roll)
    return _approach(hand, handle[:2], HANDLE_Z, gripper=arm.OPEN, roll=roll, clear=arm.TRAVEL_Z - 0.01)


def _press(world: World, goal: Goal, hand: Hand) -> np.ndarray:
    """Descend on the button with closed jaws, and keep it pressed."""
    top = world.button_position[2] + world.button_travel * scene.BUTTON_TRAVEL
    low = top - scene.BUTTON_TRAVEL - PRESS_BELOW_M + arm.TIP_TO_END
    return _approach(hand, world.button_position[:2], low, gripper=0.0, offset=arm.CLOSED_SIDE)


def _grasp(world: World, name: str, hand: Hand) -> np.ndarray:
    """Descend around the object with open jaws; close them when it is between them."""
    thing = world.position(name)
    low = float(thing[2]) + 0.002
    if between(world, name, hand):
        return _move(hand, np.array([*hand.at()[:2], low]), gripper=0.0)
    if hand.opening < READY_OPENING:
        low += 0.03  # do not come down on the object with closed jaws
    return _approach(hand, thing[:2], low, gripper=arm.OPEN, offset=arm.WIDE_SIDE)


def _shove(
    hand: Hand, thing: np.ndarray, direction: np.ndarray, radius: float, low: float, arrived: bool
) -> np.ndarray:
    """Push something at float64[2] along a unit vector with the closed jaws; `radius` [m] is where they touch it.

    The hand comes down at a distance first: a place it cannot see is not met exactly, and too high it would slide over.
    """
    behind = thing - (radius + STANDOFF_M) * direction
    here = hand.at(arm.CLOSED_SIDE)
    if arrived:
        return _move(hand, np.array([*behind, arm.TRAVEL_Z]), gripper=0.0, offset=arm.CLOSED_SIDE)
    along = float(np.dot(here[:2] - thing, direction))
    aside = here[:2] - thing - along * direction
    if here[2] < low + 0.016 and np.linalg.norm(aside) < 0.016 and -radius - STANDOFF_M - 0.016 < along < 0:
        lowered = np.clip((low + 0.012 - here[2]) / 0.008, 0, 1)
        ahead = here[:2] + STEP_NEAR * lowered * direction - aside
        return _move(hand, np.array([*ahead, low]), gripper=0.0, offset=arm.CLOSED_SIDE)
    return _approach(hand, behind, low, gripper=0.0, offset=arm.CLOSED_SIDE, funnel=SHOVE_FUNNEL)


def _approach(
    hand: Hand,
    place: np.ndarray,
    low: float,
    gripper: float,
    offset: float = arm.TIP_SIDE,
    roll: float = arm.ROLL_SIDEWAYS,
    clear: float = CLEAR_Z,
    funnel: tuple[float, float, float] = GRASP_FUNNEL,
) -> np.ndarray:
    """Rise above `clear`, travel to float64[2] and descend to `low` [m] in a funnel: the closer, the lower."""
    here = hand.at(offset)
    way = _reachable(np.array([*place, here[2]]))[:2] - here[:2]
    distance = float(np.linalg.norm(way))
    height = low + float(np.interp(distance, funnel, [0.0, 0.045, max(arm.TRAVEL_Z - low, 0.045)]))
    if distance > funnel[1]:
        way = way * np.clip((here[2] - clear + 0.02) / 0.02, 0, 1)
        height = max(height, clear + 0.01)
    return _move(hand, np.array([*(here[:2] + way), height]), gripper, offset, roll)


def _move(
    hand: Hand,
    goal: np.ndarray,
    gripper: float,
    offset: float = arm.TIP_SIDE,
    roll: float = arm.ROLL_SIDEWAYS,
) -> np.ndarray:
    """Return joint targets float64[6] a limited step from the measured hand towards the point float64[3] [m]."""
    here = hand.at(offset)
    way = goal - here
    step = float(np.interp(np.linalg.norm(way), [STEP_NEAR, 0.08], [STEP_NEAR, STEP_FREE]))
    flat = max(float(np.linalg.norm(way[:2])), 1e-9)
    point = here + np.array([*(way[:2] * min(1, step / flat)), np.clip(way[2], -step, step)])
    roll = hand.joints[4] + np.clip(roll - hand.joints[4], -JOINT_STEP, JOINT_STEP)
    turn = arm.ik_vertical(*_reachable(point), roll=roll, offset=offset) - hand.joints
    turn *= min(1.0, JOINT_STEP / np.abs(turn).max())
    gripper = hand.opening + np.clip(gripper - hand.opening, -GRIPPER_STEP, GRIPPER_STEP)
    return np.clip([*(hand.joints + turn), gripper], arm.POSITION_MIN, arm.POSITION_MAX)


def _reachable(point: np.ndarray) -> np.ndarray:
    """Return the nearest point float64[3] that the hand can go to, for targets after a disturbance."""
    height = float(np.clip(point[2], 0.004, 0.110))
    ahead, left = point[0] - arm.PAN_X, point[1]
    nearest = 0.085 + 0.65 * max(0.0, height - 0.05)
    distance = np.clip(np.hypot(ahead, left), nearest, 0.310)
    azimuth = np.clip(np.arctan2(left, ahead), -1.7, 1.7)
    return np.array([arm.PAN_X + distance * np.cos(azimuth), distance * np.sin(azimuth), height])


def opening_around(world: World, name: str) -> float:
    """Return the gripper opening 0..1 at which the jaws touch the object."""
    return float(np.interp(2 * world.items[name].half_size, GAPS_M, np.linspace(0, 0.5, len(GAPS_M))))


def _grips(world: World, name: str, hand: Hand) -> bool:
    """Say whether the jaws are closed on the object."""
    return hand.opening < opening_around(world, name) + 0.03 and between(world, name, hand, slack=0.006)


def between(world: World, name: str, hand: Hand, slack: float = 0.0) -> bool:
    """Say whether the object lies between the jaws, `slack` [m] more or less, so that closing them grasps it."""
    half = world.items[name].half_size
    way = world.position(name) - hand.at()
    opening = arm.opening_direction(hand.joints)
    along = float(np.dot(way[:2], opening)) + 0.0125  # from the fixed jaw's face to the object's centre
    across = float(np.linalg.norm(way[:2] - np.dot(way[:2], opening) * opening))
    space = float(np.interp(hand.opening, np.linspace(0, 0.5, len(GAPS_M)), GAPS_M))
    if not half - 0.005 - slack < along < space - half + 0.006 + slack:
        return False
    return across < 0.008 + slack and abs(way[2]) < 0.007 + slack


def _release_height(world: World, goal: Goal) -> float:
    """Return the height of the object's underside at which to let go [m]."""
    target = world.items[goal.target]
    place = world.position(goal.target)[2]
    if target.shape == "bowl":
        return float(place) + 0.018  # the jaws stay above the rim
    if target.shape == "plate":
        return float(place) + scene.PLATE_HEIGHT + 0.003
    return float(place) + target.half_height + 0.002
