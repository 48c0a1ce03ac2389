"""The SO-101 arm: names, limits, servo behaviour, forward and inverse kinematics of a gripper that points down.

Frame: origin at the arm base on the table top, x forward, y left, z up [m]. Joint vectors follow `JOINTS` [rad], except
that the gripper, last, runs from 0 (closed) to 1 (open) wherever it leaves this file.

In the vertical plane of the arm, measured from the pan axis: the shoulder lifts at (`SHOULDER_R`, `SHOULDER_Z`), the
upper arm reaches `UPPER`, the forearm `LOWER`, the hand `HAND` down to the tip site; the tip lies `TIP_SIDE` beside the
roll axis, in the middle of a 25 mm object held by the jaws.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

MJCF = Path(__file__).parent / "so101.xml"
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
BODIES = ("arm_base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "moving_jaw", "moving_finger")
FIXED_JAW_GEOMS = ("fixed_jaw", "fixed_jaw_root")
MOVING_JAW_GEOMS = ("moving_jaw", "moving_jaw_root")
GRIPPER_GEOMS = (*FIXED_JAW_GEOMS, *MOVING_JAW_GEOMS, "palm")  # everything of the arm that collides
TIP_SITE = "tip"
WRIST_CAMERA = "wrist"

JOINT_MIN = np.array([-1.91986, -1.74533, -1.69, -1.65806, -2.74385, -0.174533])  # published [rad]
JOINT_MAX = np.array([1.91986, 1.74533, 1.69, 1.65806, 2.84121, 1.74533])
POSITION_MIN = np.array([*JOINT_MIN[:5], 0.0])  # the same in state units, gripper 0..1
POSITION_MAX = np.array([*JOINT_MAX[:5], 1.0])
# STS3215 at 12 V: 45 rpm without load, and what 2.94 N.m can do to its own armature and the arm. The gripper is in
# 1/s, 1/s^2, 1/s^3.
VELOCITY_MAX = np.array([4.7, 4.7, 4.7, 4.7, 4.7, 2.45])  # [rad/s]
ACCELERATION_MAX = np.array([80.0, 80.0, 80.0, 80.0, 80.0, 40.0])  # [rad/s^2]
JERK_MAX = np.array([2400.0, 2400.0, 2400.0, 2400.0, 2400.0, 1200.0])  # [rad/s^3]

PAN_X = 0.0388353  # the pan axis lies this far in front of the origin [m]
SHOULDER_R, SHOULDER_Z = 0.0303992, 0.1166
UPPER = math.hypot(0.028, 0.11257)
LOWER = math.hypot(0.1349, 0.0052)
UPPER_ANGLE = math.atan2(0.11257, 0.028)  # of the upper arm above the horizontal at joint zero [rad]
LOWER_ANGLE = math.atan2(0.0052, 0.1349)
HAND = 0.0611 + 0.098  # wrist flex axis to tip, along the approach direction [m]
TIP_SIDE = 0.011  # roll axis to tip, along the opening direction of the jaws [m]
CLOSED_SIDE = -0.0015  # roll axis to the middle of the closed jaws, likewise [m]
WIDE_SIDE = 0.0245  # roll axis to the place between open jaws where an object to grasp should be [m]
TIP_TO_END = 0.0065  # the fingers end this far below the tip [m]
ROLL_ZERO = 0.0487  # roll at which the jaws open in the plane of the arm, outwards [rad]
ROLL_SIDEWAYS = ROLL_ZERO + math.pi / 2  # jaws open sideways, the moving jaw to the left: what all grasps use [rad]
TILT_MAX = math.radians(30)  # the hand may lean forward by up to this much where it must [rad]
STRETCH = 0.995  # of the full length of the arm that inverse kinematics may use


@dataclass(frozen=True)
class Unreachable(ValueError):
    """Say which tip pose was asked for and what kept the arm from it."""

    x: float
    y: float
    z: float
    reason: str

    def __str__(self) -> str:
        return (
            f"tip at x={self.x:.3f} y={self.y:.3f} z={self.z:.3f} m is out of reach: {self.reason}; "
            "at table height radii of 0.08 to 0.33 m around the pan axis are possible, ask for a place in that ring"
        )


def ik_vertical(x: float, y: float, z: float, roll: float = ROLL_SIDEWAYS, offset: float = TIP_SIDE) -> np.ndarray:
    """Return joints float64[5] [rad] that put the tip at (x, y, z) [m] with the gripper pointing down.

    `roll` is the wrist roll joint [rad]. `offset` [m] moves another point than the tip there: one that lies this far
    from the roll axis along the opening direction of the jaws, for example `CLOSED_SIDE`. Where the arm is too short
    (far out) or the wrist cannot bend enough (high up) the hand leans outwards by the smallest tilt that gets there,
    at most `TILT_MAX`; beyond that raises `Unreachable`.
    """
    side = offset * math.sin(roll - ROLL_ZERO)
    along = offset * math.cos(roll - ROLL_ZERO)
    distance = math.hypot(x - PAN_X, y)
    if distance < abs(side) + 1e-6:
        raise Unreachable(x, y, z, "it is on the pan axis")
    pan = math.asin(side / distance) - math.atan2(y, x - PAN_X)
    radius = math.sqrt(distance**2 - side**2) - SHOULDER_R  # of the tip from the shoulder, in the plane of the arm
    height = z - SHOULDER_Z
    tilt = _tilt_to_reach(radius, height, along)
    wrist_r = radius - along * math.cos(tilt) - HAND * math.sin(tilt)
    wrist_z = height - along * math.sin(tilt) + HAND * math.cos(tilt)
    lift, flex = _two_links(wrist_r, wrist_z, LOWER, LOWER_ANGLE)
    wrist = math.pi / 2 - tilt - lift - flex
    if wrist > JOINT_MAX[3]:  # bend it as far as it goes: forearm and hand are then one rigid link
        wrist = JOINT_MAX[3]
        end_r = LOWER * math.cos(LOWER_ANGLE) + HAND * math.cos(-wrist) - along * math.sin(-wrist)
        end_z = LOWER * math.sin(LOWER_ANGLE) + HAND * math.sin(-wrist) + along * math.cos(-wrist)
        lift, flex = _two_links(radius, height, math.hypot(end_r, end_z), math.atan2(end_z, end_r))
        tilt = math.pi / 2 - lift - flex - wrist
    joints = np.array([pan, lift, flex, wrist, roll])
    outside = (joints < JOINT_MIN[:5]) | (joints > JOINT_MAX[:5]) | np.isnan(joints)
    if outside.any():
        names = ", ".join(f"{JOINTS[i]}={joints[i]:.2f}" for i in np.flatnonzero(outside))
        raise Unreachable(x, y, z, f"joint limits, {names} rad")
    if not -1e-9 <= tilt <= TILT_MAX:
        raise Unreachable(x, y, z, f"the hand would have to lean by {math.degrees(tilt):.0f} degrees")
    return joints


def _two_links(radius: float, height: float, length: float, angle: float) -> tuple[float, float]:
    """Return shoulder lift and elbow flex [rad], elbow up, that put the end of the second link at (radius, height) [m].

    The second link is `length` [m] long and points `angle` [rad] above the horizontal at joint zero; NaN out of reach.
    """
    reach = math.hypot(radius, height)
    cos_bend = (reach**2 - UPPER**2 - length**2) / (2 * UPPER * length)
    if abs(cos_bend) > 1:
        return math.nan, math.nan
    bend = math.acos(cos_bend)
    upper = math.atan2(height, radius) + math.atan2(length * math.sin(bend), UPPER + length * math.cos(bend))
    lift = UPPER_ANGLE - upper
    return lift, angle - (upper - bend) - lift


def _tilt_to_reach(radius: float, height: float, along: float) -> float:
    """Return the smallest outward lean [rad] that brings the wrist within the arm's length, NaN if none does.

    `radius` and `height` [m] of the tip are measured from the shoulder in the plane of the arm.
    """
    limit = STRETCH * (UPPER + LOWER)
    if math.hypot(radius - along, height + HAND) <= limit:
        return 0.0
    # The wrist lies on a circle around the tip; the law of cosines gives where it crosses the shoulder's reach.
    hand, distance = math.hypot(HAND, along), math.hypot(radius, height)
    cos_angle = (hand**2 + distance**2 - limit**2) / (2 * hand * distance)
    if abs(cos_angle) > 1:
        return math.nan
    to_shoulder = math.atan2(-height, -radius) % (2 * math.pi)
    upright = math.atan2(HAND, -along)  # direction from the tip to the wrist when the hand points down
    return to_shoulder - math.acos(cos_angle) - upright


def tip_position(joints: np.ndarray, offset: float = TIP_SIDE) -> np.ndarray:
    """Return the tip float64[3] [m], or the point at `offset` as in `ik_vertical`, for joints float[5+] [rad]."""
    pan, lift, flex, wrist, roll = (float(value) for value in joints[:5])
    upper = UPPER_ANGLE - lift
    lower = LOWER_ANGLE - lift - flex
    nose = -(lift + flex + wrist)  # of the approach direction above the horizontal
    side = offset * math.sin(roll - ROLL_ZERO)
    along = offset * math.cos(roll - ROLL_ZERO)
    radius = SHOULDER_R + UPPER * math.cos(upper) + LOWER * math.cos(lower)
    radius += HAND * math.cos(nose) - along * math.sin(nose)
    height = SHOULDER_Z + UPPER * math.sin(upper) + LOWER * math.sin(lower)
    height += HAND * math.sin(nose) + along * math.cos(nose)
    cos, sin = math.cos(-pan), math.sin(-pan)
    return np.array([PAN_X + radius * cos - side * sin, radius * sin + side * cos, height])


def opening_direction(joints: np.ndarray) -> np.ndarray:
    """Return the unit vector float64[2] in the table plane along which the moving jaw opens, gripper pointing down."""
    yaw = float(joints[4]) - ROLL_ZERO - float(joints[0])
    return np.array([math.cos(yaw), math.sin(yaw)])


def to_state(positions: np.ndarray) -> np.ndarray:
    """Turn joint positions float[..., 6] [rad] into state units float32[..., 6], gripper 0..1."""
    state = np.array(positions, dtype=np.float64)
    state[..., 5] = (state[..., 5] - JOINT_MIN[5]) / (JOINT_MAX[5] - JOINT_MIN[5])
    return state.astype(np.float32)


def from_state(state: np.ndarray) -> np.ndarray:
    """Invert `to_state`: state units float[..., 6] to joint positions float64[..., 6] [rad]."""
    positions = np.array(state, dtype=np.float64)
    positions[..., 5] = JOINT_MIN[5] + positions[..., 5] * (JOINT_MAX[5] - JOINT_MIN[5])
    return positions


def servo_ramp(previous: np.ndarray, action: np.ndarray, substeps: int, dt_s: float) -> np.ndarray:
    """Return the servo targets float64[substeps, 6] [rad] that lead from the previous target to the action.

    `previous` float[6] [rad] is the target at the end of the last control period, `action` float[6] is in state units.
    Like the servo's own profile, targets move evenly over the period and never faster than `VELOCITY_MAX`.
    """
    goal = np.clip(from_state(action), JOINT_MIN, JOINT_MAX)
    fastest = VELOCITY_MAX * dt_s * substeps
    fastest[5] *= JOINT_MAX[5] - JOINT_MIN[5]
    step = np.clip(goal - previous, -fastest, fastest) / substeps
    return previous + np.arange(1, substeps + 1)[:, None] * step


def joint_addresses(model: mujoco.MjModel) -> np.ndarray:
    """Return int[6], where the arm's joints lie in qpos; velocities lie at the same joints' `jnt_dofadr`."""
    return np.array([model.joint(name).qposadr[0] for name in JOINTS])


def actuator_addresses(model: mujoco.MjModel) -> np.ndarray:
    """Return int[6], where the arm's servos lie in ctrl."""
    return np.array([model.actuator(name).id for name in JOINTS])


def embodiment_limits() -> dict:
    """Return names and limits in state units, the part of the embodiment that the arm knows."""
    return {
        "name": "so101",
        "joints": list(JOINTS),
        "position_min": POSITION_MIN.tolist(),
        "position_max": POSITION_MAX.tolist(),
        "velocity_max": VELOCITY_MAX.tolist(),
        "acceleration_max": ACCELERATION_MAX.tolist(),
        "jerk_max": JERK_MAX.tolist(),
    }


OPEN = 0.4  # how far the gripper opens for grasps: 60 mm between the tips
TRAVEL_Z = 0.09  # height of the tip above the table when it moves freely [m]
HOME = np.array([*ik_vertical(0.19, 0.0, TRAVEL_Z), OPEN])  # where every episode starts, in state units float64[6]
