"""What is reported by the number of examples follows from what an answerer makes of them."""

import numpy as np
import pytest

from vla.bench.few_shot import GREY, draw, report
from vla.bench.sight import Scene
from vla.cli import run
from vla.model.prompts import NAMES, point_prompt, what_prompt
from vla.model.vocabulary import read_box

THINGS = ("red cube", "blue bowl", "green plate")


def scene(number):
    """A picture that tells its number, in which every thing has a place of its own."""
    boxes = {thing: (100 * row + number, 50, 100 * row + number + 60, 90) for row, thing in enumerate(THINGS)}
    return Scene({"front": np.full((4, 4, 3), number, np.uint8)}, boxes | {"black cube": None})


SCENES = {number: scene(number) for number in range(20)}


class Follower:
    """Reads off the examples what a name means, where their pictures tell; points at the first thing otherwise."""

    def generate(self, observations, prompts, max_tokens=24, shots=()):
        return [self.answer(*each) for each in zip(observations, prompts, shots, strict=True)]

    def answer(self, observation, prompt, shots):
        assert all(shot.question == point_prompt(prompt.split()[-1]) for shot in shots)
        meant = [self.thing(shot) for shot in shots]
        thing = max(meant, key=meant.count) if meant and set(meant) != {None} else THINGS[0]
        for name in THINGS:
            thing = name if prompt == point_prompt(name) else thing
        if any(prompt == what_prompt(name) for name in NAMES):
            return thing
        boxes = self.boxes(observation)
        return f"<box {' '.join(map(str, boxes[thing]))}>" if boxes else "not visible"

    def thing(self, shot):
        return next((name for name, box in self.boxes(shot.observation).items() if box == read_box(shot.answer)), None)

    def boxes(self, observation):
        number = int(observation.images["front"][0, 0, 0])
        return {} if number == GREY else {name: box for name, box in SCENES[number].boxes.items() if box}


@pytest.fixture(scope="module")
def cases():
    return draw(list(SCENES.values()), 40, 2, np.random.default_rng(0))


def test_examples_show_the_thing_elsewhere_and_what_misleads_is_something_else(cases):
    assert len(cases) == 40 and {case.thing for case in cases} == set(THINGS)
    for case in cases:
        assert len(case.examples) == len(case.misleading) == len(case.mixed) == 2
        assert all(shown is not case.scene and thing == case.thing for shown, thing in case.examples)
        assert all(shown is not case.scene and thing == case.other != case.thing for shown, thing in case.misleading)
        assert all(thing != case.thing and shown.boxes[thing] for shown, thing in case.mixed)


def test_one_that_follows_examples_is_right_with_them_and_misled_by_them(cases):
    told = report(Follower(), cases, [0, 1, 2])
    first = np.mean([case.thing == THINGS[0] for case in cases])
    for kind in ("point", "what"):
        assert told[kind]["0"]["accuracy"] == pytest.approx(first)
        assert told[kind]["1"]["accuracy"] == told[kind]["2"]["accuracy"] == 1.0
        controls = told[f"{kind}_controls"]
        assert controls["other_thing"]["accuracy"] == controls["other_boxes"]["accuracy"] == 0.0
        assert controls["grey_examples"]["accuracy"] == pytest.approx(first)
    assert told["point_controls"]["grey_question"]["chosen"] == 0.0
    assert told["what_controls"]["grey_question"]["accuracy"] == 1.0
    assert told["followed"]["accuracy"] == told["by_its_name"]["accuracy"] == 1.0
    assert told["chosen_by_chance"] == pytest.approx(1 / 3) and told["questions"] == 40


def test_what_was_never_taught_such_names_or_shows_nothing_twice_is_refused(tmp_path, capsys):
    assert run(["bench", "few_shot", f"out={tmp_path}"]) != 0
    assert "give a folder that vla train recipe=few_shot wrote" in capsys.readouterr().err
    assert run(["bench", "few_shot", "bench.checkpoint=nano", f"out={tmp_path}"]) != 0
    assert "was never taught ['dax'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no thing is in sight in more than 2 of 2 scenes"):
        draw([SCENES[0], SCENES[1]], 40, 2, np.random.default_rng(0))
