"""What can be wrong with the pictures of one camera, told from its track alone and from what is known to have moved."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vla.video.events import arm_motion, movement, spans
from vla.video.flag import ERROR, NOTE, WARNING, Flag
from vla.video.motion import Motion
from vla.video.state import State
from vla.video.track import Track

BLACK, WHITE = 20, 235  # 95th percentile of luma up to this is black, 5th from this on is white
BLANK = 3.0  # standard deviation of luma below which there is nothing to see
BLURRED, BLURRED_S = 0.12, 0.3  # more blur than usual by this, for this long
USUAL = 90  # percentile of change between frames that stands for this camera's picture in movement
UNCHANGED_PIXELS, UNCHANGED_LUMA = 0.005, 0.12  # of the usual change: less is a picture that stands
CODED_LUMA = 1.0  # mean difference [levels] by which the same picture may differ when it is encoded anew
FROZEN_S = 0.25  # shorter stands are duplicated frames
FROZEN_WAY_S = 0.06  # least way that something must have gone during a frozen picture, at reference speed [s]
DUPLICATED_SPEED = 0.23  # least mean speed during a duplicated frame; what goes slower may stay on its pixel
SEEN, SEEN_ALONE = 0.02, 0.8  # pixels that change before and after, of the usual: with a witness, and without one
SEEN_PIXELS = 0.001  # of the picture, at least, where a witness is needed
RESUMED = 1.0  # change when the picture goes on that is enough by itself, of the usual
WHOLE_WAY_S, WHOLE_LUMA = 1.0, 0.05  # a picture that never changes by so much while something goes so far is frozen
JUMP, JUMP_USUAL = 3.0, 1.6  # change at a jump, of that before and after, and of the usual
CUT_LOOKS = 0.45  # distance of looks before and after a cut
GAP, RATE_VARIES, GAP_VARYING = 1.5, 1.5, 6.0  # of the median time between frames
_LEAST = 1e-9  # keeps a division by nothing finite


@dataclass(frozen=True)
class Witness:
    """How far something that is not this camera has moved by each time: the arm by its state, or other cameras."""

    time_s: np.ndarray  # float64[K]
    way_s: np.ndarray  # float64[K], in seconds at reference speed, ascending

    @classmethod
    def of(cls, motion: Motion) -> "Witness":
        """Add up the way of a motion."""
        steps = np.linalg.norm(np.diff(motion.place, axis=0, prepend=motion.place[:1]), axis=1) / motion.fast
        return cls(motion.time_s, np.cumsum(steps))

    def way(self, start_s: float, stop_s: float) -> float:
        """Way between two times [s at reference speed]."""
        ends = np.interp([start_s, stop_s], self.time_s, self.way_s)
        return float(ends[1] - ends[0])


def witness(camera: str, tracks: Mapping[str, Track], state: State | None) -> Witness | None:
    """Return what tells whether something moved: the joints if there are any, else the other cameras, else nothing."""
    if state is not None and state.joints.shape[1] and len(state.time_s) > 2:
        return Witness.of(arm_motion(state))
    others = {name: track for name, track in tracks.items() if name != camera}
    return Witness.of(movement(others)) if others else None


def camera_flags(camera: str, track: Track, seen_by: Witness | None, usual_blur: float | None = None) -> list[Flag]:
    """Return the flags of one camera; `usual_blur` is the camera's median over a dataset, by default this clip's."""
    found = [
        *_file_flags(camera, track),
        *_time_flags(camera, track),
        *_light_flags(camera, track),
        *_blur_flags(camera, track, usual_blur),
        *_still_flags(camera, track, seen_by),
        *_jump_flags(camera, track),
    ]
    return sorted(found, key=lambda flag: (flag.start_s, flag.code))


def _file_flags(camera: str, track: Track) -> Iterator[Flag]:
    facts, last_s = track.facts, float(track.time_s[-1])
    if facts.damaged_s:
        count = len(facts.damaged_s)
        words = f"{count} places could not be decoded whole"
        yield Flag("damaged", ERROR, camera, min(facts.damaged_s), max(facts.damaged_s), words, {"places": count})
    if facts.cut_off:
        promised_s = facts.declared_s or last_s
        words = f"the file ends at {last_s:.2f} s and promises {promised_s:.2f} s"
        yield Flag("cut_off", ERROR, camera, last_s, promised_s, words, {"promised_s": promised_s})
    if facts.video_streams > 1:
        words = f"the file has {facts.video_streams} video streams, the first one was read"
        yield Flag("more_streams", NOTE, camera, 0.0, last_s, words, {"streams": facts.video_streams})


def _time_flags(camera: str, track: Track) -> Iterator[Flag]:
    """Judge the time stamps: a gap is told against the rate, where there is one."""
    time_s = track.time_s
    if len(time_s) < 3:
        return
    step_s = np.diff(time_s)
    for place in np.flatnonzero(step_s <= 0)[:1]:
        count = int((step_s <= 0).sum())
        words = f"{count} time stamps are not later than the one before"
        yield Flag("backwards", ERROR, camera, float(time_s[place]), float(time_s[place]), words, {"frames": count})
    usual_s = float(np.median(step_s))
    spread = float(np.percentile(step_s, 95) / max(np.percentile(step_s, 5), 1e-6))
    varies = spread > RATE_VARIES
    if varies:
        words = f"the time between frames varies by a factor of {spread:.1f} around {1000 * usual_s:.0f} ms"
        yield Flag("variable_rate", NOTE, camera, float(time_s[0]), float(time_s[-1]), words, {"factor": spread})
    for place in np.flatnonzero(step_s > (GAP_VARYING if varies else GAP) * usual_s):
        missing = round(step_s[place] / usual_s) - 1
        words = f"{step_s[place]:.3f} s between two frames instead of {usual_s:.3f}: about {missing} are missing"
        span_s = (float(time_s[place]), float(time_s[place + 1]))
        yield Flag("gap", ERROR, camera, *span_s, words, {"missing": missing, "seconds": float(step_s[place])})


def _light_flags(camera: str, track: Track) -> Iterator[Flag]:
    black = (track.bright <= BLACK) & (track.contrast < 2 * BLANK)
    white = (track.dark >= WHITE) & (track.contrast < 2 * BLANK)
    blank = (track.contrast < BLANK) & ~black & ~white
    for code, mask in (("black", black), ("white", white), ("blank", blank)):
        for start, stop in spans(mask):
            span_s = _until_next(track, start, stop)
            words = f"{stop - start + 1} frames are {code}"
            numbers = {"frames": stop - start + 1, "contrast": float(track.contrast[start : stop + 1].max())}
            yield Flag(code, ERROR, camera, *span_s, words, numbers)


def _blur_flags(camera: str, track: Track, usual_blur: float | None) -> Iterator[Flag]:
    """Compare each frame with what is usual; pictures without structure are told by `_light_flags`."""
    if usual_blur is None:
        usual_blur = float(np.percentile(track.blur, 20))
    for start, stop in spans((track.blur > usual_blur + BLURRED) & (track.contrast >= 2 * BLANK)):
        span_s = _until_next(track, start, stop)
        if span_s[1] - span_s[0] >= BLURRED_S - 1e-6:
            most = float(track.blur[start : stop + 1].max())
            words = f"blur rises to {most:.2f}, usual are {usual_blur:.2f}"
            yield Flag("blurred", WARNING, camera, *span_s, words, {"blur": most, "usual": usual_blur})


def _still_flags(camera: str, track: Track, seen_by: Witness | None) -> Iterator[Flag]:
    """Tell a picture that stands from a scene that rests: something must move meanwhile, and be seen to do so before.

    Without a witness only a stand between two fast moments is suspicious.
    """
    usual = float(np.percentile(track.difference, USUAL)), float(np.percentile(track.changed, USUAL))
    time_s, count = track.time_s, len(track)
    whole_s = seen_by.way(float(time_s[0]), float(time_s[-1])) if seen_by else 0.0
    if count > 2 and track.difference.max() < WHOLE_LUMA and whole_s > WHOLE_WAY_S:
        words = f"the picture never changes, while something moves for {whole_s:.1f} s of fast movement"
        yield Flag("frozen", ERROR, camera, float(time_s[0]), float(time_s[-1]), words, {"frames": count})
        return
    still = (track.difference <= max(UNCHANGED_LUMA * usual[0], CODED_LUMA)) & (
        track.changed <= UNCHANGED_PIXELS * usual[1]
    )
    still[:1] = False
    seen = track.changed / max(usual[1], _LEAST)
    witnessed = max(SEEN, SEEN_PIXELS / max(usual[1], _LEAST))
    single: list[tuple[int, int]] = []
    for start, stop in spans(still):
        span_s = float(time_s[start - 1]), float(time_s[stop])
        sides = [float(seen[k]) for k in (start - 1, stop + 1) if 0 < k < count]
        if not sides:
            continue
        at_end, resumed = len(sides) < 2, stop + 1 < count and seen[stop + 1] > RESUMED
        way_s, length_s = (seen_by.way(*span_s) if seen_by else 0.0), span_s[1] - span_s[0]
        if length_s < FROZEN_S:
            moves = seen_by is not None and way_s > DUPLICATED_SPEED * length_s
            if not at_end and min(sides) > (witnessed if moves else SEEN_ALONE):
                single.append((start, stop))
            continue
        least = (2 * witnessed if at_end else witnessed) if seen_by else SEEN_ALONE
        visible = min(sides) > least or (seen_by is not None and resumed)
        if visible and (way_s > FROZEN_WAY_S or (seen_by is None and not at_end)):
            words = f"the picture stands for {length_s:.2f} s between moments of movement"
            numbers = {"frames": stop - start + 1, "way_s": way_s}
            yield Flag("frozen", ERROR if seen_by else WARNING, camera, *span_s, words, numbers)
    if single:
        repeats = sum(stop - start + 1 for start, stop in single)
        span_s = float(time_s[single[0][0]]), float(time_s[single[-1][1]])
        words = f"{repeats} of {count} frames repeat the one before, the first at {span_s[0]:.2f} s"
        yield Flag("duplicated", WARNING, camera, *span_s, words, {"frames": repeats, "share": repeats / count})


def _jump_flags(camera: str, track: Track) -> Iterator[Flag]:
    """Find changes that stand alone: between frames that hardly change, or change far less."""
    change, count = track.difference, len(track)
    if count < 4:
        return
    usual = float(np.percentile(change, USUAL))
    around = np.maximum(change[1:-2], change[3:])  # of the frames before and after
    lone = 2 + np.flatnonzero((change[2:-1] > JUMP * around) & (change[2:-1] > JUMP_USUAL * usual))
    for place in lone:
        span_s = float(track.time_s[place - 1]), float(track.time_s[place])
        before, after = (track.nearest_sample(at_s) for at_s in (span_s[0], span_s[1] + 0.05))
        distance = float(np.linalg.norm(track.looks[before].astype(np.float32) - track.looks[after]))
        code = "cut" if distance > CUT_LOOKS else "jump"
        words = f"luma changes by {change[place]:.0f} levels at once, by {around[place - 2]:.0f} before and after"
        yield Flag(code, WARNING, camera, *span_s, words, {"levels": float(change[place]), "looks": distance})


def _until_next(track: Track, start: int, stop: int) -> tuple[float, float]:
    """Times from a frame's until that of the frame after another one."""
    after = min(stop + 1, len(track) - 1)
    return float(track.time_s[start]), float(track.time_s[after])
