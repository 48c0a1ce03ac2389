"""What is taught beyond the end of a subtask."""

import torch

from vla.train.batch import held


def test_the_last_target_that_counts_is_held_and_those_before_it_stay():
    actions = torch.randn(3, 5, 2)
    counts = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    targets = held(actions, counts)
    assert torch.equal(targets[0], actions[0])
    assert torch.equal(targets[1, :2], actions[1, :2])
    assert torch.equal(targets[1, 2:], actions[1, 1].expand(3, 2))
    assert torch.equal(targets[2], actions[2, 0].expand(5, 2))
