"""The operator's page shows the loop and stops it; nobody else gets in."""

import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.control.browser import CHROMIUM, Browser
from vla.control.listener import bind
from vla.control.operator import OperatorPage, Snapshot, _instructs

JOINTS = ("pan", "lift", "elbow", "wrist", "roll", "gripper")
HOSTILE = '</script><img src=x onerror="document.title=1">'


class Desk:
    """A loop that only notes what it is told."""

    def __init__(self):
        self.told, self.ticks, self.on, self.instruction = [], 0, False, "pick up the red cube"
        self.age_s, self.gone, self.deaf = 0.0, False, False

    def snapshot(self):
        if self.gone:
            return None
        self.ticks += 1
        wave = [float(np.sin(self.ticks / 9 + i)) for i in range(6)]
        image = np.zeros((96, 192, 3), np.uint8)
        image[:, : 2 * (self.ticks % 90)] = (250, 120, 20)
        return Snapshot(
            state="ESTOP" if ("estop",) in self.told else "NORMAL",
            reasons=[HOSTILE],
            joints=[None] * 6 if self.deaf else wave,
            age_s=self.age_s,
            command=[value + 0.05 for value in wave],
            instruction=self.instruction,
            subtask=HOSTILE,
            finished=["open the drawer"],
            progress=0.4,
            done=0.1,
            takeover=self.on,
            ticks=self.ticks,
            interventions={"velocity": 3},
            images={"front": image, "wrist": image[:, :96]},
        )

    def estop(self, reason):
        self.told.append(("estop",))

    def clear(self):
        self.told.clear()

    def instruct(self, text):
        self.told.append(("instruct", text))
        if "teapot" in text:
            return "the policy does not know “teapot”"
        self.instruction = text
        return ""

    def takeover(self, on):
        self.on = on
        return ""

    def jog(self, joint, by):
        self.told.append(("jog", joint, round(by, 3)))


def free_socket():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def page(desk):
    with OperatorPage(desk, JOINTS, ["front", "wrist"], free_socket(), token=None) as page:
        yield page


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ws(page):
    return page.address.replace("http", "ws")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_clicking_through_the_page(page, desk, tmp_path):
    with Browser(page.address) as browser:
        browser.wait("document.querySelectorAll('canvas[data-shown]').length === 2")
        browser.wait("document.getElementById('state').textContent === 'NORMAL'")
        browser.click("#text")
        browser.type("put the teapot in the bowl")
        browser.click("button.primary")
        browser.wait("document.getElementById('said').textContent.includes('teapot')")
        browser.read("document.getElementById('text').value = ''")
        browser.click("#text")
        browser.type("press the button")
        browser.click("button.primary")
        until(lambda: ("instruct", "press the button") in desk.told)
        browser.press("q")  # nothing moves without takeover
        browser.click("#takeover")
        browser.wait("document.getElementById('takeover').textContent === 'Give back'")
        browser.press("w")
        browser.press("s")
        until(lambda: ("jog", 1, -0.05) in desk.told)
        assert ("jog", 1, 0.05) in desk.told and not [told for told in desk.told if told[:2] == ("jog", 0)]
        browser.wait("past.length > 20")
        browser.screenshot(Path(os.environ.get("VLA_PICTURES", tmp_path)) / "operator.png")
        browser.click("#stop")
        until(lambda: ("estop",) in desk.told)
        browser.wait("document.getElementById('state').textContent === 'ESTOP'")
        browser.click("#clear")
        browser.wait("document.getElementById('state').textContent === 'NORMAL'")
        assert browser.read("document.title") == "robot"  # hostile text stayed text
        assert browser.read("document.querySelector('#plan li:last-child').textContent") == HOSTILE
    until(lambda: not desk.on)  # nobody holds the keys any more


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_loop_that_is_stuck_or_silent_looks_like_one(page, desk):
    stale, state = "document.body.classList.contains('stale')", "document.getElementById('state').textContent"
    with Browser(page.address) as browser:
        browser.wait(f"!{stale} && {state} === 'NORMAL'")
        desk.age_s = 7.3  # moments come, all of the same old tick
        browser.wait(f"{stale} && /^NORMAL, 7[.][3-9] s ago$/.test({state})")
        assert float(browser.read("getComputedStyle(document.querySelector('main')).opacity")) < 0.5
        assert browser.read("getComputedStyle(document.getElementById('stop')).opacity") == "1"
        desk.age_s, desk.deaf = 0.0, True  # the bus is gone, the loop is not
        browser.wait(f"!{stale} && {state} === 'NORMAL' && past.length && past.at(-1).joints[0] === null")
        desk.gone = True  # nothing comes
        browser.wait(f"{stale} && / s ago$/.test({state})")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("how", ["click", "key"])
def test_a_stop_without_a_connection_is_told_in_red_until_one_gets_through(desk, how):
    listener = bind("127.0.0.1", 0, None)
    port = listener.getsockname()[1]
    with OperatorPage(desk, JOINTS, [], listener, token=None) as page:
        browser = Browser(page.address).__enter__()
        browser.wait("document.getElementById('state').textContent === 'NORMAL'")
    try:
        browser.wait("document.getElementById('state').textContent === 'not connected'")
        assert browser.read("document.getElementById('alert').hidden")
        assert browser.read("document.body.classList.contains('stale')")
        browser.click("#stop") if how == "click" else browser.press("Escape")
        assert "STOP was not sent" in browser.read("document.getElementById('alert').innerText")
        assert browser.read("getComputedStyle(document.getElementById('alert')).backgroundColor") == "rgb(209, 47, 47)"
        with OperatorPage(desk, JOINTS, [], bind("127.0.0.1", port, None), token=None):
            browser.wait("document.getElementById('state').textContent === 'NORMAL'")
            assert "STOP was not sent" in browser.read("document.getElementById('alert').innerText")
            browser.click("#stop")
            until(lambda: ("estop",) in desk.told)
            assert browser.read("document.getElementById('alert').hidden")
    finally:
        browser.__exit__()


def test_a_stop_that_speaks_of_instructions_is_a_stop():
    assert _instructs('{"do": "instruct", "text": "stop"}')
    assert not _instructs('{"do": "stop", "text": "instruct"}') and not _instructs(b"instruct")


def test_stop_does_not_wait_for_words_that_are_still_being_read(page, desk, monkeypatch):
    read = threading.Event()

    def instruct(text):
        assert read.wait(20)
        return "too late"

    monkeypatch.setattr(desk, "instruct", instruct)
    with connect(ws(page)) as mine:
        for message in ("instruct", "instruct", "stop"):
            mine.send(json.dumps({"do": message, "text": "press the button"}))
        until(lambda: ("estop",) in desk.told)
        read.set()
        told = (json.loads(message) for message in mine if isinstance(message, str))
        said = (one["refused"] for one in told if "refused" in one)
        assert [next(said), next(said)] == ["the words before are still being read", "too late"]


def test_a_page_of_another_site_may_not_connect(page):
    with pytest.raises(InvalidStatus, match="403"):
        connect(ws(page), origin="http://evil.example")
    request = urllib.request.Request(
        page.address, headers={"Host": "evil.example"}
    )  # a name that points at this machine
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)


def test_a_token_is_asked_for_where_one_is_set(desk):
    with OperatorPage(desk, JOINTS, [], free_socket(), token="secret") as page:
        assert page.address.endswith("?token=secret")
        with connect(ws(page)) as mine:
            assert json.loads(mine.recv(timeout=10))["state"] == "NORMAL"
        with pytest.raises(InvalidStatus, match="403"):
            connect(ws(page).replace("secret", "guess"))


@pytest.mark.parametrize("token", ["a+b", "a&b=c", "a#b", "50%25", "ä /?"])
def test_the_address_that_is_printed_opens_whatever_the_token_is(desk, token):
    with OperatorPage(desk, JOINTS, [], free_socket(), token=token) as page:
        with urllib.request.urlopen(page.address, timeout=10) as answer:
            assert answer.status == 200
        with connect(ws(page)) as mine:
            assert json.loads(mine.recv(timeout=10))["state"] == "NORMAL"


def test_there_is_one_page_and_it_may_load_nothing_from_elsewhere(page):
    with urllib.request.urlopen(page.address, timeout=10) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "http://" not in answer.read().decode().replace(page.address, "")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(page.address + "other", timeout=10)


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ("{", "not understood"),
        ('{"do": "dance"}', "possible: stop, clear, instruct, takeover, jog"),
        ('{"do": "jog", "joint": 0, "by": NaN}', "cannot move"),
        ('{"do": "jog", "joint": -1, "by": 1}', "cannot move"),
        ('{"do": "instruct", "text": "   "}', "no words"),
        ("[]", "not understood"),
    ],
)
def test_nonsense_is_answered_and_changes_nothing(page, desk, message, reply):
    assert reply in page._obey(message)
    assert desk.told == []


JOGS = st.floats().map(lambda by: json.dumps({"do": "jog", "joint": 1, "by": by}))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=80), st.binary(max_size=80), JOGS))
def test_whatever_comes_in_no_joint_moves_far(page, desk, message):
    desk.told.clear()
    page._obey(message)
    assert all(abs(by) <= 0.2 for what, _, by in (told for told in desk.told if told[0] == "jog"))
