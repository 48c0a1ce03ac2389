"""The pages in a real browser: they run their own script only, a click shows its frame, the table sorts."""

import os
from pathlib import Path

import pytest

from tests.control.browser import CHROMIUM, Browser
from tests.video.scenes import record
from tests.video.test_analyze import HostileWords, go
from tests.video.test_decode import write as encode

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SHOWN = "document.querySelector('#views img').src"
CLOCK = "document.getElementById('clock').textContent"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Two videos of different length, whose every word is an attack."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "in").mkdir()
    for seed, discs, name in ((1, 2, "long.mp4"), (2, 1, "<img src=x onerror=alert(3)>.mp4")):
        encode(folder / "in" / name, record(seed, discs=discs, rest_s=0.5).frames)
    return go(folder / "in", folder / "out", HostileWords(), questions=["where is it?"])


def address(path) -> str:
    return Path(path).resolve().as_uri()


def buttons(browser) -> list[float]:
    """Return the times of the keyframes that the page offers [s]."""
    return browser.read("[...document.querySelectorAll('.keyframes button')].map(b => Number(b.dataset.t))")


def test_clicks_keys_and_rows_show_their_frames_and_no_attack_runs(result, tmp_path):
    page = next(item["report"] for item in result["items"] if item["name"] == "long.mp4")
    with Browser(address(page)) as browser:
        times = buttons(browser)
        assert len(times) >= 4 and browser.read(CLOCK) == f"{times[0]:.2f} s"  # its own script ran
        browser.click(".keyframes button:nth-child(3)")
        assert browser.read(CLOCK) == f"{times[2]:.2f} s"
        assert browser.read(f"{SHOWN} === document.querySelectorAll('.keyframes button')[2].querySelector('img').src")
        browser.press("ArrowRight")
        assert browser.read(CLOCK) == f"{times[3]:.2f} s"
        browser.press("ArrowLeft")
        browser.press("ArrowLeft")
        assert browser.read(CLOCK) == f"{times[1]:.2f} s"
        browser.screenshot(Path(os.environ.get("VLA_PICTURES", tmp_path)) / "timeline.png")
        browser.read("document.querySelector('tr[data-t]:last-of-type').scrollIntoView({block: 'center'})")
        asked = browser.read("[...document.querySelectorAll('tr[data-t]')].at(-1).dataset.t")
        browser.read("[...document.querySelectorAll('tr[data-t]')].at(-1).click()")
        nearest = min(times, key=lambda time: abs(time - float(asked)))
        assert browser.read(CLOCK) == f"{nearest:.2f} s"
        assert browser.read("document.querySelectorAll('script').length") == 1
        assert browser.read("document.querySelectorAll('[onerror]').length") == 0


def test_the_axis_jumps_to_the_keyframe_nearest_to_the_click(result):
    page = next(item["report"] for item in result["items"] if item["name"] == "long.mp4")
    with Browser(address(page)) as browser:
        times = buttons(browser)
        browser.click("#axis path:last-of-type")  # the mark of the last keyframe
        assert browser.read(CLOCK) == f"{max(times):.2f} s"
        cursor = browser.read("Number(document.getElementById('cursor').getAttribute('x1'))")
        span = browser.read("[left, right, length]")
        assert cursor == pytest.approx(span[0] + (span[1] - span[0]) * max(times) / span[2], abs=0.5)


def test_the_table_of_a_folder_sorts_both_ways_and_leads_to_the_items(result, tmp_path):
    values = "[...document.querySelectorAll('#items tbody tr')].map(row => Number(row.cells[{}].dataset.v))"
    with Browser(address(result["report"])) as browser:
        column = int(browser.read("[...document.querySelectorAll('th[data-sort]')][0].dataset.sort"))
        browser.click("th[data-sort]")
        up = browser.read(values.format(column))
        browser.click("th[data-sort]")
        assert up == sorted(up) and browser.read(values.format(column)) == up[::-1] and up[0] != up[-1]
        browser.screenshot(Path(os.environ.get("VLA_PICTURES", tmp_path)) / "overview.png")
        browser.click("#items a")
        browser.wait("document.getElementById('clock') !== null")
        assert browser.read(CLOCK).endswith(" s")
