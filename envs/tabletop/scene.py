"""The tabletop as one compiled MuJoCo model: table, arm, drawer, button, cameras, lights and a pool of object slots.

A reset never recompiles: it moves, sizes, colours or parks the slots (`layout.py`), so that the renderer keeps its
context. Frame: origin at the arm base on the table top, x forward, y left, z up [m].
"""

from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np

ARM_FILE = Path(__file__).with_name("so101.xml")
TIMESTEP_S = 0.005
CONTROL_HZ = 10
SUBSTEPS = round(1 / (CONTROL_HZ * TIMESTEP_S))

SLOTS = {"cube": 4, "cylinder": 3, "bowl": 2, "plate": 2}  # how many of each shape one scene can hold
PICKABLE = ("cube", "cylinder")
CONTAINERS = ("bowl", "plate")
FIXTURES = ("drawer", "button")

BOWL_INNER_RADIUS = 0.039
BOWL_WALL = 0.004  # thickness
BOWL_HEIGHT = 0.022
BOWL_FLOOR = 0.004
BOWL_SIDES = 10
PLATE_RADIUS = 0.045
PLATE_HEIGHT = 0.006
PICKABLE_MASS_KG = 0.025
MAX_HALF_SIZE = 0.015

DRAWER_POSITION = np.array([0.235, 0.205, 0.0])  # centre of the cabinet
DRAWER_TRAVEL = 0.055  # towards the arm, -x
DRAWER_HALF = np.array([0.050, 0.035, 0.021])  # cabinet
HANDLE_OFFSET = np.array([-0.078, 0.0, 0.045])  # centre of the handle bar from the cabinet's, drawer closed
HANDLE_HALF = np.array([0.003, 0.025, 0.027])
BUTTON_POSITION = np.array([0.205, -0.195, 0.0])
BUTTON_TRAVEL = 0.006
BUTTON_RADIUS = 0.016
BUTTON_TOP = 0.026  # height of the cap when released

FRONT_POSITION = np.array([0.500, 0.010, 0.700])  # the front camera looks back at the arm, 66 degrees down
FRONT_LOOKS_AT = np.array([0.185, 0.010, 0.000])
FRONT_TANGENTS = (0.350, 0.185)  # half width and half height of the work area, seen from there

TABLE_TEXTURE_SIZE = 64

_HEAD = """
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{timestep}" integrator="implicitfast" cone="elliptic" impratio="10" iterations="30"
          ls_iterations="20" tolerance="1e-8"/>
  <size memory="32M"/>
  <visual>
    <map znear="0.01" zfar="4" shadowclip="0.7"/>
    <headlight ambient="0.42 0.42 0.42" diffuse="0 0 0" specular="0 0 0"/>
    <global offwidth="1280" offheight="960"/>
  </visual>
  <default>
    <geom condim="4" friction="1.0 0.01 0.001" solref="0.01 1"/>
    <default class="visual"><geom contype="0" conaffinity="0" group="1" mass="0"/></default>
    <default class="hidden"><geom group="4"/></default>
  </default>
  <asset>
    <texture name="table" type="2d" builtin="flat" rgb1="1 1 1" width="{texels}"
             height="{texels}"/>
    <material name="table" texture="table" texrepeat="4 4" texuniform="false" specular="0" shininess="0"/>
    <material name="object" specular="0.15" shininess="0.3"/>
    <material name="collar" specular="0" shininess="0" emission="0"/>
  </asset>
  <worldbody>
    <light name="key" directional="true" pos="0.2 0.3 1" dir="-0.05 -0.35 -1" diffuse="0.55 0.55 0.55"
           specular="0.2 0.2 0.2" castshadow="true"/>
    <light name="fill" directional="true" pos="0.4 -0.3 1" dir="-0.5 0.35 -0.8" diffuse="0.2 0.2 0.2"
           specular="0 0 0" castshadow="true"/>
    <geom name="table" type="plane" size="1 1 0.1" class="hidden"/>
    <geom name="table_top" class="visual" type="box" size="0.6 0.6 0.01" pos="0.2 0 -0.01" material="table"
          rgba="0.70 0.66 0.60 1"/>
    <camera name="front" pos="{front}" xyaxes="{front_axes}" fovy="36"/>
"""

_FIXTURES = """
    <body name="drawer" pos="{drawer}">
      <geom name="drawer_roof" type="box" size="0.050 0.035 0.002" pos="0 0 0.040" rgba="0.30 0.20 0.14 1"/>
      <geom name="drawer_left" type="box" size="0.050 0.002 0.019" pos="0 0.033 0.019" rgba="0.34 0.23 0.16 1"/>
      <geom name="drawer_right" type="box" size="0.050 0.002 0.019" pos="0 -0.033 0.019" rgba="0.34 0.23 0.16 1"/>
      <geom name="drawer_back" type="box" size="0.002 0.035 0.019" pos="0.048 0 0.019" rgba="0.34 0.23 0.16 1"/>
      <body name="drawer_tray">
        <joint name="drawer" type="slide" axis="-1 0 0" range="0 {travel}" damping="2" frictionloss="0.3"
               armature="0.01"/>
        <geom name="tray_floor" type="box" size="0.044 0.030 0.001" pos="-0.003 0 0.006" mass="0.05"
              rgba="0.86 0.72 0.52 1"/>
        <geom name="tray_front" type="box" size="0.002 0.034 0.016" pos="-0.049 0 0.021" mass="0.02"
              rgba="0.62 0.46 0.30 1"/>
        <geom name="tray_left" type="box" size="0.044 0.001 0.009" pos="-0.003 0.029 0.016" mass="0.01"
              rgba="0.86 0.72 0.52 1"/>
        <geom name="tray_right" type="box" size="0.044 0.001 0.009" pos="-0.003 -0.029 0.016" mass="0.01"
              rgba="0.86 0.72 0.52 1"/>
        <geom name="drawer_stem" type="box" size="0.012 0.004 0.004" pos="-0.063 0 0.024" mass="0.01"
              rgba="0.15 0.15 0.17 1"/>
        <geom name="drawer_handle" type="box" size="{handle_half}" pos="{handle}" mass="0.02"
              rgba="0.15 0.15 0.17 1"/>
      </body>
    </body>
    <body name="button" pos="{button}">
      <geom name="button_base" type="cylinder" size="0.023 0.006" pos="0 0 0.006" material="collar"/>
      <geom name="button_ring" type="cylinder" size="0.019 0.003" pos="0 0 0.014" material="collar"
            class="visual"/>
      <body name="button_cap" pos="0 0 {cap}">
        <joint name="button" type="slide" axis="0 0 -1" range="0 {press}" stiffness="120" springref="-0.003"
               damping="1" armature="0.005"/>
        <geom name="button_cap" type="cylinder" size="{radius} 0.007" mass="0.01" rgba="0.10 0.80 0.85 1"/>
      </body>
    </body>
"""

_TAIL = """
  </worldbody>
  <contact>
    <exclude body1="drawer" body2="drawer_tray"/>
    <exclude body1="button" body2="button_cap"/>
  </contact>
</mujoco>
"""


def _numbers(values) -> str:
    return " ".join(f"{value:g}" for value in values)


def _slot_geoms(shape: str, name: str) -> str:
    """Geoms of one slot as MJCF; colour and size are set at reset."""
    common = f'material="object" rgba="1 1 1 1" name="{name}'
    half = MAX_HALF_SIZE
    if shape == "cube":
        return f'<geom {common}" type="box" size="{half} {half} {half}" mass="{PICKABLE_MASS_KG}"/>'
    if shape == "cylinder":
        return f'<geom {common}" type="cylinder" size="{half} {half}" mass="{PICKABLE_MASS_KG}" condim="6"/>'
    if shape == "plate":
        height = PLATE_HEIGHT / 2
        return f'<geom {common}" type="cylinder" size="{PLATE_RADIUS} {height}" pos="0 0 {height}" mass="0.15"/>'
    outer = BOWL_INNER_RADIUS + BOWL_WALL
    floor = f'<geom {common}" type="cylinder" size="{outer} {BOWL_FLOOR / 2}" pos="0 0 {BOWL_FLOOR / 2}" mass="0.1"/>'
    walls = []
    middle, width = BOWL_INNER_RADIUS + BOWL_WALL / 2, outer * np.tan(np.pi / BOWL_SIDES)
    for side in range(BOWL_SIDES):
        angle = 2 * np.pi * side / BOWL_SIDES
        place = _numbers((middle * np.cos(angle), middle * np.sin(angle), BOWL_HEIGHT / 2))
        size = _numbers((BOWL_WALL / 2, width, BOWL_HEIGHT / 2))
        pose = f'pos="{place}" euler="0 0 {angle:g}"'
        walls.append(f'<geom {common}_wall{side}" type="box" size="{size}" {pose} mass="0.008"/>')
    return "\n".join([floor, *walls])


def scene_mjcf() -> str:
    """The scene without the arm, as an MJCF document."""
    slots = []
    for index, (shape, number) in enumerate((shape, n) for shape, count in SLOTS.items() for n in range(count)):
        name = f"{shape}{number}"
        # gravcomp 1 lets a parked slot float; layout.py gives the slots in use their weight back
        slots.append(
            f'<body name="{name}" pos="{_numbers(parking_place(index))}" gravcomp="1">'
            f'<freejoint name="{name}"/>{_slot_geoms(shape, name)}</body>'
        )
    right, up = _front_axes()
    head = _HEAD.format(
        timestep=TIMESTEP_S,
        texels=TABLE_TEXTURE_SIZE,
        front=_numbers(FRONT_POSITION),
        front_axes=_numbers((*right, *up)),
    )
    fixtures = _FIXTURES.format(
        drawer=_numbers(DRAWER_POSITION),
        travel=DRAWER_TRAVEL,
        handle=_numbers(HANDLE_OFFSET),
        handle_half=_numbers(HANDLE_HALF),
        button=_numbers(BUTTON_POSITION),
        cap=BUTTON_TOP - 0.007,
        press=BUTTON_TRAVEL,
        radius=BUTTON_RADIUS,
    )
    return head + fixtures + "\n".join(slots) + _TAIL


def _front_axes() -> tuple[np.ndarray, np.ndarray]:
    """Return the directions to the right and up in the front image, each float64[3]."""
    forward = FRONT_LOOKS_AT - FRONT_POSITION
    right = np.cross(forward, [0, 0, 1])
    up = np.cross(right, forward)
    return right / np.linalg.norm(right), up / np.linalg.norm(up)


def frame_front(model: mujoco.MjModel, height: int, width: int) -> None:
    """Zoom the front camera so that the work area just fits in an image of this shape."""
    half = max(FRONT_TANGENTS[1], FRONT_TANGENTS[0] * height / width)
    model.cam_fovy[model.camera("front").id] = np.degrees(2 * np.arctan(half))


def parking_place(index: int) -> np.ndarray:
    """Where slot `index` floats while it is not in use, float64[3] [m]."""
    return np.array([3.0 + 0.3 * index, 3.0, 0.5])


def build_model() -> mujoco.MjModel:
    """Compile table, arm and slots; some 10 ms, once per environment."""
    document = ElementTree.fromstring(scene_mjcf())
    for section in ElementTree.parse(ARM_FILE).getroot():
        home = document.find(section.tag)
        if home is None:
            document.append(section)
        else:
            home.extend(section)
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(document, encoding="unicode"))
