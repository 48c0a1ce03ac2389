"""A policy behind a server is measured as the policy itself."""

import json
import sys

import pytest

from tests.evaluate.fake_trial import GivenPolicy
from tests.evaluate.fake_world import GRAMMAR, WordPolicy
from tests.evaluate.test_evaluate import TASKS, UNGUARDED, WORDS
from tests.evaluate.test_rollout import PACING, world
from vla.control.listener import bind
from vla.evaluate import evaluate
from vla.evaluate.episodes import Case
from vla.evaluate.rollout import run
from vla.evaluate.workers import Workers
from vla.serve.client import RemotePolicy
from vla.serve.server import PolicyServer, in_background

FAKE = "{id: 'tests.evaluate.fake_world:Fake-v0'}"
ONE_SPLIT = [f"~held_out.splits.{name}" for name in ("paraphrases", "counts", "looks")]
QUESTIONS = [f"held_out.world={FAKE}", "held_out.episodes=1", "held_out.questions=3", *ONE_SPLIT]


class ActsOnly(PolicyServer):
    """Says that it answers with chunks only, as other servers do."""

    def metadata(self):
        return super().metadata() | {"modes": ["act"]}


@pytest.fixture
def serve():
    """Serve a policy that listens while the test lasts."""
    running = []

    def begin(kind=PolicyServer):
        running.append(in_background(kind(GivenPolicy(), bind("127.0.0.1", 0, None))))
        return running[-1].__enter__()

    yield begin
    for server in running:
        server.__exit__(None, None, None)


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """Run `vla eval` in this process, with the same policy for every folder, and return its result."""
    monkeypatch.setattr(evaluate, "load", lambda checkpoint, device: WordPolicy())
    monkeypatch.setattr(evaluate.torch, "set_num_threads", lambda threads: None)

    def run_it(*words):
        guard = [] if "mode=realtime" in words else [UNGUARDED]
        settings = [f"out={tmp_path}", "latency_repeats=3", "videos=0", "~tasks", TASKS, *WORDS, *guard, *words]
        monkeypatch.setattr(sys, "argv", ["vla eval", *settings])
        evaluate.main()
        return json.loads((tmp_path / "result.json").read_text())

    return run_it


def test_behind_a_server_a_policy_does_as_well_as_by_itself(serve, evaluated):
    server = serve()
    result = evaluated(f'policy="{server.address}"', "against=folder", *QUESTIONS)
    assert result["checkpoint"] == server.address and result["success_rate"] == 1.0 and result["crashes"] == 0
    assert result["against"]["success_rate"] == 1.0 and result["against"]["paired"]["difference"] == 0
    assert result["controls"]["swapped_named"] == 1.0
    assert result["questions"]["asked"] > 0 and result["questions"]["accuracy"] == 1.0
    summary = server.metrics.summary()
    assert summary["connections"] == 2 and set(summary["errors"]) <= {"rate_limited"}  # this policy answers at once


def test_in_real_time_every_worker_has_its_own_connection(serve, evaluated):
    server = serve()
    trial = "realtime.robot={_target_: tests.evaluate.fake_trial.FakeTrial, _partial_: true}"
    realtime = ["mode=realtime", "latency_ms=200", "strategy=rtc", "~realtime.robot", f"+{trial}"]
    result = evaluated(f'checkpoint="{server.address}"', *realtime, "guard.collides=null", "controls.episodes=0")
    assert result["success_rate"] == 1.0 and result["crashes"] == 0
    assert server.metrics.summary()["connections"] == 1 + 2  # of this process, of each worker


def test_where_a_server_answers_with_chunks_only_nothing_is_asked_in_words(serve, evaluated):
    server = serve(ActsOnly)
    result = evaluated(f'policy="{server.address}"', *QUESTIONS, "long_horizon.episodes=1")
    assert result["success_rate"] == 1.0 and result["held_out"]["objects"]["episodes"] == 4
    assert result["questions"]["asked"] == 0 and result["long_horizon"]["episodes"] == 0
    assert server.metrics.summary()["connections"] == 1


def test_a_served_policy_plans_long_instructions(serve):
    case, episodes = Case("reach", world(subtasks=2), 0, stepping=True), []
    with RemotePolicy(serve().address) as policy, Workers(1) as workers:
        run([case], policy=policy, workers=workers, pacing=PACING, grammar=GRAMMAR, on_episode=episodes.append)
    (episode,) = episodes
    assert episode.success and episode.finished_subtasks == 2


def test_without_a_client_a_url_is_refused(evaluated, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match=r"no client is configured; give remote\._target_"):
        evaluated("policy=ws://127.0.0.1:9", "remote=null")
