"""The expert's path is one that succeeds, and a world that blew up counts for nothing."""

import numpy as np
import pytest

from envs.robots.demonstration import demonstrate
from envs.robots.plant import Plant
from envs.tabletop import arm
from envs.tabletop.env import UnstableError


def test_a_demonstration_is_one_row_a_step_and_lifts_the_object():
    path = demonstrate(7, "pick up the red cube", randomize=False)
    assert path.targets.shape == path.joints.shape == (len(path.lifted), 6)
    assert path.lifted.any() and not path.lifted[0]
    assert (path.targets >= arm.POSITION_MIN).all() and (path.targets <= arm.POSITION_MAX).all()


def test_the_plant_tells_what_is_held():
    plant = Plant({"cameras": [], "randomize": False}, 7, "pick up the red cube", 10.0)
    truth = plant.truth()
    assert truth["held"] is None and truth["lifted_m"] == pytest.approx(0.0, abs=1e-3)
    for target in demonstrate(7, "pick up the red cube", randomize=False).targets:
        plant.command(target)
        for _ in range(20):
            plant.step()
    truth = plant.truth()
    assert truth["held"] == "red cube" and truth["lifted_m"] > 0.03


def test_a_world_that_blew_up_is_void_for_good():
    plant = Plant({"cameras": []}, 7, None, 50.0)
    plant.blow_up()
    for _ in range(3):
        with pytest.raises(UnstableError, match="unstable"):
            plant.step()
    with pytest.raises(OSError):
        plant.truth()
    assert np.isfinite(plant.joints()).all()  # MuJoCo began anew, which nobody may take for an episode
