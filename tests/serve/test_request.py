"""Every spelling of a request means one thing or is refused with what is possible."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import embodiment
from tests.serve.golden.write_golden import MESSAGES
from vla.serve.request import BadRequest, Request, read_request
from vla.types import Camera

BODY = embodiment()  # cameras front and wrist, 64x64; joints a, b, gripper
FRONT, WRIST = np.full((64, 64, 3), 1, np.uint8), np.full((64, 64, 3), 2, np.uint8)
STATE = np.array([0.5, -0.5, 1.0], np.float32)
REQUEST = {"images": {"front": FRONT, "wrist": WRIST}, "state": STATE, "prompt": "pick up the red cube"}
HORIZON = 4


def read(message: dict[str, Any], **changes: Any) -> Request:
    """Read a message for the tiny arm, or one with some fields changed."""
    return read_request(message, embodiment(**changes), HORIZON, now_s=7.0)


def without(*keys: str) -> dict[str, Any]:
    """The usual request without some keys."""
    return {key: value for key, value in REQUEST.items() if key not in keys}


@pytest.mark.parametrize(
    "images",
    [
        {"images": {"front": FRONT, "wrist": WRIST}},
        {"observation/image": FRONT, "observation/wrist_image": WRIST},
        {"observation/front_image": FRONT, "observation/image": WRIST},
        {"observation/front": FRONT, "observation/wrist": WRIST},
        {"observation.images.front": FRONT, "observation.images.wrist": WRIST},
        {"observation/images/front": FRONT, "images": {"wrist": WRIST}},
        {"images": {"front": FRONT.transpose(2, 0, 1), "wrist": WRIST.transpose(2, 0, 1)}},
        {"images": {"front": np.full((224, 224, 3), 1, np.uint8), "wrist": WRIST}},
    ],
)
def test_every_spelling_of_images_means_the_same_cameras(images: dict[str, Any]) -> None:
    seen = read(without("images") | images).observation
    assert seen is not None and seen.images.keys() == {"front", "wrist"}
    assert (seen.images["front"] == 1).all() and (seen.images["wrist"] == 2).all()
    assert all(image.shape[2] == 3 for image in seen.images.values())


@pytest.mark.parametrize(
    "state",
    [
        {"state": STATE},
        {"state": STATE.astype(float)},
        {"state": STATE.tolist()},
        {"observation/state": STATE},
        {"observation.state": STATE},
        {"observation/joint_position": STATE[:2], "observation/gripper_position": STATE[2:]},
        {"observation/gripper_position": STATE[2:], "observation/joint_position": STATE[:2]},
    ],
)
def test_every_spelling_of_the_state_means_the_same_joints(state: dict[str, Any]) -> None:
    seen = read(without("state") | state).observation
    assert seen is not None and seen.state.dtype == np.float32
    np.testing.assert_array_equal(seen.state, STATE)


def test_openpis_libero_and_aloha_clients_are_understood_by_policies_with_their_cameras() -> None:
    joints = {name: tuple([value] * 8) for name, value in {"position_min": -1.0, "position_max": 1.0}.items()}
    joints["joints"] = tuple("abcdefgh")
    libero = read(MESSAGES["libero"], **joints, cameras={"agentview": Camera(8, 8), "wrist": Camera(8, 8)})
    assert libero.observation is not None
    np.testing.assert_array_equal(libero.observation.images["agentview"], MESSAGES["libero"]["observation/image"])
    droid = read(
        MESSAGES["droid"],
        **joints,
        cameras={"exterior_image_1_left": Camera(8, 8), "wrist_image_left": Camera(8, 8)},
    )
    assert droid.observation is not None
    assert droid.observation.state[-1] == 0.5
    names = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    aloha = read(MESSAGES["aloha"], joints=tuple("abcdefghijklmn"), cameras=dict.fromkeys(names, Camera(8, 8)))
    assert aloha.observation is not None
    assert aloha.observation.images["cam_low"].shape == (8, 8, 3)


def test_times_ids_and_modes_are_taken_over() -> None:
    assert read(REQUEST).observation.time_s == 7.0  # pyright: ignore[reportOptionalMemberAccess]
    full = read(REQUEST | {"time_s": 3, "id": 5, "mode": "generate", "max_tokens": np.int64(9)})
    assert (full.id, full.mode, full.max_tokens) == (5, "generate", 9)
    assert full.observation is not None and full.observation.time_s == 3.0
    words = read({"mode": "unknown_words", "prompt": "pick"})
    assert words.observation is None and words.prompt == "pick"
    decided = np.zeros((HORIZON, 3), np.float32)
    assert read(REQUEST | {"given": decided, "given_steps": 2}).given_steps == 2


@pytest.mark.parametrize(
    "message, words",
    [
        (without("prompt"), "prompt must be text, got None"),
        (REQUEST | {"prompt": b"pick"}, "prompt must be text, got 4 bytes"),
        (REQUEST | {"promt": "x"}, "unknown keys 'promt'; possible: images, state, prompt"),
        (without("images"), "no image of camera 'front', 'wrist'"),
        (REQUEST | {"images": {"front": FRONT}}, "no image of camera 'wrist'"),
        (REQUEST | {"images": FRONT}, "images must be a map of camera names to images, got uint8 of shape [64, 64, 3]"),
        (REQUEST | {"images": {"front": FRONT, "top": WRIST}}, "'images.top' names no camera of this policy; possible"),
        (REQUEST | {"observation/top_image": FRONT}, "'observation/top_image' names no camera"),
        (
            REQUEST | {"observation/front": FRONT},
            "'images.front' and 'observation/front' are images of the same camera",
        ),
        (REQUEST | {"observation/image": FRONT}, "'observation/image' could be any of 'front', 'wrist'; name the"),
        (without("images") | {"observation/image": FRONT}, "'observation/image' could be any of 'front', 'wrist'"),
        (REQUEST | {"images": {"front": FRONT, "wrist": WRIST.astype(float)}}, "'images.wrist' must be an image uint8"),
        (REQUEST | {"images": {"front": FRONT, "wrist": WRIST[..., 0]}}, "'images.wrist' must be an image uint8"),
        (REQUEST | {"images": {"front": FRONT, "wrist": WRIST[:32]}}, "64x64 or as wide and high in another size"),
        (REQUEST | {"images": {"front": FRONT, "wrist": WRIST[..., [0, 1, 2, 2]]}}, "got 64x64x4"),
        (REQUEST | {"images": {"front": FRONT, "wrist": WRIST[:0, :0]}}, "got 0x0x3"),
        (without("state"), "no state; send state: 3 numbers, 'a', 'b', 'gripper'"),
        (REQUEST | {"observation/state": STATE}, "'state', 'observation/state' all give the state"),
        (REQUEST | {"observation/joint_position": STATE[:2]}, "all give the state"),
        (without("state") | {"observation/joint_position": STATE}, "is half of a state"),
        (REQUEST | {"state": STATE[:2]}, "must be 3 finite numbers 'a', 'b', 'gripper', got [0.5, -0.5]"),
        (REQUEST | {"state": STATE * np.nan}, "must be 3 finite numbers"),
        (REQUEST | {"state": [1e300, 0, 0]}, "must be 3 finite numbers"),
        (REQUEST | {"state": STATE[None]}, "one-dimensional array of numbers"),
        (REQUEST | {"state": ["1", "2", "3"]}, "one-dimensional array of numbers"),
        (REQUEST | {"state": "rest"}, "one-dimensional array of numbers"),
        (REQUEST | {"id": "7"}, "id must be a whole number, got 7"),
        (REQUEST | {"mode": "dance"}, "mode 'dance' is unknown; possible: act, generate, unknown_words"),
        (REQUEST | {"mode": [1]}, "mode '[1]' is unknown"),
        (REQUEST | {"time_s": float("nan")}, "time_s must be a finite number of seconds, got nan"),
        (REQUEST | {"time_s": "now"}, "time_s must be a finite number of seconds, got now"),
        (REQUEST | {"max_tokens": 100_000}, "max_tokens must be 1 to 256, got 100000"),
        (REQUEST | {"given_steps": 1}, "given_steps must be 0 to the 0 steps of `given`, got 1"),
        (REQUEST | {"given": STATE}, "given must be float32[N, 3]"),
        (REQUEST | {"given": np.full((4, 3), np.inf, np.float32)}, "given must be 1 to 4 steps of 3 finite numbers"),
        (REQUEST | {"given": np.zeros((4, 3), np.float32), "given_steps": 5}, "given_steps must be 0 to the 4 steps"),
    ],
)
def test_what_is_unclear_or_wrong_is_refused_with_what_is_possible(message: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(message)
    assert words in str(caught.value)


junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())
keys = st.sampled_from(
    [*REQUEST, "id", "mode", "given", "observation/", "observation/state", "observation.images.front"]
)


@given(st.dictionaries(keys | st.text(max_size=5), junk | st.dictionaries(st.text(), junk, max_size=2), max_size=4))
@settings(deadline=None, max_examples=100)
def test_any_message_is_a_request_or_refused_in_a_few_words(spoiled: dict[str, Any]) -> None:
    try:
        read(REQUEST | spoiled)
    except BadRequest as refusal:
        assert len(str(refusal)) < 3000
