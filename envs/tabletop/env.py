"""The tabletop as a gymnasium environment: cameras and joint positions out, joint targets in, the truth in `info`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np

from envs.render import Renderer
from envs.tabletop import arm, scene, truth
from envs.tabletop.disturbance import LASTING, Disturbance
from envs.tabletop.goals import Goal, Tracker
from envs.tabletop.language import canonical, instruction, parse
from envs.tabletop.layout import Layout, draw
from envs.tabletop.splits import check_split
from envs.tabletop.stage import CAMERAS, Look, Stage, draw_look
from envs.tabletop.world import World

DONE_STEPS = 5  # a finished subtask is reported as done for this long before the next one begins
_SETTLE_STEPS = 60  # physics steps from laying out to the first frame
Check = Callable[[np.ndarray, np.ndarray], np.ndarray]  # joint targets and measured joints -> command, float[6] each
_WARNINGS = {
    "bad position": mujoco.mjtWarning.mjWARN_BADQPOS,
    "bad velocity": mujoco.mjtWarning.mjWARN_BADQVEL,
    "bad acceleration": mujoco.mjtWarning.mjWARN_BADQACC,
    "bad control": mujoco.mjtWarning.mjWARN_BADCTRL,
}


class UnstableError(OSError):
    """The simulated world is not one any more, until it is laid out anew; a robot in it has no bus any more."""


class TabletopEnv(gymnasium.Env):
    """An SO-101 arm, a table, and one instruction of one or several subtasks.

    Observation: {"pixels": {camera: uint8[H, W, 3] RGB}, "agent_pos": float32[6] measured joints [rad], gripper 0..1}.
    Action: float32[6], absolute joint targets for the end of the control period of 0.1 s, same units.
    `info` holds instruction, subtask (index, count, text, kind, progress, done), is_success (all subtasks, in order),
    finished, contacts, swapped (instruction, is_success of the same kind of task about another object), phase and
    disturbed (the object that a mishap happened to). What was placed or stacked on the way must still be there at last.

    Args:
      kinds: task kinds that episodes are drawn from, of goals.KINDS.
      subtasks: least and most subtasks of one instruction.
      split: train, heldout_objects, heldout_paraphrases, heldout_counts or heldout_looks (splits.yaml).
      randomize: draw camera poses, lights, shades and textures; else the looks are always the same.
      cameras: of stage.CAMERAS, in the order of the observation; without any there are no "pixels" and no OpenGL.
      image_size: camera -> (height, width) [px].
      disturb: let one mishap happen in every episode where one can (disturbance.py).
      terminate_on_success: end the episode at success; by default only a time limit ends it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": scene.CONTROL_HZ}

    def __init__(
        self,
        kinds: Sequence[str] = ("pick",),
        subtasks: Sequence[int] = (1, 1),
        split: str = "train",
        randomize: bool = True,
        cameras: Sequence[str] = tuple(CAMERAS),
        image_size: Mapping[str, Sequence[int]] | None = None,
        disturb: bool = False,
        terminate_on_success: bool = False,
        render_mode: str | None = None,
    ):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r} is not supported; possible: None, 'rgb_array'")
        for what, names in (("cameras", cameras), ("image_size of", image_size or {})):
            if unknown := sorted(set(names) - set(CAMERAS)):
                raise ValueError(f"{what} {unknown} are not known; possible: {', '.join(CAMERAS)}")
        self.render_mode = render_mode
        self.kinds = tuple(kinds)
        self.subtasks = (int(subtasks[0]), int(subtasks[1]))
        self.split = check_split(split)
        self.randomize = randomize
        self.disturb = disturb
        self.terminate_on_success = terminate_on_success
        self.sizes = {name: tuple((image_size or {}).get(name, (128, 128))) for name in cameras}
        self.model = scene.build_model()
        scene.frame_front(self.model, *self.sizes.get("front", (128, 128)))
        self.data = mujoco.MjData(self.model)
        self._stage = Stage(self.model)
        self._qpos = arm.joint_addresses(self.model)
        self._ctrl = arm.actuator_addresses(self.model)
        self._renderer: Renderer | None = None
        self._check: Check | None = None
        self._pieces = 1  # of a control period, each with a command of its own
        low, high = arm.POSITION_MIN.astype(np.float32), arm.POSITION_MAX.astype(np.float32)
        spaces: dict[str, gymnasium.Space] = {
            "agent_pos": gymnasium.spaces.Box(low=low - 0.5, high=high + 0.5, dtype=np.float32)
        }
        if self.sizes:
            images = {name: (*size, 3) for name, size in self.sizes.items()}
            spaces["pixels"] = gymnasium.spaces.Dict(
                {
                    name: gymnasium.spaces.Box(low=0, high=255, shape=shape, dtype=np.uint8)
                    for name, shape in images.items()
                }
            )
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(low=low, high=high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw a new scene; `options` may hold `instruction` (words, see language.py) or `kind` (of goals.KINDS)."""
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - {"instruction", "kind"})
        if unknown:
            raise ValueError(f"reset options {unknown} are not known; possible: instruction, kind")
        asked = options.get("instruction")
        kinds = (options["kind"],) if options.get("kind") else self.kinds
        goals = parse(asked) if asked else None
        self.layout: Layout = draw(self.np_random, kinds=kinds, subtasks=self.subtasks, split=self.split, goals=goals)
        self.task_description = asked or instruction(self.layout.goals, self.np_random, self.split)
        look = draw_look(self.np_random, len(self.layout.placements), self.split) if self.randomize else Look()
        self._lay_out(look)
        self._index = 0
        self._done_steps = 0
        self._trackers = [Tracker(goal, self.world) for goal in self.layout.goals[:1]]
        self._swapped = Tracker(self.layout.swapped, self.world)
        self._disturbance = Disturbance.draw(self.layout.goals, self.np_random) if self.disturb else None
        self._swapped_text = canonical(self.layout.swapped)
        return self.observe(), self._info()

    def _lay_out(self, look: Look) -> None:
        """Put scene and arm in place and let things settle."""
        items = self._stage.set(self.data, self.layout, look)
        self.world = World(self.model, self.data, items, self.layout.lit)
        home = arm.from_state(np.array([*arm.ik_vertical(*self.layout.start), arm.HOME[5]]))
        self.data.qpos[self._qpos] = home
        self.data.ctrl[self._ctrl] = home
        mujoco.mj_step(self.model, self.data, nstep=_SETTLE_STEPS)
        self.servo_target = home  # float64[6] [rad], the latest
        self._sent = arm.to_state(home).astype(np.float64)  # the latest command
        if self._renderer is not None:
            self._renderer.upload_texture(self.model.texture("table").id)

    def step(self, action: np.ndarray):
        """Move to joint targets float32[6] over one control period; targets outside the joint limits are clipped."""
        action = np.asarray(action, np.float64)
        if action.shape != (len(arm.JOINTS),) or not np.isfinite(action).all():
            raise ValueError(f"an action is {len(arm.JOINTS)} finite joint targets {arm.JOINTS}, got {action!r}")
        for target in self._servo_targets(action):
            self.advance(target)
        info = self.judge()
        success = info["is_success"]
        return self.observe(), float(success), self.terminate_on_success and success, False, info

    def send_through(self, check: Check, hz: float) -> None:
        """Let `step` send `hz` commands a second, evenly on the way to its action, each as `check` returns it.

        check: gets joint targets float64[6] and measured joints float32[6] [rad], gripper 0..1, and returns a command.
        Raises ValueError where commands and physics steps do not fit into a control period in whole numbers.
        """
        pieces = hz / scene.CONTROL_HZ
        if pieces < 1 or pieces % 1 or scene.SUBSTEPS % pieces:
            possible = [scene.CONTROL_HZ * n for n in range(1, scene.SUBSTEPS + 1) if scene.SUBSTEPS % n == 0]
            raise ValueError(f"{hz:g} commands a second; possible: {', '.join(map(str, possible))}")
        self._check, self._pieces = check, int(pieces)

    def _servo_targets(self, action: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the servo targets float64[6] [rad] of one control period, one a physics step."""
        start, steps = self._sent, scene.SUBSTEPS // self._pieces
        for piece in range(1, self._pieces + 1):
            target = action if piece == self._pieces else start + (action - start) * piece / self._pieces
            self._sent = self._check(target, self.joints()) if self._check else target
            yield from arm.servo_ramp(self.servo_target, self._sent, steps, scene.TIMESTEP_S)

    def advance(self, target: np.ndarray) -> None:
        """Let one physics step pass with the servos at targets float64[6] [rad]; `judge` is due every SUBSTEPS."""
        self.data.ctrl[self._ctrl] = target
        mujoco.mj_step(self.model, self.data)
        self.servo_target = target

    def judge(self) -> dict[str, Any]:
        """Judge what one control period has changed, and return `info`; raises UnstableError."""
        self.check()
        self.world.update()
        if self._disturbance:
            finished = self.layout.goals[: self._index + bool(self._trackers[-1].success)]
            self._disturbance.step(self.world, self.goal, finished)
        self._track()
        return self._info()

    def check(self) -> None:
        """Raise UnstableError if the physics blew up: MuJoCo has then begun anew by itself, which is no episode."""
        wrong = ", ".join(name for name, kind in _WARNINGS.items() if self.data.warning[kind].number)
        if wrong:
            raise UnstableError(f"the simulation became unstable ({wrong}); the episode is void")

    def _track(self) -> None:
        """Judge the present subtask; go on to the next one some steps after it was done."""
        if self._done_steps >= DONE_STEPS and self._index + 1 < len(self.layout.goals):
            self._index += 1
            self._done_steps = 0
            self._trackers.append(Tracker(self.layout.goals[self._index], self.world))
        self._trackers[-1].update()
        self._swapped.update()
        self._done_steps += self._trackers[-1].success

    def _lasts(self) -> bool:
        """Whether what was placed or stacked on the way is still there."""
        return all(tracker.fulfilled for tracker in self._trackers[:-1] if tracker.goal.kind in LASTING)

    @property
    def goal(self) -> Goal:
        """The present subtask."""
        return self.layout.goals[self._index]

    @property
    def finished(self) -> list[str]:
        """Canonical words of the finished subtasks, in order."""
        done = self.layout.goals[: self._index + bool(self._trackers[-1].success)]
        return [canonical(goal) for goal in done]

    def expert_observation(self) -> tuple[World, Goal]:
        """Return what the scripted expert reads: the whole truth and the present subtask."""
        return self.world, self.goal

    def questions(self, rng: np.random.Generator, n: int) -> list[dict[str, str]]:
        """Return n questions about the present frame (truth.py), the first one points at what the subtask names.

        The next one often asks whether a subtask is accomplished: the present one or, as often, an earlier one.
        """
        asked = int(rng.integers(self._index)) if self._index and rng.random() < 0.5 else self._index
        return truth.questions(self.world, self.goal, self._boxes(), rng, n, judged=self.layout.goals[asked])

    def target_questions(self) -> list[dict[str, str]]:
        """Return the pointing questions about the objects that the present subtask names."""
        return truth.target_questions(self.goal, self._boxes())

    def things_in_sight(self) -> dict[str, tuple[int, int, int, int] | None]:
        """Return the box of every loose object in the front image, None where it cannot be seen (truth.py)."""
        boxes = self._boxes()
        return {name: boxes.get(name) for name in self.world.items}

    def _boxes(self) -> dict[str, tuple[int, int, int, int]]:
        ids = self._frame_source().segment(self.data, "front")
        return truth.boxes(self.world, ids)

    def embodiment(self) -> dict[str, Any]:
        """Return joints, limits, control rate and cameras as plain types, the contract that a policy is trained for."""
        cameras = {name: {"height": int(h), "width": int(w)} for name, (h, w) in self.sizes.items()}
        return {**arm.embodiment_limits(), "control_hz": float(scene.CONTROL_HZ), "cameras": cameras}

    def _frame_source(self) -> Renderer:
        """Return the renderer, made at the first frame; scenes without cameras need no OpenGL."""
        if self._renderer is None:
            self._renderer = Renderer(self.model, self.sizes)
        return self._renderer

    def observe(self) -> dict[str, Any]:
        """Return the present observation."""
        state = {"agent_pos": self.joints()}
        return {**state, "pixels": self.frames()} if self.sizes else state

    def joints(self) -> np.ndarray:
        """Return the measured joints float32[6] [rad], gripper 0..1."""
        return arm.to_state(self.data.qpos[self._qpos])

    def frames(self) -> dict[str, np.ndarray]:
        """Return a frame of each camera, uint8[H, W, 3]."""
        return self._frame_source().render(self.data)

    def _info(self) -> dict[str, Any]:
        tracker = self._trackers[-1]
        last = self._index + 1 == len(self.layout.goals)
        return {
            "instruction": self.task_description,
            "subtask": {
                "index": self._index,
                "count": len(self.layout.goals),
                "text": canonical(self.goal),
                "kind": self.goal.kind,
                "progress": float(tracker.progress),
                "done": bool(tracker.success),
            },
            "is_success": bool(last and tracker.success and self._lasts()),
            "finished": self.finished,
            "contacts": self.world.contacts(),
            "swapped": {"instruction": self._swapped_text, "is_success": bool(self._swapped.success)},
            "phase": tracker.phase,
            "disturbed": self._disturbance.victim if self._disturbance else "",
        }

    def render(self) -> np.ndarray | None:
        """Return the frame of the first camera, uint8[H, W, 3]."""
        if self.render_mode is None:
            return None
        return self._frame_source().render(self.data)[next(iter(self.sizes))]

    def close(self) -> None:
        """Free the renderer's OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
