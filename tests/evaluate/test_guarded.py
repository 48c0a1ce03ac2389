"""The guard in lockstep: every command passes it tick by tick, what is within the limits unchanged."""

import logging

import numpy as np
import pytest

from envs.tabletop import scene
from envs.tabletop.collision import Collision
from vla.evaluate.guarded import GuardedHost, Guarding
from vla.evaluate.workers import Host, World
from vla.types import Embodiment

PICK = World("envs:tabletop/Pick-v0", {"cameras": []})
HZ = 50.0


def flown(host, actions, seed=3):
    """Reset, execute the actions, and return moments and servo targets float64[N, 6] [rad], one a physics step."""
    moments = [host.reset(PICK, seed, {}, False)]
    env, sent = host.env.unwrapped, []
    advance = env.advance
    env.advance = lambda target: (sent.append(target), advance(target))
    moments += [host.step(action[None]) for action in actions]
    env.advance = advance
    return moments, np.array(sent)


def swing(start, far, steps=25):
    """Return joint targets float64[N, 6] that swing to one side and back, softly."""
    way = far * np.sin(np.linspace(0, np.pi, steps)) ** 2
    return start + way[:, None] * np.array([1.0, 0, 0, 0, 0, 0.5])


def test_gentle_motion_is_the_same_with_the_guard_and_without():
    guarded, free = GuardedHost(Guarding(Collision)), Host()
    start = guarded.reset(PICK, 3, {}, False).observation["agent_pos"].astype(float)
    with_guard, _ = flown(guarded, swing(start, 0.4))
    without, _ = flown(free, swing(start, 0.4))
    there, here = (np.array([one.observation["agent_pos"] for one in run]) for run in (with_guard, without))
    np.testing.assert_allclose(there, here, atol=1e-5)
    assert np.ptp(here[:, 0]) > 0.3  # it moved
    assert with_guard[-1].interventions == {} and without[-1].interventions is None


def test_no_command_breaks_a_limit_whatever_is_asked_for():
    host, rng = GuardedHost(Guarding(None)), np.random.default_rng(0)
    low, high = np.array([-0.5, -1.2, 0.2, 0.5, -1.0, 0.0]), np.array([0.5, -0.2, 1.2, 1.5, 1.0, 1.0])
    start = host.reset(PICK, 3, {}, False).observation["agent_pos"]
    moments, sent = flown(host, np.array([start, *rng.uniform(low, high, (40, 6))]))  # the first one meets the arm
    body = Embodiment.from_dict(host.env.unwrapped.embodiment())
    ticks = sent[round(1 / (HZ * scene.TIMESTEP_S)) - 1 :: round(1 / (HZ * scene.TIMESTEP_S))]
    speed = np.abs(np.diff(ticks, axis=0))[:, :5].max(axis=0) * HZ
    change = np.abs(np.diff(ticks, n=2, axis=0))[:, :5].max(axis=0) * HZ**2
    assert (speed <= np.array(body.velocity_max[:5]) + 1e-6).all() and speed.max() > 1.0
    assert (change <= np.array(body.acceleration_max[:5]) + 1e-4).all()
    assert sum(moments[-1].interventions.values()) > 0


def test_every_episode_counts_for_itself():
    host = GuardedHost(Guarding(None))
    start = host.reset(PICK, 3, {}, False).observation["agent_pos"].astype(float)
    away = np.tile(start + np.array([0.45, 0, 0, 0, 0, 0]), (3, 1))
    wild, _ = flown(host, away)
    calm, _ = flown(host, np.tile(start, (3, 1)))
    assert sum(wild[-1].interventions.values()) > 0 and calm[-1].interventions == {}


def test_where_the_arm_would_hit_the_table_it_stays_above():
    down = np.array([0.0, 0.6, 0.6, 0.2, 0.0, 0.4])
    runs = {}
    for name, collides in {"told": Collision, "not told": None}.items():
        host = GuardedHost(Guarding(collides))
        start = host.reset(PICK, 3, {}, False).observation["agent_pos"].astype(float)
        path = start + np.linspace(0, 1, 30)[:, None] * (down - start)
        runs[name], _ = flown(host, path)
    check = Collision()
    assert not any(check(one.observation["agent_pos"]) for one in runs["told"])
    assert any(check(one.observation["agent_pos"]) for one in runs["not told"])


def test_off_is_spelled_out_and_told(caplog):
    with caplog.at_level(logging.WARNING):
        assert Guarding(None, mode="off").host() is Host
    assert "the guard is off" in caplog.text
    with pytest.raises(ValueError, match="possible: on, off"):
        Guarding(None, mode="no").host()


def test_a_world_that_cannot_be_guarded_is_refused():
    with pytest.raises(ValueError, match=r"guard\.mode=off flies without"):
        GuardedHost(Guarding(None)).open(World("tests.evaluate.fake_world:Fake-v0"))
