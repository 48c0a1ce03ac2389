"""Earlier frames are those of the times that were trained on, and change what a policy that reads them does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.model.tiny import PROMPTS, observation, tiny_config, tiny_policy, tiny_processor
from vla.cli import run
from vla.model import checkpoint
from vla.model.history import History, Recollection, follow
from vla.model.network import Network
from vla.model.policy import VLAPolicy

HISTORY = dict(frames=2, stride=3)


def built(**changes):
    torch.manual_seed(0)
    processor = replace(tiny_processor(), history=History(**HISTORY))
    config = tiny_config(processor.tokenizer) | dict(history=HISTORY) | changes
    network = Network(**config)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    return VLAPolicy(network, processor), config


def shown(*seeds):
    """An observation whose frames are those of the first seed, and before it of the others."""
    present, *earlier = (observation(seed) for seed in seeds)
    return replace(observation(), images=present.images, earlier=tuple(seen.images for seen in earlier))


def acts(policy, seen):
    return policy.act([seen])[0].actions


def test_what_was_seen_nearest_to_the_wanted_times_is_recollected():
    recollection = Recollection(History(2, 3), control_hz=10.0)
    seen = {}
    for step in (0, 2, 4, 6, 7, 9):
        seen[step] = observation(step)
        found = recollection.see(seen[step], step / 10)
    assert [front is seen[step].images["front"] for front, step in zip(fronts(found), (6, 4), strict=True)] == [
        True
    ] * 2
    assert recollection.see(seen[9], 0.9).earlier == found.earlier  # asked again about the same moment


def test_who_looks_back_gets_what_was_before_and_takes_nothing_from_who_looks_ahead():
    recollection = Recollection(History(2, 3), control_hz=10.0)
    seen = {step: observation(step) for step in range(31)}
    for step in (0, 3, 6, 9, 30):
        recollection.see(seen[step], step / 10)
    back, unseen = recollection.see(seen[9], 0.9), recollection.see(seen[8], 0.8)
    assert [seen_at(seen, front) for front in fronts(back)] == [6, 3]
    assert [seen_at(seen, front) for front in fronts(unseen)] == [6, 3]  # 9 had not been there yet
    ahead = recollection.see(observation(31), 3.3)
    assert [seen_at(seen, front) for front in fronts(ahead)] == [30, 30]
    forgotten = recollection.see(seen[0], -60.0)
    assert [seen_at(seen, front) for front in fronts(forgotten)] == [0, 0]


def seen_at(seen, front):
    return next(step for step, one in seen.items() if one.images["front"] is front)


def fronts(seen):
    return [images["front"] for images in seen.earlier]


def test_long_ago_is_not_before():
    recollection = Recollection(History(1, 3), control_hz=10.0)
    recollection.see(observation(0), 0.0)
    late = recollection.see(observation(1), 60.0)
    assert fronts(late)[0] is late.images["front"]


def test_frames_are_stacked_and_the_oldest_stands_for_what_was_not_seen():
    policy, _ = built()
    images = policy.processor.images([shown(0, 1), shown(0)])["front"]
    assert images.shape == (2, 3, 32, 48, 3)
    single = [tiny_processor().images([observation(seed)])["front"][0] for seed in range(2)]
    for row, seeds in enumerate([(0, 1, 1), (0, 0, 0)]):
        for age, seed in enumerate(seeds):
            assert torch.equal(images[row, age], single[seed])


def test_earlier_frames_and_their_order_change_what_is_done():
    policy, _ = built()
    policy.network.vision.age.data.mul_(50)  # it starts small
    dark, bright = ({name: np.full((64, 64, 3), level, np.uint8) for name in ("front", "wrist")} for level in (0, 255))
    still = acts(policy, shown(0))
    moved, other = (acts(policy, replace(shown(0), earlier=past)) for past in ((dark, bright), (bright, dark)))
    assert np.abs(still - moved).max() > 1e-4 and np.abs(moved - other).max() > 2e-5
    np.testing.assert_array_equal(still, acts(policy, shown(0, 0, 0)))
    np.testing.assert_array_equal(acts(tiny_policy(), shown(0)), acts(tiny_policy(), shown(0, 1)))


@torch.no_grad()
def test_tokens_of_the_present_come_first_as_they_are_without_a_history():
    """Boxes are about the present frame of the first camera; its tokens have the numbers that they always have."""
    tower = built()[0].network.vision
    images = built()[0].processor.images([shown(0, 1, 2)])
    by_camera = tower.by_camera(tower(images))
    count = tower.tokens["front"]
    assert tower.num_tokens == 3 * sum(tower.tokens.values()) and by_camera["front"].shape[1] == 3 * count
    tower.frames, age, tower.age = 1, tower.age, None
    for number in range(3):
        alone = tower.by_camera(tower({name: image[:, number] for name, image in images.items()}))
        expected = alone["front"] + (age[number - 1] if number else 0)
        torch.testing.assert_close(by_camera["front"][:, number * count : (number + 1) * count], expected)


@pytest.mark.parametrize(
    "changes",
    [
        dict(connector=dict(name="qformer", tokens=4, instructed=True)),
        dict(keep=6),
        dict(tiling=dict(tile=32, max_tokens=40)),
        dict(fusion=dict(name="cross_attention")),
    ],
)
def test_a_history_goes_with_every_other_choice(changes):
    policy, _ = built(**changes, language=tiny_config(tiny_processor().tokenizer)["language"] | dict(n_positions=200))
    for look in policy.network.cross.looks.values() if policy.network.cross else ():
        look.attention_gate.data.fill_(1.0)
    observations = [shown(0, 1, 2), shown(3, 4)]
    together = policy.act(observations)
    for one, chunk in zip(observations, together, strict=True):
        np.testing.assert_allclose(acts(policy, one), chunk.actions, atol=1e-3)
    assert len(policy.generate(observations, PROMPTS[:2], 2)) == 2


def test_a_policy_that_follows_a_robot_remembers_what_it_saw_and_encodes_it_once():
    policy = follow(built()[0])
    told, _ = built()
    counts = []
    policy.network.vision.encoder.register_forward_pre_hook(
        lambda _, __, named: counts.append(len(named["pixel_values"])), with_kwargs=True
    )
    for number in range(3):
        present = replace(observation(number), state=observation().state, time_s=0.3 * number)
        chunk = acts(policy, present)
    assert sum(counts) == 2 * 3  # a frame of each camera each time, however often it comes back as an earlier one
    np.testing.assert_allclose(chunk, acts(told, shown(2, 1, 0)), atol=1e-5)
    assert follow(tiny_policy()).recollection is None


def test_a_checkpoint_keeps_its_history(tmp_path):
    policy, config = built()
    checkpoint.save(tmp_path / "seen", config, policy.network.state_dict(), policy.processor, {})
    loaded = checkpoint.load(tmp_path / "seen")
    assert loaded.history == History(2, 3)
    np.testing.assert_array_equal(acts(loaded, shown(0, 1, 2)), acts(policy, shown(0, 1, 2)))


def test_a_server_whose_messages_carry_one_frame_does_not_serve_it(tmp_path, capsys, monkeypatch):
    for name in ("VLA_DEBUG", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    policy, config = built()
    checkpoint.save(tmp_path / "seen", config, policy.network.state_dict(), policy.processor, {})
    assert run(["serve", f"checkpoint={tmp_path / 'seen'}", "port=0", f"out={tmp_path / 'out'}"]) == 1
    assert "reads earlier frames, and a message carries the present one" in capsys.readouterr().err


def test_what_makes_no_history_is_refused():
    with pytest.raises(ValueError, match="1 or more frames and stride, got 0 and 3"):
        History(0)
    policy, _ = built()
    with pytest.raises(ValueError, match=r"camera 'front' gave \(32, 48, 3\), the model takes \(3, 32, 48, 3\)"):
        policy.network.vision(tiny_processor().images([observation()]))
