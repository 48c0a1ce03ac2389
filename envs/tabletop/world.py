"""The privileged truth of one scene: where everything is, what touches what. Never shown to a policy."""

from dataclasses import dataclass

import mujoco
import numpy as np

from envs.tabletop import scene
from envs.tabletop.lamp import Lamp

FINGERS = ("fixed_jaw", "moving_jaw")


@dataclass(frozen=True)
class Item:
    """One loose object of the present scene."""

    name: str  # "red cube", unique in the scene
    slot: str  # body of the model: "cube0"
    half_size: float  # half the edge, or the radius [m]
    half_height: float  # [m]

    @property
    def shape(self) -> str:
        """The last word of the name: cube, cylinder, bowl or plate."""
        return self.name.split()[-1]

    @property
    def colour(self) -> str:
        """The first word of the name."""
        return self.name.split()[0]


class World:
    """Reads a MuJoCo state in the words of the tabletop: positions in the arm's base frame [m], angles [rad].

    All but the button's lamp, which it keeps and shows in the model: one model has one world at a time.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, items: dict[str, Item], lit: bool = False):
        """lit: whether the button's lamp is on from the beginning."""
        self.model = model
        self.data = data
        self.items = items  # by name
        self._lamp = Lamp(model, lit)
        self._body = {name: model.body(item.slot).id for name, item in items.items()}
        names = {body: name for name, body in self._body.items()}
        self._owner = [names.get(model.geom_bodyid[geom]) or _part_of(model, geom) for geom in range(model.ngeom)]

    def position(self, name: str) -> np.ndarray:
        """Return the centre of a cube or cylinder, or the middle of the underside of a bowl or plate, float64[3]."""
        return self.data.xpos[self._body[name]].copy()

    def rotation(self, name: str) -> np.ndarray:
        """Return the rotation matrix of an object, float64[3, 3]."""
        return self.data.xmat[self._body[name]].reshape(3, 3).copy()

    def yaw(self, name: str) -> float:
        """Return the angle of an object about the vertical."""
        rotation = self.rotation(name)
        return float(np.arctan2(rotation[1, 0], rotation[0, 0]))

    def speed(self, name: str) -> float:
        """Return the linear speed of an object [m/s]."""
        start = self.model.jnt_dofadr[self.model.body_jntadr[self._body[name]]]
        return float(np.linalg.norm(self.data.qvel[start : start + 3]))

    @property
    def drawer_opening(self) -> float:
        """How far the drawer is open, 0..1."""
        return float(self.data.joint("drawer").qpos[0] / scene.DRAWER_TRAVEL)

    @property
    def button_travel(self) -> float:
        """How far the button is pressed, 0..1."""
        return float(self.data.joint("button").qpos[0] / scene.BUTTON_TRAVEL)

    @property
    def button_lit(self) -> bool:
        """Whether the button's lamp is on."""
        return self._lamp.lit

    def update(self) -> None:
        """Let the lamp follow the button; call it once a control step."""
        self._lamp.update(self.button_travel)

    @property
    def handle_position(self) -> np.ndarray:
        """Centre of the drawer's handle bar (half sizes: scene.HANDLE_HALF), float64[3]."""
        return self.data.geom("drawer_handle").xpos.copy()

    @property
    def button_position(self) -> np.ndarray:
        """Middle of the top of the button's cap, float64[3]."""
        return self.data.geom("button_cap").xpos + np.array([0, 0, 0.007])

    def geoms(self, name: str) -> np.ndarray:
        """Return the ids of the geoms that make up an object or a fixture."""
        return np.array([geom for geom, owner in enumerate(self._owner) if owner == name])

    def contacts(self) -> list[tuple[str, str]]:
        """Return what of the arm touches what else: sorted pairs of a finger or "arm" and an object or fixture."""
        pairs = set()
        for geom_a, geom_b in self.data.contact.geom.tolist():
            a, b = self._owner[geom_a], self._owner[geom_b]
            a_is_arm, b_is_arm = a in (*FINGERS, "arm"), b in (*FINGERS, "arm")
            if a_is_arm != b_is_arm:
                pairs.add((a, b) if a_is_arm else (b, a))
        return sorted(pairs)

    def touching(self, finger: str) -> set[str]:
        """Return what one of FINGERS touches."""
        return {other for part, other in self.contacts() if part == finger}

    def held(self) -> str | None:
        """Return the name of the object that both fingers touch, if any."""
        both = set.intersection(*(self.touching(finger) for finger in FINGERS)) & set(self.items)
        return min(both) if both else None


def _part_of(model: mujoco.MjModel, geom: int) -> str:
    """Say which part of the scene a geom that is no loose object belongs to."""
    name, body = model.geom(geom).name, model.body(model.geom_bodyid[geom]).name
    if body == "world":
        return "table"
    if body.startswith(scene.FIXTURES):
        return body.split("_")[0]
    return next((finger for finger in FINGERS if name.startswith(finger)), "arm")
