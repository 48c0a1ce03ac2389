"""Puts a drawn scene and its looks into a compiled model, without recompiling."""

import math
from dataclasses import dataclass, field

import mujoco
import numpy as np

from envs.tabletop import scene
from envs.tabletop.language import COLOURS
from envs.tabletop.layout import Layout, Placement
from envs.tabletop.splits import looks
from envs.tabletop.world import Item

CAMERAS = {"front": 1.0, "wrist": 0.3}  # and how much of a drawn shift each one makes: the wrist's is mounted
_TEXEL = scene.TABLE_TEXTURE_SIZE


@dataclass(frozen=True)
class Look:
    """How one scene looks; the defaults are the looks without randomization."""

    camera_shift: dict[str, np.ndarray] = field(default_factory=dict)  # camera -> float64[3] [m]
    camera_turn: dict[str, np.ndarray] = field(default_factory=dict)  # camera -> rotation vector float64[3] [rad]
    light_gain: float = 1.0
    light_tilt: tuple[float, float] = (0.30, 4.9)  # angle from the vertical, direction [rad]
    shades: tuple[float, ...] = ()  # factor on the colour of each object, in the order of the placements
    table_gain: float = 1.0
    texture: np.ndarray | None = None  # float[N, N] 0..1, times the table's colour


def draw_look(rng: np.random.Generator, objects: int, split: str = "train") -> Look:
    """Draw the looks of a scene with this many objects from the ranges of the split."""
    ranges = looks(split)

    def vector(length: float) -> np.ndarray:
        direction = rng.normal(size=3)
        return length * direction / np.linalg.norm(direction)

    return Look(
        camera_shift={name: reach * vector(rng.uniform(*ranges.camera_shift_m)) for name, reach in CAMERAS.items()},
        camera_turn={name: vector(math.radians(rng.uniform(*ranges.camera_tilt_deg))) for name in CAMERAS},
        light_gain=float(rng.uniform(*ranges.light_gain)),
        light_tilt=(math.radians(rng.uniform(*ranges.light_angle_deg)), float(rng.uniform(0, 2 * math.pi))),
        shades=tuple(rng.uniform(*ranges.shade, size=objects)),
        table_gain=float(rng.uniform(*ranges.table_gain)),
        texture=_texture(rng, ranges.textures[rng.integers(len(ranges.textures))]),
    )


def _texture(rng: np.random.Generator, name: str) -> np.ndarray | None:
    """Return a procedural pattern float[N, N] 0..1, None for plain."""
    row, column = np.mgrid[:_TEXEL, :_TEXEL]
    period = int(rng.choice([8, 16]))
    patterns = {
        "plain": lambda: None,
        "speckle": lambda: 1 - 0.16 * rng.random((_TEXEL, _TEXEL)),
        "grain": lambda: 1 - 0.12 * rng.random((_TEXEL, 1)) - 0.05 * rng.random((_TEXEL, _TEXEL)),
        "checker": lambda: 1 - 0.22 * ((row // period + column // period) % 2),
        "stripes": lambda: 1 - 0.22 * (column // period % 2),
    }
    if name not in patterns:
        raise ValueError(f"table texture {name!r} is not known; possible: {', '.join(patterns)}")
    return patterns[name]()


class Stage:
    """Sets the slots, fixtures, lights, cameras and table of a model; keeps the untouched values to start from."""

    def __init__(self, model: mujoco.MjModel):
        self._model = model
        self._slots = [f"{shape}{number}" for shape, count in scene.SLOTS.items() for number in range(count)]
        self._geoms = {name: _geoms_of(model, name) for name in self._slots}
        self._table = model.geom("table_top").id
        self._texture = model.texture("table").id
        self._still = {
            key: np.array(getattr(model, key))
            for key in ("cam_pos", "cam_quat", "light_diffuse", "light_dir", "geom_rgba", "body_pos", "tex_data")
        }
        self._ambient = np.array(model.vis.headlight.ambient)

    def set(self, data: mujoco.MjData, layout: Layout, look: Look) -> dict[str, Item]:
        """Reset `data` and lay the scene out; returns the loose objects by name. The arm is left at joint zero."""
        mujoco.mj_resetData(self._model, data)
        for index, slot in enumerate(self._slots):
            self._park(data, slot, index)
        items = {}
        used = dict.fromkeys(scene.SLOTS, 0)
        for index, placement in enumerate(layout.placements):
            shape = placement.name.split()[-1]
            slot = f"{shape}{used[shape]}"
            used[shape] += 1
            shade = look.shades[index] if look.shades else 1.0
            items[placement.name] = self._show(data, slot, placement, shade)
        self._set_fixtures(data, layout)
        self._set_looks(look)
        return items

    def _park(self, data: mujoco.MjData, slot: str, index: int) -> None:
        """Take a slot out of the scene: weightless, untouchable, invisible, far away."""
        geoms, body = self._geoms[slot], self._model.body(slot).id
        self._model.geom_contype[geoms] = 0
        self._model.geom_conaffinity[geoms] = 0
        self._model.geom_group[geoms] = 5
        self._model.body_gravcomp[body] = 1
        data.joint(slot).qpos[:] = [*scene.parking_place(index), 1, 0, 0, 0]

    def _show(self, data: mujoco.MjData, slot: str, placement: Placement, shade: float) -> Item:
        """Bring a slot into the scene as the placed object."""
        model, geoms, body = self._model, self._geoms[slot], self._model.body(slot).id
        colour, shape = placement.name.split()
        model.geom_contype[geoms] = 1
        model.geom_conaffinity[geoms] = 1
        model.geom_group[geoms] = 0
        model.body_gravcomp[body] = 0
        model.geom_rgba[geoms] = [*(shade * np.array(COLOURS[colour])), 1]
        height = 0.0  # of the body's origin
        half_height = {"bowl": scene.BOWL_HEIGHT, "plate": scene.PLATE_HEIGHT}.get(shape, 0) / 2
        half_size = {"bowl": scene.BOWL_INNER_RADIUS, "plate": scene.PLATE_RADIUS}.get(shape, placement.half_size)
        if shape in scene.PICKABLE:
            half_height = height = half_size
            model.geom_size[geoms] = half_size if shape == "cube" else (half_size, half_size, 0)
            model.body_inertia[body] = _inertia(shape, half_size, scene.PICKABLE_MASS_KG)
        if shape == "bowl":
            model.geom_rgba[geoms[0], :3] *= 0.7  # the floor is darker, so that it looks hollow
        turn = placement.yaw / 2
        data.joint(slot).qpos[:] = [placement.x, placement.y, height + 2e-4, math.cos(turn), 0, 0, math.sin(turn)]
        return Item(placement.name, slot, half_size, half_height)

    def _set_fixtures(self, data: mujoco.MjData, layout: Layout) -> None:
        for name, shift in (("drawer", layout.drawer_shift), ("button", layout.button_shift)):
            body = self._model.body(name).id
            self._model.body_pos[body] = self._still["body_pos"][body] + [*shift, 0]
        data.joint("drawer").qpos[0] = layout.drawer_opening * scene.DRAWER_TRAVEL

    def _set_looks(self, look: Look) -> None:
        model, still = self._model, self._still
        model.light_diffuse[:] = look.light_gain * still["light_diffuse"]
        model.vis.headlight.ambient[:] = look.light_gain * self._ambient
        tilt, way = look.light_tilt
        key = model.light("key").id
        model.light_dir[key] = [math.sin(tilt) * math.cos(way), math.sin(tilt) * math.sin(way), -math.cos(tilt)]
        model.geom_rgba[self._table, :3] = look.table_gain * still["geom_rgba"][self._table, :3]
        texture = np.ones((_TEXEL, _TEXEL)) if look.texture is None else look.texture
        start = model.tex_adr[self._texture]
        pixels = np.repeat(np.rint(255 * texture).astype(np.uint8).ravel(), 3)
        model.tex_data[start : start + pixels.size] = pixels
        for name in CAMERAS:
            camera = model.camera(name).id
            model.cam_pos[camera] = still["cam_pos"][camera] + look.camera_shift.get(name, 0.0)
            model.cam_quat[camera] = still["cam_quat"][camera]
            if name in look.camera_turn:
                mujoco.mju_quatIntegrate(model.cam_quat[camera], look.camera_turn[name], 1.0)


def _geoms_of(model: mujoco.MjModel, body: str) -> np.ndarray:
    return np.flatnonzero(model.geom_bodyid == model.body(body).id)


def _inertia(shape: str, half: float, mass: float) -> np.ndarray:
    """Return the principal inertia float64[3] of a cube or an upright cylinder as high as wide [kg m^2]."""
    if shape == "cube":
        return np.full(3, mass * (2 * half) ** 2 / 6)
    across = mass * (3 * half**2 + (2 * half) ** 2) / 12
    return np.array([across, across, mass * half**2 / 2])
