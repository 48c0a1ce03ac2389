"""Questions about a frame are answered by the scene, evenly, and boxes lie where the objects are drawn."""

import json
import re
from collections import Counter

import mujoco
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from envs.tabletop import scene, truth
from envs.tabletop.env import TabletopEnv
from envs.tabletop.expert import Expert
from envs.tabletop.lamp import PRESS_STEPS

NAMES = r"is there .*|\b(open|closed|\w+ (cube|cylinder|bowl|plate))\b|\b(in|on)\b"


@pytest.fixture(scope="module")
def env():
    env = TabletopEnv(kinds=("place",), image_size={"front": (96, 96), "wrist": (16, 16)})
    env.reset(seed=2)
    yield env
    env.close()


def carry(env: TabletopEnv, thing: str, carrier: str, height: float) -> None:
    """Put an object over another one and let it fall."""
    env.reset(seed=0, options={"instruction": f"put the {thing} in the {carrier}"})
    place = env.world.position(carrier)
    env.data.joint(env.world.items[thing].slot).qpos[:3] = place + np.array([0, 0, height])
    for _ in range(10):
        env.step(env.observe()["agent_pos"])


def test_questions_come_in_the_number_asked_and_the_first_points_at_what_is_named(env):
    for n in (1, 8):
        drawn = env.questions(np.random.default_rng(0), n)
        assert len(drawn) == n and drawn[0] in env.target_questions()
        assert all(set(q) == {"question", "answer", "type"} for q in drawn)
    json.dumps(drawn)


def test_words_are_lower_case_without_punctuation(env):
    for question in env.questions(np.random.default_rng(1), 60):
        assert re.fullmatch(r"[a-z ]+", question["question"])
        assert re.fullmatch(r"[a-z ,]+|<box( \d+){4}>", question["answer"])


def test_yes_and_no_are_even_overall_and_in_each_form(env):
    carry(env, "green cube", "red bowl", 0.03)
    rng = np.random.default_rng(0)
    answers = Counter()
    for _ in range(600):
        question = truth._yesno(env.world, {}, rng)
        form = re.sub(
            r"is there .*|\b(open|closed|lit|dark|\w+ (cube|cylinder|bowl|plate))\b|\b(in|on)\b",
            "",
            question["question"],
        )
        answers[form, question["answer"]] += 1
    forms = {form for form, _ in answers}
    assert len(forms) == 4  # is there, is it in or on, is the drawer, is the button
    for form in forms:
        yes, no = answers[form, "yes"], answers[form, "no"]
        assert 0.4 < yes / (yes + no) < 0.6


def test_yes_and_no_tell_the_truth(env):
    env.reset(seed=2)
    yes, no = truth._exists(env.world)
    assert all(question.split(maxsplit=3)[3] in env.world.items for question in yes)
    assert no and not any(question.split(maxsplit=3)[3] in env.world.items for question in no)


def test_what_lies_beside_something_is_next_to_it_and_what_lies_apart_is_not(env):
    env.reset(seed=2)
    thing, other, *_ = (name for name, item in env.world.items.items() if item.shape in ("cube", "cylinder"))
    place = env.data.joint(env.world.items[thing].slot).qpos
    asked = f"is the {thing} next to the {other}"
    for space, answers in ((0.012, (True, False)), (0.030, (False, False)), (0.055, (False, True))):
        radii = env.world.items[thing].half_size + env.world.items[other].half_size
        place[:2] = env.world.position(other)[:2] - [radii + space, 0]
        mujoco.mj_forward(env.model, env.data)
        yes, no = truth._beside(env.world)
        assert (asked in yes, asked in no) == answers
    env.data.joint(env.world.items[thing].slot).qpos[:3] = env.world.position(other) + np.array([0, 0, 0.027])
    mujoco.mj_forward(env.model, env.data)
    yes, no = truth._beside(env.world)
    assert not [words for words in (*yes, *no) if thing in words]  # it stands on the other one


def test_a_button_is_lit_once_it_was_pressed_in_this_scene_or_before(env):
    lit = {"is the button lit": "yes", "is the button dark": "no"}
    for seed, kind, pressed in ((3, "press", False), (3, "press", True), *((seed, "pick", False) for seed in range(6))):
        env.reset(seed=seed, options={"kind": kind})
        before, down = env.observe()["pixels"]["front"].mean(), scene.BUTTON_TRAVEL if pressed else 0.0
        for _ in range(PRESS_STEPS):
            env.data.joint("button").qpos[0] = down
            env.world.update()
        asked = {q["question"]: q["answer"] for q in env.questions(np.random.default_rng(0), 200)}
        expected = pressed or env.layout.lit
        assert {q: a if expected else {"yes": "no", "no": "yes"}[a] for q, a in lit.items()}.items() <= asked.items()
        env.data.joint("button").qpos[0] = 0.0
        assert (env.observe()["pixels"]["front"].mean() > before + 0.3) == pressed  # it can be seen
    looks = {}
    for lit in (False, True, False):  # one after the other in the same model
        for seed in range(20):
            env.reset(seed=seed, options={"kind": "pick"})
            if env.layout.lit == lit:
                break
        looks.setdefault(lit, []).append(env.model.geom("button_base").rgba.mean())
    assert len(set(looks[False])) == 1 and looks[True][0] > looks[False][0] + 0.3


def test_what_lies_in_a_bowl_is_known_in_every_form(env):
    carry(env, "green cube", "red bowl", 0.03)
    assert truth.relations(env.world) == {"green cube": ("in", "red bowl")}
    assert truth._place_of(env.world, "green cube") == "in the red bowl"
    asked = {q["question"]: q["answer"] for q in env.questions(np.random.default_rng(0), 300)}
    assert asked["which object is in the red bowl"] == "green cube"
    assert asked["is the green cube in the red bowl"] == "yes"
    assert asked["what is the gripper holding"] == "nothing"


def test_captions_name_everything_once_from_left_to_right(env):
    env.reset(seed=2)
    text = truth.describe(env.world)
    places = [text.index(name) for name in sorted(env.world.items, key=lambda n: -env.world.position(n)[1])]
    assert places == sorted(places) and ("drawer is open" in text) == (env.world.drawer_opening > 0.5)


def test_boxes_enclose_the_pixels_of_their_objects(env):
    env.reset(seed=2)
    ids = env._frame_source().segment(env.data, "front")
    seen = truth.boxes(env.world, ids)
    assert {"drawer", "button"} <= set(seen) and set(seen) - {"drawer", "button"} <= set(env.world.items)
    for name, (x0, y0, x1, y1) in seen.items():
        rows, columns = np.nonzero(np.isin(ids, env.world.geoms(name)))
        assert 0 <= x0 < x1 <= 1023 and 0 <= y0 < y1 <= 1023
        assert abs(x0 * 96 / 1023 - columns.min()) < 0.1 and abs(x1 * 96 / 1023 - columns.max() - 1) < 0.1
        assert abs(y0 * 96 / 1023 - rows.min()) < 0.1 and abs(y1 * 96 / 1023 - rows.max() - 1) < 0.1


def test_what_is_hidden_is_not_visible(env):
    env.reset(seed=2)
    name = env.goal.object
    env.data.joint(env.world.items[name].slot).qpos[:3] = 0.2, 0.0, -0.5  # under the table
    env.observe()
    env.data.joint(env.world.items[name].slot).qvel[:] = 0
    env.step(env.observe()["agent_pos"])
    answer = next(q for q in env.target_questions() if name in q["question"])
    assert answer == {"question": f"point to the {name}", "answer": "not visible", "type": "point"}


@pytest.mark.parametrize("kind", ["pick", "place", "stack", "push", "open", "close", "press"])
def test_whether_the_goal_is_accomplished_is_asked_and_answered_by_what_judges_it(env, kind):
    asked = set()
    for seed in range(3):
        env.reset(seed=seed, options={"kind": kind})
        expert, answers = Expert(), set()
        for _ in range(130):
            *_, info = env.step(expert.act(env.expert_observation()))
            question = truth.goal_question(env.world, env.goal)
            if question:
                answers.add((question["answer"], info["subtask"]["done"]))
                asked.add(question["question"])
            if info["subtask"]["done"]:
                break
        says = {(truth._says_done({"answer": answer}, env.goal), done) for answer, done in answers}
        aside = kind == "push" and env.goal.side  # a place says so roughly, also a little before
        assert (aside or (False, False) in says) and (True, True) in says and (False, True) not in says
    grammar = instantiate(OmegaConf.load("configs/skills/tabletop.yaml"))
    assert asked <= {skill.check for skill in grammar}
