"""The table holds things up: objects rest, containers contain, drawer and button move as real ones."""

import mujoco
import numpy as np
import pytest

from envs.tabletop import scene
from envs.tabletop.env import TabletopEnv
from envs.tabletop.goals import Goal
from envs.tabletop.language import COLOURS
from envs.tabletop.layout import Layout, Placement
from envs.tabletop.stage import CAMERAS, Look, Stage, draw_look
from envs.tabletop.world import World

PLACES = (
    Placement("red cube", 0.010, 0.15, -0.08, 0.3),
    Placement("blue cylinder", 0.015, 0.15, 0.0, 0.0),
    Placement("green bowl", 0.0125, 0.22, -0.05, 0.0),
    Placement("white plate", 0.0125, 0.22, 0.06, 0.0),
)
LAYOUT = Layout((Goal("press"),), Goal("open"), PLACES, 0.0, (0.0, 0.0), (0.0, 0.0), (0.17, 0.0, 0.11))


@pytest.fixture(scope="module")
def model():
    return scene.build_model()


@pytest.fixture
def world(model):
    data = mujoco.MjData(model)
    items = Stage(model).set(data, LAYOUT, Look())
    mujoco.mj_forward(model, data)
    return World(model, data, items)


def settle(world: World, seconds: float = 1.0) -> None:
    mujoco.mj_step(world.model, world.data, nstep=round(seconds / scene.TIMESTEP_S))


def put(world: World, name: str, x: float, y: float, z: float) -> None:
    world.data.joint(world.items[name].slot).qpos[:3] = x, y, z


def test_objects_rest_where_they_were_placed(world):
    settle(world, 2.0)
    for place in PLACES:
        np.testing.assert_allclose(world.position(place.name)[:2], (place.x, place.y), atol=5e-4)
        assert world.speed(place.name) < 1e-3
    assert world.position("red cube")[2] == pytest.approx(0.010, abs=1e-3)
    assert world.yaw("red cube") == pytest.approx(0.3, abs=0.01)


def test_unused_slots_take_no_part(world):
    settle(world)
    used = {item.slot for item in world.items.values()}
    for slot in (f"{shape}{n}" for shape, count in scene.SLOTS.items() for n in range(count)):
        if slot not in used:
            geoms = world.model.geom_bodyid == world.model.body(slot).id
            assert not world.model.geom_contype[geoms].any() and (world.model.geom_group[geoms] == 5).all()
            assert np.linalg.norm(world.data.joint(slot).qvel) < 1e-6


def test_a_dropped_cube_stays_in_the_bowl_and_on_the_plate(world):
    settle(world)
    put(world, "red cube", 0.23, -0.045, 0.05)
    put(world, "blue cylinder", 0.22, 0.07, 0.03)
    settle(world, 1.5)
    assert np.linalg.norm((world.position("red cube") - world.position("green bowl"))[:2]) < scene.BOWL_INNER_RADIUS
    assert world.position("blue cylinder")[2] == pytest.approx(scene.PLATE_HEIGHT + 0.015, abs=1e-3)


def test_a_cube_stands_on_a_cylinder(world):
    settle(world)
    put(world, "red cube", 0.153, 0.003, 0.041)
    settle(world, 2.0)
    assert world.position("red cube")[2] == pytest.approx(0.040, abs=1e-3) and world.speed("red cube") < 1e-3


def test_the_bowl_lets_the_largest_object_in():
    assert 2 * scene.BOWL_INNER_RADIUS >= 0.075 > 2 * np.sqrt(2) * scene.MAX_HALF_SIZE


def test_the_drawer_stays_where_it_was_left(world):
    for opening in (0.0, 0.5, 1.0):
        world.data.joint("drawer").qpos[0] = opening * scene.DRAWER_TRAVEL
        settle(world)
        assert world.drawer_opening == pytest.approx(opening, abs=0.02)


def test_the_handle_moves_with_the_drawer_towards_the_arm(world):
    closed = world.handle_position
    world.data.joint("drawer").qpos[0] = scene.DRAWER_TRAVEL
    mujoco.mj_forward(world.model, world.data)
    np.testing.assert_allclose(world.handle_position - closed, (-scene.DRAWER_TRAVEL, 0, 0), atol=1e-9)


def test_the_button_springs_back(world):
    assert pytest.approx(0.006) == scene.BUTTON_TRAVEL
    settle(world)
    assert world.button_travel < 0.02
    world.data.joint("button").qpos[0] = scene.BUTTON_TRAVEL
    mujoco.mj_forward(world.model, world.data)
    assert world.button_travel == pytest.approx(1.0)
    settle(world, 0.5)
    assert world.button_travel < 0.02


def test_colours_and_sizes_are_what_the_names_say(world):
    geom = world.model.geom(world.items["red cube"].slot)
    np.testing.assert_allclose(geom.rgba[:3], COLOURS["red"], atol=1e-6)
    np.testing.assert_allclose(geom.size, 0.010)


def test_laying_out_again_leaves_nothing_of_the_scene_before(model):
    stage, data = Stage(model), mujoco.MjData(model)
    stage.set(data, LAYOUT, Look())
    keys = ("cam_pos", "cam_quat", "light_diffuse", "light_dir", "geom_rgba", "geom_size", "tex_data", "body_inertia")
    before = {key: np.array(getattr(model, key)) for key in keys}
    shown = model.geom_group != 5
    other = Layout((), Goal("open"), PLACES[2:], 1.0, (0.005, 0.0), (0.0, 0.005), (0.17, 0.0, 0.11))
    stage.set(data, other, draw_look(np.random.default_rng(0), objects=2, split="heldout_looks"))
    mujoco.mj_step(model, data, nstep=50)
    stage.set(data, LAYOUT, Look())
    for key, value in before.items():
        rows = shown if key.startswith("geom") else slice(None)
        np.testing.assert_array_equal(getattr(model, key)[rows], value[rows], err_msg=key)
    assert not data.qacc_warmstart.any() and not data.qvel.any() and data.time == 0


@pytest.mark.parametrize("shape", [(128, 128), (96, 160), (120, 64)])
def test_the_front_camera_sees_the_whole_work_area_in_any_image_shape(shape):
    env = TabletopEnv(image_size={"front": shape}, cameras=("front",), kinds=("press",))
    camera = env.model.camera("front")
    half_height = np.tan(np.radians(camera.fovy[0]) / 2)
    points = [(x, y, 0.02) for x in (0.105, 0.30) for y in (-0.155, 0.13)]
    points += [(0.205, -0.22, 0.0), (0.10, 0.24, 0.07), (0.285, 0.24, 0.042)]
    mujoco.mj_forward(env.model, env.data)
    axes = env.data.camera("front").xmat.reshape(3, 3)
    for point in points:
        right, up, back = axes.T @ (np.array(point) - env.data.camera("front").xpos)
        assert abs(up / back) < half_height and abs(right / back) < half_height * shape[1] / shape[0]


def test_looks_stay_in_the_ranges_and_held_out_ones_are_outside():
    def shift(split: str) -> float:
        look = draw_look(np.random.default_rng(1), objects=3, split=split)
        assert set(look.camera_shift) == set(CAMERAS)
        return float(np.linalg.norm(look.camera_shift["front"]))

    assert shift("train") <= 0.010 < shift("heldout_looks")
