"""Fast offscreen rendering of a MuJoCo model without a GPU.

What costs on a software rasteriser: the shadow map (one more pass over 16 million texels), shapes of a thousand
triangles, a new context, updating the scene once a camera. Here shadows are off, shapes have as many faces as one can
see, the context lives as long as the renderer, and one scene update serves all cameras.
"""

import atexit
import importlib
import os
import weakref
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

_PACKAGES = {
    "egl": "sudo apt-get install libegl1 libgl1-mesa-dri",
    "osmesa": "sudo apt-get install libosmesa6",
    "glfw": "sudo apt-get install libgl1 libglx-mesa0, or set MUJOCO_GL=egl to render without a display",
}
_COSTLY = (
    mujoco.mjtRndFlag.mjRND_SHADOW,
    mujoco.mjtRndFlag.mjRND_REFLECTION,
    mujoco.mjtRndFlag.mjRND_SKYBOX,
    mujoco.mjtRndFlag.mjRND_HAZE,
    mujoco.mjtRndFlag.mjRND_FOG,
)


class RenderError(RuntimeError):
    """No OpenGL to render with; the message says which package to install."""


class Renderer:
    """Renders the fixed cameras of one model, each at its own size.

    Args:
      model: changes to sizes, colours, poses, lights and cameras are seen at the next frame; textures after
        `upload_texture`.
      sizes: camera name -> (height, width) [px].
      samples: multisampling, 0, 2 or 4; 4 as `mujoco.Renderer`.
      slices: faces around a cylinder; `mujoco.Renderer` has 28.
      max_geom: most geoms that one frame can show.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        sizes: Mapping[str, Sequence[int]],
        samples: int = 4,
        slices: int = 20,
        max_geom: int = 400,
    ):
        cameras = [model.camera(index).name for index in range(model.ncam)]
        unknown = sorted(set(sizes) - set(cameras))
        if unknown:
            raise ValueError(f"no camera {unknown} in the model; possible: {cameras}")
        self._model = model
        self.sizes = {name: (int(height), int(width)) for name, (height, width) in sizes.items()}
        self._rects = {name: mujoco.MjrRect(0, 0, width, height) for name, (height, width) in self.sizes.items()}
        self._cameras = {name: _fixed_camera(model.camera(name).id) for name in sizes}
        self._scene = mujoco.MjvScene(model, maxgeom=max_geom)
        self._option = mujoco.MjvOption()
        for flag in _COSTLY:
            self._scene.flags[flag] = False
        height = max(height for height, _ in self.sizes.values())
        width = max(width for _, width in self.sizes.values())
        self._gl = _gl_context(width, height)
        self._gl.make_current()
        self._context = _render_context(model, width, height, samples, slices)
        self._free = weakref.finalize(self, _free, self._gl, self._context)
        atexit.register(self._free)  # before OpenGL itself is taken down

    def render(self, data: mujoco.MjData) -> dict[str, np.ndarray]:
        """Return one frame of every camera, uint8[H, W, 3] RGB each."""
        return {name: image for name, image in self._frames(data)}

    def segment(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Return the geom id seen in each pixel of one camera, int32[H, W], -1 for none."""
        flags = self._scene.flags.copy()
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = True
        self._scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        image = dict(self._frames(data, (camera,)))[camera].astype(np.int32)
        self._scene.flags[:] = flags
        geom_of = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                geom_of[geom.segid + 1] = geom.objid
        return geom_of[image[..., 0] + 256 * image[..., 1] + 65536 * image[..., 2]]

    def upload_texture(self, texture: int) -> None:
        """Show the present `model.tex_data` of one texture."""
        self._gl.make_current()
        mujoco.mjr_uploadTexture(self._model, self._context, texture)

    def close(self) -> None:
        """Free the context; rendering ends."""
        self._free()

    def _frames(self, data: mujoco.MjData, names: Sequence[str] = ()):
        """Yield (camera name, frame), updating the geoms of the scene once."""
        if not self._free.alive:
            raise RenderError("the renderer is closed; make a new one")
        self._gl.make_current()
        for index, name in enumerate(names or self.sizes):
            camera = self._cameras[name]
            if index == 0:
                every = mujoco.mjtCatBit.mjCAT_ALL
                mujoco.mjv_updateScene(self._model, data, self._option, None, camera, every, self._scene)
            else:
                mujoco.mjv_updateCamera(self._model, data, camera, self._scene)
            image = np.empty((*self.sizes[name], 3), np.uint8)
            mujoco.mjr_render(self._rects[name], self._scene, self._context)
            mujoco.mjr_readPixels(image, None, self._rects[name], self._context)
            yield name, np.ascontiguousarray(image[::-1])


def _free(gl, context: mujoco.MjrContext) -> None:
    gl.make_current()
    context.free()
    gl.free()


def _fixed_camera(index: int) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = index
    return camera


def _gl_context(width: int, height: int):
    """Make an OpenGL context with the backend that MUJOCO_GL names, or say what to install."""
    backend = os.environ.get("MUJOCO_GL", "glfw").lower()
    if backend not in _PACKAGES:
        raise RenderError(f"MUJOCO_GL={backend!r} cannot render; possible: {', '.join(_PACKAGES)}")
    try:  # whatever a missing or broken library raises here: ImportError, AttributeError, an EGL error
        return importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
    except Exception as error:
        raise RenderError(
            f"no OpenGL with MUJOCO_GL={backend} ({type(error).__name__}: {error}); "
            f"on Debian or Ubuntu: {_PACKAGES[backend]}"
        ) from None


def _render_context(model: mujoco.MjModel, width: int, height: int, samples: int, slices: int) -> mujoco.MjrContext:
    """Upload the model's shapes, coarse ones; no shadow map, buffers no larger than the largest image."""
    quality = {"shadowsize": 0, "offsamples": samples, "numslices": slices, "numstacks": 2, "numquads": 1}
    buffers = {"offwidth": width, "offheight": height}
    before = [_exchange(model.vis.quality, quality), _exchange(model.vis.global_, buffers)]
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
    _exchange(model.vis.quality, before[0])
    _exchange(model.vis.global_, before[1])
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    return context


def _exchange(holder, values: Mapping[str, int]) -> dict[str, int]:
    """Set attributes and return what they were."""
    before = {key: getattr(holder, key) for key in values}
    for key, value in values.items():
        setattr(holder, key, value)
    return before
