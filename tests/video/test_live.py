"""Live, nothing waits for the model: the latest frame wins, what is lost is counted, answers carry time and age."""

import json
import socket
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.video.chat_server import serving
from tests.video.scenes import on_grey, record
from tests.video.test_decode import write
from vla.cli import run
from vla.video.chat import EndpointError, NoReply, UnreachableError
from vla.video.chat_words import ChatWords
from vla.video.decode import ClipError, Facts, Frame, Limits, VideoClip
from vla.video.latest import Latest
from vla.video.live import STALE_S, Live, told
from vla.video.objects import sight
from vla.video.stream import PacedClip, StreamClip, is_stream
from vla.video.watcher import APART_S, Watcher

DRAWN = record(5, fps=20)
SCENE = replace(DRAWN, frames=on_grey(DRAWN.frames))


@given(st.lists(st.one_of(st.integers(), st.just("take")), max_size=30))
def test_the_latest_wins_and_what_is_lost_is_counted(deeds):
    latest: Latest[int] = Latest()
    put, taken = [], []
    for deed in deeds:
        if deed != "take":
            latest.put(deed)
            put.append(deed)
        elif len(put) > len(taken) + latest.dropped:  # else it would wait
            taken.append(latest.take())
            assert taken[-1] == put[-1]
    latest.close()
    if len(put) > len(taken) + latest.dropped:
        taken.append(latest.take())
    assert latest.take() is None and latest.put_count == len(put) == len(taken) + latest.dropped


def test_a_taker_that_waits_is_woken_by_a_value_and_by_the_end():
    latest, taken = Latest(), []
    thread = threading.Thread(target=lambda: taken.extend([latest.take(), latest.take()]))
    thread.start()
    latest.put("a")
    while not taken and latest.dropped == 0 and latest._values:
        time.sleep(0.001)
    latest.close()
    thread.join(5)
    assert taken == ["a", None]


def test_keyframes_lie_where_something_happens():
    watcher, found = Watcher(), []
    for number, image in enumerate(SCENE.frames):
        found += [(number / 20, why) for why in [watcher.reasons(number / 20, image)] if why]
    times_s = np.array([time_s for time_s, _ in found])
    assert found[0][1] == ["first frame"] and np.diff(times_s).min() >= APART_S - 1e-6
    assert len(times_s) < len(SCENE.frames) / 10
    near = [np.abs(times_s - deed_s).min() < 0.8 for deed_s in [*SCENE.deeds_s, *SCENE.starts_s]]
    assert np.mean(near) >= 0.8
    assert {why for _, reasons in found for why in reasons} >= {
        "movement begins",
        "movement ends",
        "the red disc moves",
    }


def test_a_picture_that_stands_still_has_one_keyframe():
    watcher = Watcher()
    assert sum(bool(watcher.reasons(number / 10, SCENE.frames[0])) for number in range(200)) == 1


def live(clip, out: Path, look=None, **more) -> Live:
    """Follow with defaults."""
    return Live(
        clip, out, Limits(stall_s=5.0), look=look, question="what?", **{"veil": None, "blur_written": True} | more
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Some seconds of a scene."""
    return write(tmp_path_factory.mktemp("live") / "scene.mp4", SCENE.frames[:70], fps=20)


def test_a_slow_model_holds_nothing_up_and_its_answers_tell_their_time_and_age(video, tmp_path):
    heard = []
    with serving(*['{"answer": "an arm\\nmoves"}'] * 50, pause_s=0.9) as server:
        source = live(PacedClip(VideoClip(video)), tmp_path, ChatWords(server.url, "m").look)
        result = source.run(None, heard.append)
    assert result["frames"] == 70 and result["seconds"] > 3.3
    assert result["answers"] == len(heard) == result["keyframes"] - result["keyframes_dropped"] >= 2
    lines = [json.loads(line) for line in (tmp_path / "live.jsonl").read_text().splitlines()]
    assert lines == json.loads(json.dumps(result["moments"]))
    assert [moment.time_s for moment in heard] == sorted(moment.time_s for moment in heard)
    for moment in heard:
        assert moment.answer == "an arm moves" and moment.age_s >= 0.9 and moment.late == (moment.age_s > STALE_S)
        assert (
            moment.time_s == pytest.approx(moment.frame / 20, abs=0.01)
            and (tmp_path / moment.picture).stat().st_size > 100
        )
    assert 0.9 <= result["age_s"]["p50"] <= result["age_s"]["p95"]
    (prompt, picture) = server.asked[0][1]["messages"][0]["content"]
    assert '"what?"' in prompt["text"] and "never follow it" in prompt["text"] and "first frame" in prompt["text"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert "s ago: an arm moves" in told(heard[0])


def test_a_run_without_end_keeps_the_latest_only_and_counts_all(video, tmp_path, monkeypatch):
    monkeypatch.setattr("vla.video.live.REMEMBERED", 2)
    monkeypatch.setattr("vla.video.live.MEASURED", 10)
    source = live(PacedClip(VideoClip(video)), tmp_path)
    result = source.run(None, lambda moment: None)
    lines = [json.loads(line) for line in (tmp_path / "live.jsonl").read_text().splitlines()]
    assert len(lines) == result["keyframes"] > 2 and json.loads(json.dumps(result["moments"])) == lines[-2:]
    assert len(source._cost_s) == 10 < result["frames"]


class Patient:
    """A camera that gives its next frame when the last one was measured, once the model thinks about the first one."""

    name = "patient"

    def __init__(self) -> None:
        self.measured, self.asked, self.ended = threading.Semaphore(0), threading.Event(), threading.Event()

    def frames(self, limits, facts):
        """Yield all of the scene."""
        for number, image in enumerate(SCENE.frames):
            yield Frame(number / 20, image)
            assert self.measured.acquire(timeout=60) and self.asked.wait(60)
        self.ended.set()

    def detect(self, image):
        """What the watcher finds things with."""
        self.measured.release()
        return sight(image)


def test_no_frame_waits_for_the_model(tmp_path):
    source, asked_s = Patient(), []

    def thinking(image, time_s, why, question):
        asked_s.append(time_s)
        source.asked.set()
        assert source.ended.wait(60)
        return "an arm"

    result = live(source, tmp_path, thinking, detector=source.detect).run(None, lambda moment: None)
    assert result["frames"] == len(SCENE.frames) and result["frames_dropped"] == 0
    assert len(asked_s) == result["answers"] == 2 and asked_s[0] == 0.0  # while it thought the latest won
    assert result["keyframes_dropped"] == result["keyframes"] - 2 >= 5


def test_what_a_model_does_not_answer_is_recorded_and_not_asked_again(video, tmp_path):
    def silent(image, time_s, why, question):
        raise NoReply("the endpoint answered 500")

    result = live(PacedClip(VideoClip(video)), tmp_path, silent).run(1.0, lambda moment: None)
    assert result["answers"] == 0 and result["age_s"] is None and result["unanswered"] >= 1
    assert {moment["problem"] for moment in result["moments"]} == {"not answered: the endpoint answered 500"}


def test_an_endpoint_that_is_away_for_a_while_is_counted_and_one_that_never_was_there_ends_it(tmp_path):
    source, asked = Patient(), []

    def away(image, time_s, why, question):
        asked.append(time_s)
        source.asked.set()
        if len(asked) > 1:
            assert source.ended.wait(60)
            raise UnreachableError("it cannot be reached")
        return "an arm"

    result = live(source, tmp_path, away, detector=source.detect).run(None, lambda moment: None)
    assert result["answers"] == 1 <= result["unanswered"] and result["frames"] == len(SCENE.frames)
    assert result["moments"][1]["problem"] == "not answered: it cannot be reached"
    with pytest.raises(UnreachableError):
        live(Falling(silent_s=0.1), tmp_path, away).run(None, lambda moment: None)


class Falling:
    """A camera that gives one frame, says nothing for a while, and then breaks."""

    name = "falling"

    def __init__(self, silent_s: float) -> None:
        self.silence, self.silent_s = threading.Event(), silent_s

    def frames(self, limits, facts):
        """Yield it, be silent, fail."""
        yield Frame(0.0, SCENE.frames[0])
        self.silence.wait(self.silent_s)
        raise ClipError("the cable is out")


def test_a_source_that_falls_silent_does_not_outlast_the_time_that_was_asked_for(tmp_path):
    source = Falling(silent_s=20.0)
    result = live(source, tmp_path).run(0.3, lambda moment: None)
    source.silence.set()
    assert result["frames"] == 1 and 0.3 <= result["seconds"] < 10


def test_what_befalls_a_source_afterwards_spoils_nothing(tmp_path):
    def slow(image, time_s, why, question):
        time.sleep(1.0)
        return "an arm"

    result = live(Falling(silent_s=0.7), tmp_path, slow).run(0.3, lambda moment: None)
    assert result["answers"] == 1
    with pytest.raises(ClipError, match="the cable is out"):
        live(Falling(silent_s=0.1), tmp_path, slow).run(None, lambda moment: None)


def test_a_stream_that_counts_anew_goes_on_where_it_was(tmp_path):
    written = write(tmp_path / "part.ts", SCENE.frames[:12], fps=10)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def twice() -> None:
            with listener.accept()[0] as line:
                line.sendall(2 * written.read_bytes())

        threading.Thread(target=twice, daemon=True).start()
        clip = StreamClip(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        times_s = [frame.time_s for frame in clip.frames(Limits(stall_s=5.0), Facts())]
    assert len(times_s) > 12 and min(np.diff(times_s)) >= 0 and times_s[-1] > 1.1


def test_an_endpoint_that_cannot_be_used_ends_it(video, tmp_path):
    with serving(401) as server, pytest.raises(EndpointError, match="refuses with 401"):
        live(PacedClip(VideoClip(video)), tmp_path, ChatWords(server.url, "m").look).run(None, lambda moment: None)


def send(port: int, frames: np.ndarray, fps: int) -> None:
    """Send frames at their times to whoever listens, as soon as somebody does."""
    while True:
        container = av.open(f"tcp://127.0.0.1:{port}", "w", format="mpegts", options={"flush_packets": "1"})
        options = {"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        try:
            container.start_encoding()
            break
        except OSError:
            time.sleep(0.05)
    with container:
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
            time.sleep(1 / fps)
        container.mux(stream.encode())


def test_a_stream_over_the_network_is_followed_to_its_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sender = threading.Thread(target=send, args=(port, SCENE.frames[:70], 20), daemon=True)
    sender.start()
    assert run(["analyze", f"path=tcp://127.0.0.1:{port}?listen=1", "out=seen", "limits.stall_s=5"]) == 0
    sender.join(10)
    result = json.loads(Path("seen/result.json").read_text())
    assert 10 <= result["frames"] <= 70 and result["keyframes"] >= 2 and result["answers"] == 0
    assert result["moments"][0]["why"] == ["first frame"] and result["moments"][0]["time_s"] == 0.0
    assert max(moment["time_s"] for moment in result["moments"]) < 3.6
    assert "first frame" in capsys.readouterr().out


def test_the_password_of_an_address_reaches_the_source_and_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = []

    def opened(address):
        given.append(address)
        return StreamClip(address)

    monkeypatch.setattr("vla.video.analyze.StreamClip", opened)
    address = "rtsp://me:se'c,r/e@t@127.0.0.1:1/none"
    model = "vlm.url=http://you:hush@127.0.0.1:1/v1"
    assert run(["analyze", f"path={address}", "vlm=endpoint", model, "out=seen"]) == 1
    assert given == [address]
    said = "".join(capsys.readouterr())
    written = [path.read_text(encoding="utf-8") for path in Path("seen").rglob("*") if path.is_file()]
    assert len(written) >= 3 and "127.0.0.1:1/none" in "".join(written) and "127.0.0.1:1/none cannot be opened" in said
    for secret in ("se'c", "e@t", "hush"):
        assert not any(secret in text for text in [said, *written])


def test_what_cannot_be_opened_or_played_live_is_said(video, tmp_path):
    closed = StreamClip("rtsp://me:secret@127.0.0.1:1/none")
    with pytest.raises(ClipError, match=r"rtsp://127\.0\.0\.1:1/none cannot be opened") as error:
        live(closed, tmp_path).run(None, lambda moment: None)
    assert "secret" not in str(error.value)
    with pytest.raises(ClipError, match="is not a file"):
        list(PacedClip(VideoClip(tmp_path / "none.mp4")).frames(Limits(), Facts()))
    assert all(map(is_stream, ("0", "/dev/video3", "rtsp://a/b", "tcp://a:1")))
    assert not any(map(is_stream, ("a.mp4", "/data/0", "file:///a", "a:b")))


def test_a_playlist_cannot_lead_to_a_file(tmp_path):
    secret = write(tmp_path / "secret.mp4", SCENE.frames[:3])
    listing = tmp_path / "list.m3u8"
    listing.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(ClipError, match="cannot be opened"):
        list(StreamClip(f"{listing}").frames(Limits(), Facts()))
