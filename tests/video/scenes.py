"""A drawn robot: an arm on rails picks discs up and puts them down, seen from above, with the state that it had."""

from dataclasses import dataclass

import cv2
import numpy as np

from vla.video.state import State

HEIGHT, WIDTH = 72, 96
COLOURS = ((220, 40, 40), (40, 200, 60), (50, 70, 230), (230, 210, 40))  # of the discs, the carried ones first
HOP = 15.0  # shorter moves out of a rest are no departures [pixels]


@dataclass(frozen=True)
class Scene:
    """What was recorded, and when things happened."""

    frames: np.ndarray  # uint8[N, HEIGHT, WIDTH, 3]
    state: State
    fps: int
    deeds_s: list[float]  # a disc is grasped or let go
    starts_s: list[float]  # the arm sets off to the next disc after a rest, unless it is close by


def record(seed: int = 0, fps: int = 10, discs: int = 2, rest_s: float = 1.0, speed: float = 50.0) -> Scene:
    """Carry some discs at about `speed` pixels a second, with a rest after each."""
    rng = np.random.default_rng(seed)
    plan = _Plan(fps, rng, speed)
    deeds_s, starts_s = [], []
    for disc in range(discs):
        if disc and np.linalg.norm(plan.discs[disc] - plan.place) > HOP:
            starts_s.append(plan.now_s)
        plan.go(plan.discs[disc])
        plan.grip(0.4, disc)
        deeds_s.append(plan.now_s)
        plan.go(plan.elsewhere(plan.discs[disc + 1]))
        deeds_s.append(plan.now_s + 0.15)
        plan.grip(1.0, None)
        plan.go(plan.place + rng.uniform(12, 16) * np.sign(np.array([WIDTH, HEIGHT]) / 2 - plan.place))
        plan.stand(rest_s)
    table = np.array(plan.rows)
    frames = np.stack([_draw(row, plan.background) for row in plan.rows])
    joints, gripper = table[:, :2] / 50.0, table[:, 2:3]
    state = State(
        time_s=np.arange(len(table)) / fps,
        joints=joints,
        joint_names=("rail_x", "rail_y"),
        joint_low=np.zeros(2),
        joint_high=np.array([WIDTH, HEIGHT]) / 50.0,
        gripper=gripper,
        gripper_names=("gripper",),
        gripper_low=np.zeros(1),
        gripper_high=np.ones(1),
    )
    return Scene(frames, state, fps, deeds_s, starts_s)


def on_grey(frames: np.ndarray) -> np.ndarray:
    """Take the colours out of the ground, so that only discs have one."""
    grey = frames.mean(axis=3, keepdims=True).repeat(3, axis=3).astype(np.uint8)
    discs = (frames[..., None, :] == np.array(COLOURS)).all(axis=-1).any(axis=-1, keepdims=True)
    return np.where(discs, frames, grey)


class _Plan:
    """Rows of (x, y, opening, x and y of every disc), one a frame."""

    def __init__(self, fps: int, rng: np.random.Generator, speed: float) -> None:
        self.fps, self.rng, self.speed, self.rows = fps, rng, speed, []
        rough = rng.integers(90, 200, (9, 12, 3)).astype(np.uint8)
        self.background = cv2.resize(rough, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
        self.place, self.opening = np.array([WIDTH / 2, HEIGHT / 2]), 1.0
        self.discs = [self.elsewhere() for _ in range(4)]
        self.held: int | None = None
        self._add()

    @property
    def now_s(self) -> float:
        return (len(self.rows) - 1) / self.fps

    def _add(self) -> None:
        if self.held is not None:
            self.discs[self.held] = self.place.copy()
        self.rows.append(np.concatenate([self.place, [self.opening], *self.discs]))

    def elsewhere(self, too: np.ndarray | None = None) -> np.ndarray:
        """Draw a place that is a fair way off from the arm, and from another place too."""
        while True:
            place = self.rng.uniform((10, 10), (WIDTH - 10, HEIGHT - 10))
            if all(np.linalg.norm(place - other) > 25 for other in (self.place, too) if other is not None):
                return place

    def go(self, goal: np.ndarray) -> None:
        """Move on a minimum-jerk path."""
        start, steps = self.place, max(4, round(np.linalg.norm(goal - self.place) / self.speed * self.fps))
        for step in range(1, steps + 1):
            share = step / steps
            self.place = start + (goal - start) * (10 * share**3 - 15 * share**4 + 6 * share**5)
            self._add()

    def grip(self, opening: float, disc: int | None) -> None:
        """Close or open within 0.3 s; what is held moves along from then on."""
        self.held = None if disc is None else self.held
        steps = round(0.3 * self.fps)
        for value in np.linspace(self.opening, opening, steps + 1)[1:]:
            self.opening = float(value)
            self._add()
        self.held = disc

    def stand(self, seconds: float) -> None:
        """Do nothing."""
        for _ in range(round(seconds * self.fps)):
            self._add()


def _draw(row: np.ndarray, background: np.ndarray) -> np.ndarray:
    image = background.copy()
    for disc, colour in zip(row[3:].reshape(-1, 2), COLOURS, strict=True):
        cv2.circle(image, _pixel(disc), 5, colour, -1)
    x, y = _pixel(row[:2])
    cv2.line(image, (x, 0), (x, y), (30, 30, 35), 5)
    reach = round(4 + 5 * row[2])
    cv2.line(image, (x - reach, y - 3), (x - reach, y + 5), (20, 20, 20), 3)
    cv2.line(image, (x + reach, y - 3), (x + reach, y + 5), (20, 20, 20), 3)
    return image


def _pixel(place: np.ndarray) -> tuple[int, int]:
    return round(float(place[0])), round(float(place[1]))
