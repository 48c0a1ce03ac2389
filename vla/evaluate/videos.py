"""Annotated videos of episodes: what the cameras saw, what was asked for, and what the policy said and commanded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.evaluate.episodes import OUTCOMES, Episode
from vla.evaluate.workers import Recording
from vla.types import Embodiment

WIDTH, HEIGHT = 1280, 720  # [px]
INK, DIM, LINE, GROUND, PANEL = "#f2f5fa", "#93a0b8", "#2a3550", "#0d1322", "#151d31"
BLUE, GREEN, AMBER, RED = "#5aa9ff", "#4ade80", "#fbbf24", "#f87171"
ENDING_S = 1.5  # the last frame stays, with the verdict


@dataclass(frozen=True)
class Caption:
    """What stands beside one frame."""

    instruction: str
    subtask: str
    number: int  # of the subtask, from 1
    finished: int
    progress: float | None  # predicted, 0..1
    done: float | None  # predicted probability
    time_s: float
    command: np.ndarray | None  # float32[A], absolute joint targets [rad], gripper 0..1
    state: np.ndarray  # float32[A], measured
    verdict: str = ""  # shown when not empty
    good: bool = False


class Painter:
    """Draw frames of a fixed layout: a large view, small views, progress, and one row a joint."""

    def __init__(self, embodiment: Embodiment):
        self.embodiment = embodiment

    def draw(self, views: dict[str, np.ndarray], caption: Caption) -> np.ndarray:
        """Return uint8[720, 1280, 3]; the first of the `views` is shown large."""
        canvas = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
        pen = ImageDraw.Draw(canvas)
        self._head(pen, caption)
        (large_name, large), *small = views.items()
        self._view(canvas, pen, large_name, large, (32, 124, 564))
        left = 624
        for name, image in small:
            self._view(canvas, pen, name, image, (left, 124, 204))
            left += 220
        self._gauges(pen, caption, left)
        self._joints(pen, caption)
        if caption.verdict:
            self._verdict(pen, caption)
        return np.asarray(canvas)

    def _head(self, pen: ImageDraw.ImageDraw, caption: Caption) -> None:
        size = next((size for size in (36, 32, 28, 24, 20) if _font(size).getlength(caption.instruction) < 1050), 17)
        pen.text((32, 26), caption.instruction or "(no instruction)", INK, _font(size))
        pen.text((WIDTH - 32, 26), f"{caption.time_s:4.1f} s", DIM, _font(30), anchor="ra")
        if caption.subtask != caption.instruction:
            label = f"subtask {caption.number}"
            pen.text((32, 78), label, BLUE, _font(22))
            pen.text((32 + _font(22).getlength(label) + 14, 78), caption.subtask, INK, _font(22))

    def _view(
        self, canvas: Image.Image, pen: ImageDraw.ImageDraw, name: str, image: np.ndarray, at: tuple[int, int, int]
    ) -> None:
        left, top, side = at
        height, width = image.shape[:2]
        scale = side / max(height, width)
        shape = (round(width * scale), round(height * scale))
        scaled = cv2.resize(image, shape, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
        canvas.paste(Image.fromarray(scaled), (left + (side - shape[0]) // 2, top + (side - shape[1]) // 2))
        pen.rectangle((left - 1, top - 1, left + side, top + side), outline=LINE)
        if side < 400:
            pen.text((left + side / 2, top + side + 8), name, DIM, _font(16), anchor="ma")

    def _gauges(self, pen: ImageDraw.ImageDraw, caption: Caption, left: int) -> None:
        """Draw what the policy says about the subtask: how far, and whether done."""
        right = WIDTH - 32
        for top, name, value in ((132, "progress", caption.progress), (218, "done", caption.done)):
            pen.text((left, top), name, DIM, _font(19))
            pen.text((right, top), "-" if value is None else f"{100 * value:.0f} %", INK, _font(19), anchor="ra")
            pen.rounded_rectangle((left, top + 30, right, top + 44), 7, fill=LINE)
            if value is not None and value > 0.02:
                colour = GREEN if name == "done" and value >= 0.5 else BLUE
                pen.rounded_rectangle((left, top + 30, left + (right - left) * min(value, 1), top + 44), 7, fill=colour)
        if caption.finished:
            pen.text((left, 302), f"{caption.finished} finished", GREEN, _font(19))

    def _joints(self, pen: ImageDraw.ImageDraw, caption: Caption) -> None:
        """Draw one row a joint: the commanded target as a knob, the measured position as a tick."""
        body = self.embodiment
        pen.rounded_rectangle((616, 372, WIDTH - 24, 696), 12, fill=PANEL)
        pen.text((636, 384), "joint commands", DIM, _font(18))
        pen.text((WIDTH - 44, 384), "knob: target    tick: measured", DIM, _font(15), anchor="ra")
        pitch = 272 / len(body.joints)
        for row, name in enumerate(body.joints):
            middle = 418 + pitch * (row + 0.5)
            low, high = body.position_min[row], body.position_max[row]
            pen.text((636, middle), name.replace("_", " "), INK, _font(20), anchor="lm")
            pen.line((820, middle, 1120, middle), fill=LINE, width=6)
            zero = 820 + 300 * float(np.clip(-low / (high - low), 0, 1))
            measured = 820 + 300 * float(np.clip((caption.state[row] - low) / (high - low), 0, 1))
            if caption.command is not None:
                target = 820 + 300 * float(np.clip((caption.command[row] - low) / (high - low), 0, 1))
                pen.line((min(zero, target), middle, max(zero, target), middle), fill="#31588a", width=6)
                pen.ellipse((target - 8, middle - 8, target + 8, middle + 8), fill=BLUE)
                pen.text((WIDTH - 44, middle), _words(name, caption.command[row]), INK, _font(20), anchor="rm")
            pen.line((measured, middle - 12, measured, middle + 12), fill=AMBER, width=3)

    def _verdict(self, pen: ImageDraw.ImageDraw, caption: Caption) -> None:
        font = _font(30)
        width = min(font.getlength(caption.verdict) + 48, 540)
        size = 30 if width < 540 else 22
        pen.rounded_rectangle((44, 616, 44 + width, 676), 14, fill=GREEN if caption.good else RED)
        pen.text((44 + width / 2, 646), caption.verdict, "#0b1020", _font(size), anchor="mm")


def episode_frames(episode: Episode, embodiment: Embodiment) -> Iterator[np.ndarray]:
    """Yield the annotated frames uint8[720, 1280, 3] of a recorded episode, at the control rate, verdict last."""
    if episode.recording is None:
        raise ValueError("the episode was not recorded; run its case with record=True")
    painter, frame = Painter(embodiment), None
    told = captions(episode, episode.recording, embodiment.control_hz)
    for pixels, caption in zip(episode.recording.pixels, told, strict=True):
        frame = painter.draw(order_views(pixels), caption)
        yield frame
    if frame is not None:
        yield from [frame] * int(ENDING_S * embodiment.control_hz)


def captions(episode: Episode, recording: Recording, control_hz: float) -> Iterator[Caption]:
    """Yield what stands beside each frame; a subtask keeps its words and its number until the next is named."""
    said = {prediction.step: prediction for prediction in episode.predictions}
    claimed = [claim for claim, _ in episode.claims] if episode.case.stepping else []
    verdict = "success" if episode.success else OUTCOMES[episode.outcome].split(":")[0]
    latest = None
    for step, state in enumerate(recording.states):
        latest = said.get(step, latest)
        over = step == len(recording.states) - 1
        good = episode.success_step is not None and step >= episode.success_step
        yield Caption(
            instruction=episode.spoken or episode.instruction,
            subtask=latest.subtask if latest else episode.spoken,
            number=_number(episode.plans, latest.step if latest else 0),
            finished=sum(claim <= step for claim in claimed),
            progress=latest.progress if latest else None,
            done=latest.done if latest else None,
            time_s=step / control_hz,
            command=recording.actions[step - 1] if step else None,
            state=state,
            verdict="success" if good else verdict if over else "",
            good=good,
        )


def _number(plans: Sequence[tuple[int, str]], step: int) -> int:
    """Count the subtasks that had been planned by then; one that is tried again counts once."""
    return max(1, sum(1 for _ in groupby(text for planned, text in plans if planned <= step)))


def order_views(pixels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Put the environment's own picture first where there is one; the cameras of the policy follow."""
    return dict(sorted(pixels.items(), key=lambda item: item[0] != "render"))


def write_video(path: Path, frames: Iterable[np.ndarray], *, fps: float) -> int:
    """Write uint8[H, W, 3] RGB frames as H.264 that browsers play; return how many."""
    count = 0
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "24", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            count += 1
        container.mux(stream.encode())
    return count


def title_card(lines: Sequence[str], *, fps: float, seconds: float) -> list[np.ndarray]:
    """Return frames that show a few centred lines, the first one large."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    pen = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        pen.text(
            (WIDTH / 2, 300 + 62 * row), line, INK if row == 0 else DIM, _font(52 if row == 0 else 28), anchor="mm"
        )
    return [np.asarray(canvas)] * max(1, round(fps * seconds))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _words(joint: str, value: float) -> str:
    return f"{100 * value:.0f} % open" if joint == "gripper" else f"{np.degrees(value):+.1f}°"
