"""Of what a human drove beside a policy only the human's part is learnt, and none of what failed."""

from types import SimpleNamespace

import numpy as np
import pytest

from vla.train import hands


class Driven:
    """Two episodes of four frames, as training reads them."""

    root, features = "recorded", {"intervention": {}}

    def __init__(self, by_hand, success=(True, True)):
        self.by_hand = np.array(by_hand, bool)
        self.episodes = [SimpleNamespace(length=4, extra={"success": each}) for each in success]

    def __len__(self):
        return len(self.by_hand)

    def column(self, name):
        assert name == "intervention"
        return self.by_hand


def test_the_humans_frames_of_what_succeeded_are_learnt():
    dataset = Driven([0, 1, 1, 0, 1, 1, 1, 1], success=(True, False))
    assert hands.shown(dataset).tolist() == [False, True, True, False] + [False] * 4


def test_what_the_policy_did_after_the_human_let_go_is_no_target():
    assert hands.ends(Driven([0, 1, 1, 0, 1, 0, 0, 1])).tolist() == [1, 3, 3, 4, 5, 6, 7, 8]


def test_where_an_expert_shows_every_frame_all_of_them_count():
    dataset = Driven([0] * 8, success=(False, True))
    dataset.features = {}
    assert hands.shown(dataset).all() and (hands.ends(dataset) == 8).all()


@pytest.mark.parametrize("dataset", [Driven([0] * 8), Driven([1] * 8, success=(False, False))])
def test_where_there_is_nothing_to_learn_that_is_said(dataset):
    with pytest.raises(ValueError, match="nothing to learn"):
        hands.shown(dataset)
