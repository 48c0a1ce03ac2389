"""Questions and answers about one frame, from the scene's truth: captions, yes/no, where, which, and boxes.

Lower case, words only, no final punctuation. Boxes are "<box x0 y0 x1 y1>", integers 0..1023 across the front image.
Each is a dict of question, answer and type (caption, yesno, where, which or point). Yes and no are drawn with equal
chance, from question forms that both answers fit in the present frame, so that no form gives its answer away; only
whether the goal is accomplished is asked as it comes, and that is more often yes at the end of a demonstration.
"""

from itertools import permutations

import numpy as np

from envs.tabletop import scene
from envs.tabletop.goals import CLOSED, GAP_M, OPENED, Goal, gap, is_in, is_on
from envs.tabletop.language import object_names
from envs.tabletop.world import World

Box = tuple[int, int, int, int]
BOX_BINS = 1024
LEAST_PIXELS = 6  # fewer visible ones count as not visible
NOT_VISIBLE = "not visible"
UNDONE_SHARE = 0.5  # of the frames in which the goal is not accomplished are asked about that
SIDE_WORDS = {"left": "left", "right": "right", "forward": "far", "back": "near"}  # of the place where a push ends
NUMBERS = ("no", "one", "two", "three", "four")
_SIDE_M = 0.047  # the table is named in thirds across: left, middle, right
_MIDDLE_X = 0.205  # and in halves: near, far
_MARGIN_M = 0.008  # nothing is asked this close to a border
_APART_M = 0.040  # things that are further from each other are not next to each other


def boxes(world: World, geom_ids: np.ndarray) -> dict[str, Box]:
    """Return the box of every visible object and fixture, from a segmentation int32[H, W] of the front image."""
    height, width = geom_ids.shape
    found = {}
    for name in (*world.items, *scene.FIXTURES):
        rows, columns = np.nonzero(np.isin(geom_ids, world.geoms(name)))
        if len(rows) >= LEAST_PIXELS:
            x0, x1 = (int(column * (BOX_BINS - 1) / width + 0.5) for column in (columns.min(), columns.max() + 1))
            y0, y1 = (int(row * (BOX_BINS - 1) / height + 0.5) for row in (rows.min(), rows.max() + 1))
            found[name] = (x0, y0, x1, y1)
    return found


def relations(world: World) -> dict[str, tuple[str, str]]:
    """Return what carries each carried object, as name -> ("in" or "on", name of the carrier)."""
    held = world.held()
    return {
        name: (word, carrier)
        for name, item in world.items.items()
        if item.shape in scene.PICKABLE and name != held
        for carrier in world.items
        if (word := _carried_by(world, name, carrier))
    }


def _carried_by(world: World, name: str, carrier: str) -> str | None:
    """Say how `carrier` carries `name`: "in" a bowl, "on" anything else, None if it does not."""
    if name == carrier:
        return None
    if world.items[carrier].shape in scene.PICKABLE:
        return "on" if is_on(world, name, carrier) else None
    if not is_in(world, name, carrier):
        return None
    return "in" if world.items[carrier].shape == "bowl" else "on"


def questions(
    world: World, goal: Goal, seen: dict[str, Box], rng: np.random.Generator, n: int, judged: Goal | None = None
) -> list[dict[str, str]]:
    """Draw n questions about the present frame, the first one pointing at something that the goal names.

    The next one often asks whether a goal is accomplished, this one or the one to be judged: that is where a near miss
    must be told from a success.
    """
    targets = target_questions(goal, seen)
    drawn = [targets[rng.integers(len(targets))]]
    accomplished = goal_question(world, judged or goal)
    if accomplished and rng.random() < (1.0 if _says_done(accomplished, judged or goal) else UNDONE_SHARE):
        drawn.append(accomplished)
    makers = (_caption, _yesno, _yesno, _where, _which, _point)
    while len(drawn) < n:
        question = makers[rng.integers(len(makers))](world, seen, rng)
        if question:
            drawn.append(question)
    return drawn[:n]


def target_questions(goal: Goal, seen: dict[str, Box]) -> list[dict[str, str]]:
    """Return one pointing question for each thing that the goal names; drawer or button where it names no object."""
    fixture = {"open": "drawer", "close": "drawer", "press": "button"}.get(goal.kind)
    return [_point_to(name, seen) for name in (goal.object, goal.target, fixture) if name]


def goal_question(world: World, goal: Goal) -> dict[str, str] | None:
    """Return the question that tells whether the goal is accomplished, None where that is hard to say."""
    if goal.kind == "push" and goal.side:
        place = _place_of(world, goal.object)
        return _answer(f"where is the {goal.object}", place, "where") if place else None
    words = {
        "pick": f"is the gripper holding the {goal.object}",
        "place": f"is the {goal.object} {'in' if goal.target.endswith('bowl') else 'on'} the {goal.target}",
        "stack": f"is the {goal.object} on the {goal.target}",
        "push": f"is the {goal.object} next to the {goal.target}",
        "open": "is the drawer open",
        "close": "is the drawer closed",
        "press": "is the button lit",
    }[goal.kind]
    form = {"pick": _holding, "push": _beside, "open": _drawer, "close": _drawer, "press": _lamp}
    yes, no = form.get(goal.kind, _related)(world)
    if goal.kind in ("place", "stack") and words not in yes:
        no = [words]
    return _answer(words, "yes" if words in yes else "no", "yesno") if words in (*yes, *no) else None


def _says_done(question: dict[str, str], goal: Goal) -> bool:
    return (SIDE_WORDS[goal.side] if goal.side else "yes") in question["answer"].split()


def describe(world: World) -> str:
    """Return the caption: the objects from left to right, then the drawer, then what is held."""
    names = sorted(world.items, key=lambda name: -world.position(name)[1])
    held = world.held()
    text = ", ".join(f"{_article(name)} {name}" for name in names)
    drawer = "open" if world.drawer_opening > 0.5 else "closed"
    return f"{text}, the drawer is {drawer}" + (f", the gripper is holding the {held}" if held else "")


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _answer(question: str, answer: str, kind: str) -> dict[str, str]:
    return {"question": question, "answer": answer, "type": kind}


def _choose(rng: np.random.Generator, choices):
    return choices[rng.integers(len(choices))]


def _caption(world: World, seen: dict[str, Box], rng: np.random.Generator) -> dict[str, str]:
    return _answer(_choose(rng, ("describe the scene", "what is on the table")), describe(world), "caption")


def _point_to(name: str, seen: dict[str, Box]) -> dict[str, str]:
    box = seen.get(name)
    return _answer(f"point to the {name}", "<box {} {} {} {}>".format(*box) if box else NOT_VISIBLE, "point")


def _point(world: World, seen: dict[str, Box], rng: np.random.Generator) -> dict[str, str]:
    return _point_to(_choose(rng, (*world.items, *scene.FIXTURES)), seen)


def _yesno(world: World, seen: dict[str, Box], rng: np.random.Generator) -> dict[str, str]:
    """Draw a form of question that can be answered both ways here, then the answer, then the question."""
    forms = [form for form in (_exists, _exists, _related, _beside, _holding, _drawer, _lamp) if all(form(world))]
    yes = bool(rng.random() < 0.5)
    return _answer(_choose(rng, _choose(rng, forms)(world)[not yes]), "yes" if yes else "no", "yesno")


def _exists(world: World) -> tuple[list[str], list[str]]:
    """Return questions with the answer yes and with no; absent objects share colour or shape with a present one.

    Those that share the colour with one and the shape with another are hardest; they come as often as all others.
    """
    colours, shapes = ({getattr(item, key) for item in world.items.values()} for key in ("colour", "shape"))
    absent = [name for name in object_names() if name not in world.items]
    both = [name for name in absent if name.split()[0] in colours and name.split()[1] in shapes]
    one = [name for name in absent if (name.split()[0] in colours) != (name.split()[1] in shapes)]
    form = "is there {} {}".format
    no = one + both * max(1, round(len(one) / max(1, len(both))))
    return [form(_article(n), n) for n in world.items], [form(_article(n), n) for n in no]


def _related(world: World) -> tuple[list[str], list[str]]:
    true = relations(world)
    if not true:
        return [], []
    carriers = {carrier: word for word, carrier in true.values()}
    for name, item in world.items.items():
        if item.shape in scene.CONTAINERS:
            carriers[name] = "in" if item.shape == "bowl" else "on"
    movable = [name for name, item in world.items.items() if item.shape in scene.PICKABLE]
    yes, no = [], []
    for name in movable:
        for carrier, word in carriers.items():
            if name != carrier:
                (yes if true.get(name) == (word, carrier) else no).append(f"is the {name} {word} the {carrier}")
    return yes, no


def _beside(world: World) -> tuple[list[str], list[str]]:
    """Ask of what lies on the table whether it is next to something, unless it is hard to say."""
    aloft = {*relations(world), world.held()}
    yes, no = [], []
    for name, other in permutations((name for name in world.items if name not in aloft), 2):
        if world.items[name].shape in scene.PICKABLE:
            space = gap(world, name, other)
            words = yes if space < GAP_M - _MARGIN_M else no if space > _APART_M else []
            words.append(f"is the {name} next to the {other}")
    return yes, no


def _holding(world: World) -> tuple[list[str], list[str]]:
    held = world.held()
    others = [name for name, item in world.items.items() if item.shape in scene.PICKABLE and name != held]
    return [f"is the gripper holding the {held}"] if held else [], [f"is the gripper holding the {n}" for n in others]


def _drawer(world: World) -> tuple[list[str], list[str]]:
    if CLOSED < world.drawer_opening < OPENED:
        return [], []
    is_open = world.drawer_opening >= OPENED
    opened, closed = ["is the drawer open"], ["is the drawer closed"]
    return (opened, closed) if is_open else (closed, opened)


def _lamp(world: World) -> tuple[list[str], list[str]]:
    lit, dark = ["is the button lit"], ["is the button dark"]
    return (lit, dark) if world.button_lit else (dark, lit)


def _where(world: World, seen: dict[str, Box], rng: np.random.Generator) -> dict[str, str] | None:
    name = _choose(rng, list(world.items))
    place = _place_of(world, name)
    return _answer(f"where is the {name}", place, "where") if place else None


def _place_of(world: World, name: str) -> str | None:
    """Return what carries an object, or its part of the table, None close to a border between two parts."""
    if name == world.held():
        return "in the gripper"
    if name in (true := relations(world)):
        return "{} the {}".format(*true[name])
    x, y, _ = world.position(name)
    if abs(abs(y) - _SIDE_M) < _MARGIN_M or abs(x - _MIDDLE_X) < _MARGIN_M:
        return None
    side = "middle" if abs(y) < _SIDE_M else "left" if y > 0 else "right"
    return f"{'near' if x < _MIDDLE_X else 'far'} {side}"


def _which(world: World, seen: dict[str, Box], rng: np.random.Generator) -> dict[str, str]:
    """Draw from: what is held, what lies in or on what, how many of a shape, the colour of the only one of a shape."""
    options = [("what is the gripper holding", world.held() or "nothing")]
    carried = relations(world)
    for name, (word, carrier) in carried.items():
        if list(carried.values()).count((word, carrier)) > 1:
            continue
        options.append((f"which object is {word} the {carrier}", name))
    for shape in scene.SLOTS:
        same = [item for item in world.items.values() if item.shape == shape]
        options.append((f"how many {shape}s are there", NUMBERS[len(same)]))
        if len(same) == 1:
            options.append((f"what colour is the {shape}", same[0].colour))
    return _answer(*_choose(rng, options), "which")
