"""The fast renderer shows what MuJoCo's own shows."""

import sys

import mujoco
import numpy as np
import pytest

from envs import render
from envs.tabletop.env import TabletopEnv

SIZES = {"front": (64, 96), "wrist": (48, 48)}


@pytest.fixture(scope="module")
def env():
    env = TabletopEnv(kinds=("place",), image_size=SIZES)
    env.reset(seed=3)
    yield env
    env.close()


def test_frames_equal_those_of_mujoco_without_shadows(env):
    ours = env._frame_source().render(env.data)
    for camera, (height, width) in SIZES.items():
        with mujoco.Renderer(env.model, height, width) as theirs:
            theirs.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            theirs.update_scene(env.data, camera)
            error = np.mean((theirs.render().astype(float) - ours[camera]) ** 2)
        assert 10 * np.log10(255**2 / error) >= 35


def test_each_camera_has_its_own_size_and_view(env):
    frames = env._frame_source().render(env.data)
    assert {name: frame.shape for name, frame in frames.items()} == {n: (*size, 3) for n, size in SIZES.items()}
    again = env._frame_source().render(env.data)
    assert all(np.array_equal(frames[name], again[name]) for name in SIZES)


def test_segmentation_finds_every_geom_where_it_is_drawn(env):
    ids = env._frame_source().segment(env.data, "front")
    assert ids.shape == SIZES["front"] and env.model.geom("table_top").id in ids
    button = ids == env.model.geom("button_cap").id
    image = env._frame_source().render(env.data)["front"][button].mean(0)
    assert button.any() and image[2] > image[0]  # the cap is cyan


def test_colours_are_seen_right_after_segmentation(env):
    before = env._frame_source().render(env.data)["front"]
    env._frame_source().segment(env.data, "front")
    np.testing.assert_array_equal(env._frame_source().render(env.data)["front"], before)


def test_unknown_camera_is_refused(env):
    with pytest.raises(ValueError, match="no camera \\['side'\\] in the model; possible: \\['front', 'wrist'\\]"):
        render.Renderer(env.model, {"side": (8, 8)})


def test_missing_opengl_says_what_to_install(env, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setitem(sys.modules, "mujoco.osmesa", None)
    with pytest.raises(render.RenderError, match=r"MUJOCO_GL=osmesa.*apt-get install libosmesa6"):
        render.Renderer(env.model, SIZES)


def test_unknown_backend_is_refused(env, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(render.RenderError, match="'vulkan' cannot render; possible: egl, osmesa, glfw"):
        render.Renderer(env.model, SIZES)


def test_a_closed_renderer_refuses_to_render(env):
    renderer = render.Renderer(env.model, {"wrist": (8, 8)})
    renderer.close()
    renderer.close()
    with pytest.raises(render.RenderError, match="closed"):
        renderer.render(env.data)
