"""`vla analyze` leaves timelines, tables and pages, resumes, and is not fooled by hostile names."""

import base64
import hashlib
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from tests.video.chat_server import serving
from tests.video.scenes import record
from tests.video.test_decode import write as encode
from vla.cli import run
from vla.data.dataset import EpisodeDataset
from vla.video import timeline
from vla.video.analyze import analyze, folder_name, questions
from vla.video.answer import NOT_VISIBLE, Answer, cite
from vla.video.chat_words import ChatWords
from vla.video.decode import ClipError, Limits
from vla.video.outcome import FAILURE, Outcome, Suspect
from vla.video.segments import Segment
from vla.video.source import Item
from vla.video.words import NoWords, Story

GOLDEN = Path(__file__).parents[1] / "data/golden/lerobot-0.6.1"
HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'"&{{ 7*7 }}"""


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.script = [], [], "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Remember tags and attributes."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        """Remember text, scripts apart."""
        if self.tags[-1:] == ["script"]:
            self.script += data
        else:
            self.text += data


class HostileWords(NoWords):
    """A model whose every answer is an attack."""

    identity = HOSTILE

    def name(self, story: Story) -> list[Segment]:
        """Attack."""
        return [Segment(s.start_s, s.stop_s, HOSTILE, HOSTILE, (HOSTILE,), (), HOSTILE) for s in story.segments]

    def judge(self, story: Story) -> Outcome:
        """Attack."""
        return Outcome(FAILURE, HOSTILE, (Suspect(1.0, "slip", (HOSTILE,)),), HOSTILE, HOSTILE)

    def answer(self, story: Story, question: str, times_s) -> Answer:
        """Attack."""
        return cite(HOSTILE, HOSTILE, times_s, story.tracks["video"], HOSTILE, problem=HOSTILE)


def go(path: Path, out: Path, words=None, **changes):
    """Analyse with defaults."""
    settings = {"limits": Limits(), "budget": 24, "images_fps": 1.0} | changes
    return analyze(path, out, words=words or NoWords(), **settings)


@pytest.fixture
def videos(tmp_path) -> Path:
    """A folder of two scenes, one with a hostile name, and one broken file."""
    (tmp_path / "in").mkdir()
    for seed, name in ((1, "a.mp4"), (2, "<b onclick=alert(3)>.mp4")):
        encode(tmp_path / "in" / name, record(seed, discs=1, rest_s=0.5).frames)
    (tmp_path / "in/broken.mp4").write_bytes(b"not a video at all")
    return tmp_path / "in"


def test_the_command_line_analyses_a_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["analyze", f"path={GOLDEN}", "out=done", "vlm=none", "episodes=[0,2]"]) == 0
    result = json.loads(Path("done/result.json").read_text())
    keys = ["path", "name", "frames", "duration_s", "keyframes", "segments", "qa", "outcome", "timeline", "report"]
    assert [list(item) for item in result["items"]] == [keys, keys]
    assert [(item["name"], item["frames"]) for item in result["items"]] == [("episode 0", 5), ("episode 2", 8)]
    assert all(Path(item["timeline"]).is_file() and Path(item["report"]).is_file() for item in result["items"])


def test_segments_become_the_subtasks_of_a_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN, "data")
    command = ["analyze", "path=data", "out=done", "vlm=none", "episodes=[0,2]", "subtask_feature=label"]
    assert run([*command, "subtasks=labelled"]) == 0
    assert "label" not in EpisodeDataset("data").features
    labelled, result = EpisodeDataset("labelled"), json.loads(Path("done/result.json").read_text())
    column = labelled.column("label")
    for item, episode in zip(result["items"], [labelled.episodes[0], labelled.episodes[2]], strict=True):
        segments = json.loads(Path(item["timeline"]).read_text())["segments"]
        own = column[episode.start : episode.start + episode.length]
        assert own[0] == segments[0]["label"] and own[-1] == segments[-1]["label"]
        assert set(own) <= {segment["label"] for segment in segments}
    assert set(column[labelled.episodes[1].start : labelled.episodes[2].start]) == {""}
    assert run([*command, "subtasks=in_place"]) == 0 and EpisodeDataset("data").column("label") == column
    assert run([*command, "subtasks=in_place"]) == 1
    assert "has a feature 'label' already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["subtasks=labelled", "subtask_feature=action"], "has a feature 'action' already"),
        (["subtasks=taken", "subtask_feature=label"], "taken exists: name a folder that does not"),
        (["embeddings.url=http://127.0.0.1:1/v1"], "embeddings.model=None: give the name by which"),
    ],
)
def test_what_would_be_refused_at_the_end_is_refused_at_the_start(more, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    assert run(["analyze", f"path={GOLDEN}", "out=done", "vlm=none", "episodes=[0]", *more]) == 1
    assert words in capsys.readouterr().err and not Path("done/items").exists()


def test_questions_are_answered_in_the_result_and_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "a.mp4", record(1).frames)
    asked = "when does it stop, and where?|what colour is the sky?"
    assert run(["analyze", "path=a.mp4", "out=done", "vlm=none", f"ask={asked}"]) == 0
    (item,) = json.loads(Path("done/result.json").read_text())["items"]
    first, second = item["qa"]["answers"]
    assert [first["question"], second["question"]] == asked.split("|")
    assert first["answer"].startswith("at ") and len(first["times_s"]) == len(first["frames"]) > 0
    assert (second["answer"], second["frames"]) == (NOT_VISIBLE, [])
    page = Page(Path(item["report"]))
    assert first["question"] in page.text and first["answer"] in page.text
    assert questions(None) == [] and questions("a | b") == questions(["a", "b"]) == ["a", "b"]
    with pytest.raises(ValueError, match="holds no question: give words"):
        questions("when | ?")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([f"path={GOLDEN}", "episodes=[7]"], 1, "episodes [7] are not in"),
        ([], 1, "what shall be analysed? Give path="),
        ([f"path={GOLDEN}", "vlm=nothing"], 2, "possible: "),
        (["path=nowhere.mp4"], 1, "nowhere.mp4 does not exist: give a video"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert run(["analyze", *arguments]) == code
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("vla") and words in message


def test_again_resumes_and_other_settings_or_content_begin_anew(videos, tmp_path):
    first, second = (go(videos, tmp_path / "out") for _ in range(2))
    assert (first["analysed"], second["analysed"]) == (3, 0) and second | {"analysed": 3} == first
    encode(videos / "a.mp4", record(9, discs=1).frames)
    assert go(videos, tmp_path / "out")["analysed"] == 1
    assert go(videos, tmp_path / "out", budget=5)["analysed"] == 3
    assert go(videos / "a.mp4", tmp_path / "out", budget=5, fresh=True)["analysed"] == 1


def test_another_version_of_the_analysis_begins_anew(videos, tmp_path, monkeypatch):
    go(videos / "a.mp4", tmp_path / "out")
    monkeypatch.setattr("vla.video.fingerprint.ANALYSIS", 10**9)
    assert [go(videos / "a.mp4", tmp_path / "out")["analysed"] for _ in range(2)] == [1, 0]


def test_what_another_server_or_model_said_is_not_reused(videos, tmp_path):
    analysed = []
    for _ in range(2):
        with serving(*["not to the point"] * 50) as server:
            url = server.url.replace("http://", "http://me:secret@") + "?key=hidden"
            words = ChatWords(url, "default")
            analysed += [go(videos / "a.mp4", tmp_path / "out", words)["analysed"] for _ in range(2)]
            assert f":{server.server_port}/v1" in words.identity
            assert not {"secret", "hidden"} & set(re.findall(r"\w+", words.identity))
    assert analysed == [1, 0, 1, 0]


@pytest.mark.parametrize(("reply", "again"), [(503, 1), ("not to the point", 0), ({}, 0)])
def test_what_got_no_reply_at_all_is_asked_again_by_the_next_run(reply, again, videos, tmp_path):
    with serving(*[reply] * 4, *['{"outcome": "success"}'] * 9) as server:
        words = ChatWords(server.url, "m")
        assert [go(videos / "a.mp4", tmp_path / "out", words)["analysed"] for _ in range(3)] == [1, again, 0]


def test_two_runs_write_the_same_bytes(videos, tmp_path):
    for out in ("one", "two"):
        go(videos, tmp_path / out)
    ones = sorted(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(ones) > 20
    for one in ones:
        assert one.read_bytes() == (tmp_path / "two" / one.relative_to(tmp_path / "one")).read_bytes(), one


def test_a_broken_file_among_others_is_reported_and_alone_it_is_an_error(videos, tmp_path):
    result = go(videos, tmp_path / "out")
    broken = next(item for item in result["items"] if item["name"] == "broken.mp4")
    assert broken["qa"]["error"] == ["unreadable"] and broken["report"] is None and broken["frames"] == 0
    assert "leave out" in (tmp_path / "out/remedy.sh").read_text()
    overview = Page(Path(result["report"]))
    links = [value for name, value in overview.attributes if name == "href"]
    assert len(links) == 2 and all((tmp_path / "out" / unquote(link)).is_file() for link in links if link)
    assert "broken.mp4" in overview.text
    with pytest.raises(ClipError, match=r"broken\.mp4 is not a video that can be read"):
        go(videos / "broken.mp4", tmp_path / "alone")


def test_pages_run_no_script_but_their_own_whatever_labels_and_names_say(videos, tmp_path):
    result = go(videos, tmp_path / "out", HostileWords(), questions=["where is it?"])
    pages = [Path(item["report"]) for item in result["items"] if item["report"]] + [Path(result["report"])]
    assert len(pages) == 3
    for path in pages:
        page = Page(path)
        assert page.tags.count("script") == 1 and "alert" not in page.script
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        policies = [value for name, value in page.attributes if name == "content" and "script-src" in (value or "")]
        digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
        rules = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src"
        assert policies == [f"{rules} 'sha256-{digest}'"]
        addresses = [value for name, value in page.attributes if name in ("src", "href") and value]
        assert all(value.startswith("data:image/jpeg;base64,") or value.startswith("items/") for value in addresses)
    item_page = Page(Path(result["items"][0]["report"]))
    assert HOSTILE in item_page.text


def test_a_page_shows_every_keyframe_segment_and_signal(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "data")
    result = go(tmp_path / "data", tmp_path / "out", episodes=[2])
    (item,) = result["items"]
    page = Page(Path(item["report"]))
    folder = Path(item["timeline"]).parent
    timeline_record = timeline.read(folder)
    assert timeline_record is not None
    assert page.text.count("gripper open") == 1 and page.text.count("arm moves") == 1
    for keyframe in timeline_record["keyframes"]:
        assert f"{keyframe['time_s']:.2f} s" in page.text
    for segment in timeline_record["segments"]:
        assert segment["label"] in page.text


def test_a_single_image_is_one_frame(tmp_path):
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "one.png")
    (item,) = go(tmp_path / "one.png", tmp_path / "out")["items"]
    assert (item["frames"], item["keyframes"], item["segments"]) == (1, 1, 1)


def test_folder_names_are_plain_and_differ():
    names = ["a b", "a/b", "a-b", "..", "", "x" * 300, HOSTILE]
    folders = [folder_name(Item(name, Path("."), {})) for name in names]
    assert len(set(folders)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,90}", folder) for folder in folders)


def test_a_name_that_is_no_text_is_shown_by_its_bytes(videos, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    videos.rename(folder)
    (folder / "a.mp4").rename(Path(os.fsdecode(os.fsencode(folder) + b"/\xff.mp4")))
    result = go(folder, tmp_path / "out")
    item = next(item for item in result["items"] if item["name"] == r"\xff.mp4")
    assert item["keyframes"] and item["path"].exists()
    assert r"caf\xe9" in Page(Path(result["report"])).text
    assert go(folder, tmp_path / "out")["analysed"] == 0
