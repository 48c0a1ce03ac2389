"""Joints that a body has not: between the others and the gripper, 0 when read, ignored when said, not taught."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import tiny_processor
from vla.model.actions import ActionCodec
from vla.model.head import over_joints


@given(st.integers(0, 4), st.integers(0, 99))
def test_a_wider_network_says_the_same_to_a_narrow_body(missing, seed):
    own = tiny_processor().codec
    wide = ActionCodec.from_dict({**own.to_dict(), "width": own.joints + missing})
    random = np.random.default_rng(seed)
    state = torch.from_numpy(random.uniform([-2, -2, 0], [2, 2, 1], (2, 3)).astype(np.float32))
    targets = state[:, None].expand(-1, 4, -1)
    values, narrow = wide.encode(targets, state), own.encode(targets, state)
    assert values.shape == (2, 4, 3 + missing) and wide.action_dim == 3 + missing
    assert torch.equal(values[..., wide.there()], narrow) and (values[..., ~wide.there()] == 0).all()
    assert torch.equal(wide.encode_state(state)[..., wide.there()], own.encode_state(state))
    values[..., ~wide.there()] = 0.7  # what stands there means nothing
    torch.testing.assert_close(wide.decode(values, state), targets, atol=1e-5, rtol=1e-4)
    assert ActionCodec.from_dict(wide.to_dict()).to_dict() == wide.to_dict()


def test_a_network_is_not_too_narrow():
    with pytest.raises(ValueError, match="a network of width 2 cannot move 3 joints"):
        ActionCodec.from_dict({**tiny_processor().codec.to_dict(), "width": 2})


def test_the_mean_is_over_the_joints_that_are_there():
    values = torch.tensor([[[1.0, 5.0, 3.0]], [[1.0, 5.0, 3.0]]])
    there = torch.tensor([[True, True, True], [True, False, True]])
    assert over_joints(values, there).tolist() == [[3.0], [2.0]]
    assert torch.equal(over_joints(values, None), over_joints(values, torch.ones(2, 3, dtype=torch.bool)))
