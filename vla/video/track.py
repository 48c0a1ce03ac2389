"""One pass over a clip: every frame is measured once, small pictures go to a file, what stays is small."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from vla.video.decode import Clip, Facts, Limits
from vla.video.objects import Detector, Follower, Sighting, Thing, sight
from vla.video.picture import CELLS, LOOKS, Movement, change, light, looks, luma

RATE_HZ = 10.0  # looks, movement and thumbnails are taken this often at most; light and change at every frame
_QUALITY = 92  # of the thumbnails' JPEG
_BEAT_FRAMES = 50


@dataclass(frozen=True)
class Track:
    """What one camera showed over N frames, M of which are samples, RATE_HZ of them a second at most."""

    time_s: np.ndarray  # float64[N], from the file's time stamps
    difference: np.ndarray  # float32[N] mean difference of luma to the frame before [levels of 255], 0 at first
    changed: np.ndarray  # float32[N] share of pixels that differ from the frame before
    dark: np.ndarray  # uint8[N] 5th percentile of luma
    bright: np.ndarray  # uint8[N] 95th percentile of luma
    contrast: np.ndarray  # float32[N] standard deviation of luma [levels]
    blur: np.ndarray  # float32[N] 0 sharp .. 1 blurred
    sample: np.ndarray  # int32[M] frame numbers of the samples
    looks: np.ndarray  # float16[M, LOOKS]
    flow: np.ndarray  # float16[M, CELLS, CELLS, 2] shift since the sample before [picture widths], zero at first
    thumbnails: Path  # JPEG pictures of the samples, one after the other
    offsets: np.ndarray  # int64[M + 1] where each begins
    facts: Facts
    things: tuple[Thing, ...] = ()  # coloured ones, followed over all frames; their places at the samples
    left_out: str = ""  # what of the things is not remembered, as there was too much of it

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.time_s)

    def nearest_sample(self, time_s: float) -> int:
        """Return the number of the sample nearest to a time."""
        return int(np.abs(self.time_s[self.sample] - time_s).argmin())

    def thumbnail(self, sample: int) -> bytes:
        """Return the JPEG picture of a sample."""
        with self.thumbnails.open("rb") as file:
            file.seek(int(self.offsets[sample]))
            return file.read(int(self.offsets[sample + 1] - self.offsets[sample]))

    def picture(self, time_s: float) -> np.ndarray:
        """Return the thumbnail nearest to a time, uint8[h, w, 3] RGB."""
        data = np.frombuffer(self.thumbnail(self.nearest_sample(time_s)), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image is not None, "a JPEG of our own can be decoded"
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def watch(clip: Clip, limits: Limits, thumbnails: Path, beat: Callable[[float], None]) -> Track:
    """Decode `clip` once and measure it; thumbnails go to the file `thumbnails`.

    `beat` is called now and then with the time of the latest frame [s]. Memory grows by some 30 bytes a frame and
    0.8 kB a sample, about 35 MB an hour, and by 24 bytes a sample for each coloured thing in sight, up to MOST_PLACES.
    Raises ClipError where the clip cannot be read.
    """
    cv2.setNumThreads(1)  # with one thread the same pixels give the same numbers
    facts, movement, follower, previous, due_s = Facts(), Movement(), Follower(), None, -np.inf
    rows, times_s, samples, described, flows, offsets = _Rows(6), [], [], _Rows(LOOKS, np.float16), [], [0]
    sightings: list[Sighting] = []
    with thumbnails.open("wb") as file:
        for number, frame in enumerate(clip.frames(limits, facts)):
            grey = luma(frame.image)
            measured = light(grey)
            differs = (0.0, 0.0) if previous is None else change(previous, grey)
            rows.add((*differs, measured.dark, measured.bright, measured.contrast, measured.blur))
            times_s.append(frame.time_s)
            previous = grey
            due = frame.time_s >= due_s - 1e-6
            if due or differs[1] > 0:  # else everything is where it was
                sightings = sight(frame.image, shapes=due)
            follower.update(frame.time_s, sightings, keep=due)
            if due:
                due_s = max(due_s, frame.time_s - 1 / RATE_HZ) + 1 / RATE_HZ if samples else frame.time_s + 1 / RATE_HZ
                samples.append(number)
                described.add(looks(frame.image))
                flows.append(movement(grey).astype(np.float16))
                file.write(jpeg(frame.image))
                offsets.append(file.tell())
            if number % _BEAT_FRAMES == 0:
                beat(frame.time_s)
    difference, changed, dark, bright, contrast, blur = rows.array().T
    return Track(
        time_s=np.array(times_s),
        difference=difference.copy(),
        changed=changed.copy(),
        dark=dark.astype(np.uint8),
        bright=bright.astype(np.uint8),
        contrast=contrast.copy(),
        blur=blur.copy(),
        sample=np.array(samples, np.int32),
        looks=described.array(),
        flow=np.array(flows, np.float16).reshape(-1, CELLS, CELLS, 2),
        thumbnails=thumbnails,
        offsets=np.array(offsets, np.int64),
        facts=facts,
        things=follower.things(),
        left_out=follower.left_out,
    )


def followed(track: Track, detector: Detector) -> Track:
    """Return the track with the things that a detector finds on its samples, instead of coloured ones."""
    follower = Follower()
    for time_s in track.time_s[track.sample]:
        follower.update(float(time_s), detector(track.picture(float(time_s))), keep=True)
    return replace(track, things=follower.things(), left_out=follower.left_out)


class _Rows:
    """A table that grows without keeping a Python object for every number."""

    def __init__(self, width: int, dtype: type = np.float32) -> None:
        self._table, self._length = np.empty((64, width), dtype), 0

    def add(self, row) -> None:
        if self._length == len(self._table):
            self._table = np.concatenate([self._table, np.empty_like(self._table)])
        self._table[self._length] = row
        self._length += 1

    def array(self) -> np.ndarray:
        return self._table[: self._length].copy()


def jpeg(image: np.ndarray) -> bytes:
    """Return uint8[h, w, 3] RGB as a JPEG that holds nothing but its pixels."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, "a small uint8 picture can always be encoded"
    return data.tobytes()
