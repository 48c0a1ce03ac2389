"""The guard bench counts what really happened."""

import numpy as np
import pytest

from tests.control.drive import ARM
from vla.bench.guard import LIMITS, VIOLATIONS, measure, shares_of_limits

BODY = {key: value for key, value in ARM.to_dict().items() if key not in ("control_hz", "cameras")}


def test_the_result_has_what_the_issue_asks_for():
    result = measure(
        seed=0, steps=401, rates=[100, 1000], body=BODY, collides=lambda q: False, contacts=lambda q: bool(q[0] > 9)
    )
    assert result["steps"] == 402  # as many for each rate
    assert result["violations"] == dict.fromkeys(VIOLATIONS, 0)
    assert 0 < result["us_per_step"] < 1e5
    assert set(result["rates"]) == {"100", "1000"}
    detail = result["rates"]["1000"]
    assert detail["us"]["p50"] <= detail["us"]["p99"]
    assert detail["steps"] == 201
    assert sum(result["states"].values()) == 402


def test_contacts_are_counted():
    result = measure(
        seed=0, steps=300, rates=[100], body=BODY, collides=lambda q: False, contacts=lambda q: bool(q[0] < 9)
    )
    assert result["violations"]["contact"] > 0


def test_differences_are_shares_of_the_limits():
    path = np.array([[0.0, 0.5], [0.0001, 0.5], [0.0003, 0.5]])  # 0.01 and 0.02 rad/s, 1 rad/s^2, 100 and 0 rad/s^3
    shares = shares_of_limits(path, ARM, 100.0)
    assert set(shares) == set(LIMITS)
    np.testing.assert_allclose(shares["velocity"][:, 0], [0.005, 0.01])
    np.testing.assert_allclose(shares["acceleration"][:, 0], [0.1, 0.1])
    np.testing.assert_allclose(shares["jerk"][:, 0], [0.5, 0.0], atol=1e-12)
    assert not any(share[:, 1].any() for share in shares.values())


def test_the_same_seed_gives_the_same_fuzz():
    def run(seed: int):
        result = measure(
            seed=seed, steps=300, rates=[100], body=BODY, collides=lambda q: False, contacts=lambda q: False
        )
        return result["interventions"], result["rates"]["100"]["used"]

    assert run(1) == run(1) != run(2)


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="steps=1 is less than one for each of the rates"):
        measure(seed=0, steps=1, rates=[30, 100], body=BODY, collides=bool, contacts=bool)
