"""Few-shot sequences for training: a made-up name stands for one thing, and only worked examples say for which.

    [frames][point to the dax <box>] ... [frames][point to the dax] -> <box>

What a name means is drawn anew for every sequence, and every part shows another episode. Each answer but the first is
taught, so one sequence teaches 1 to N examples at once. Neither the words nor the frames of a question tell what is
meant: it is what the frames of the examples show at the place of their boxes.

B batch, S parts of a sequence, Q words of a part.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vla.model.few_shot import Parts, read
from vla.model.losses import grounding_loss, word_loss
from vla.model.network import Network
from vla.model.processor import Processor, pad
from vla.model.prompts import NAMES, point_prompt, what_prompt
from vla.model.vocabulary import LOCATIONS, read_box
from vla.train.batch import Batch, of_shots
from vla.train.batches import Batches, Labels

FIXTURES = ("drawer", "button")  # there is one in every scene


@dataclass(frozen=True)
class FewShot:
    """How few-shot sequences are drawn.

    most: examples before the last question; what, known: share of sequences whose last question is what the name
    stands for, or is about a thing by its real name.
    """

    most: int
    what: float = 0.3
    known: float = 0.2

    def __post_init__(self) -> None:
        if self.most < 1 or min(self.what, self.known) < 0 or self.what + self.known > 1:
            raise ValueError(
                f"shots={{most: {self.most}, what: {self.what}, known: {self.known}}}: give one example or more, and "
                "shares that are 1 together at most"
            )


def few_shot_texts(shots: dict[str, Any] | None) -> set[str]:
    """Return what is said in the sequences beside what labels say, for the vocabulary; nothing where there are none."""
    return {prompt(name) for name in NAMES for prompt in (point_prompt, what_prompt)} if shots else set()


class Part(NamedTuple):
    """One of the questions of a sequence."""

    frame: int
    question: str
    answer: str
    box: str  # of what is meant
    taught: bool


class Sequences:
    """Draws few-shot sequences from the labels of a dataset."""

    def __init__(self, labels: Labels, processor: Processor, settings: FewShot) -> None:
        """Raise ValueError where nothing is pointed at in as many episodes as a sequence shows.

        What a subtask names is left out: the arm that reaches for it would tell what is meant.
        """
        self.labels, self.processor, self.settings = labels, processor, settings
        self.tokenize = lru_cache(maxsize=1 << 16)(processor.tokenize)
        pointed: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for number, row in enumerate(labels.vqa):
            for item in json.loads(row):
                thing = item["question"].removeprefix(point_prompt(""))
                told = thing in FIXTURES or thing in labels.subtask[number]
                if item["type"] == "point" and not told and read_box(item["answer"]):
                    pointed[thing].append((number, item["answer"]))
        episodes = {thing: len({labels.plan_of[number] for number, _ in seen}) for thing, seen in pointed.items()}
        self.pointed = {thing: pointed[thing] for thing in sorted(pointed) if episodes[thing] > settings.most}
        if not self.pointed:
            raise ValueError(
                f"shots.most={settings.most}: no thing is pointed at in {settings.most + 1} episodes of the dataset, "
                f"at most in {max(episodes.values(), default=0)}; give fewer, or collect more episodes"
            )
        said = [[point_prompt(name), "<box 0 0 0 0>"] for name in (*NAMES, *self.pointed)]
        said += [[what_prompt(NAMES[0]), thing] for thing in self.pointed]
        self.length = max(1 + sum(len(self.tokenize(text)) for text in texts) for texts in said)

    def draw(self, rng: np.random.Generator) -> list[Part]:
        """Draw a sequence, in which the first answer cannot be known and is not taught."""
        things = list(self.pointed)
        thing, name = things[rng.integers(len(things))], NAMES[rng.integers(len(NAMES))]
        parts: list[Part] = []
        shown: set[int] = set()
        while len(parts) <= self.settings.most:
            frame, box = self.pointed[thing][rng.integers(len(self.pointed[thing]))]
            if (episode := int(self.labels.plan_of[frame])) not in shown:
                parts.append(Part(frame, point_prompt(name), box, box, taught=bool(parts)))
                shown.add(episode)
        luck, last = rng.random(), parts[-1]
        if luck < self.settings.what:
            parts[-1] = last._replace(question=what_prompt(name), answer=thing)
        elif luck < self.settings.what + self.settings.known:
            parts[-1] = last._replace(question=point_prompt(thing))
        return parts

    def pack(self, drawn: Sequence[Sequence[Part]]) -> tuple[dict[str, Tensor], np.ndarray]:
        """Fields of `Batch` of drawn sequences, and their frames int[B, S]; Q is always the same."""
        ids, labels, ends, at, boxes = [], [], [], [], []
        for part in (part for row in drawn for part in row):
            question, answer = self.tokenize(part.question), [*self.tokenize(part.answer), self.processor.eos_id]
            ids.append(question + answer)
            labels.append([-100] * len(question) + (answer if part.taught else [-100] * len(answer)))
            ends.append(len(question))
            corners = read_box(part.box)
            assert corners is not None
            at.append([len(question) - 1 if part.taught else -1, len(ids[-1]) - 2 if part.answer == part.box else -1])
            boxes.append([[value / (LOCATIONS - 1) for value in corners]] * 2)
        words, mask = pad(ids, self.processor.pad_id, multiple=self.length)
        fields = {
            "shot_ids": words,
            "shot_asked": mask & (torch.arange(self.length) < torch.tensor(ends)[:, None]),
            "shot_labels": pad(labels, -100, multiple=self.length)[0],
            "shot_at": torch.tensor(at),
            "shot_box": torch.tensor(boxes),
        }
        frames = np.array([[part.frame for part in row] for row in drawn])
        return {name: values.unflatten(0, frames.shape) for name, values in fields.items()}, frames


class WithShots:
    """Batches of which every sample comes with a few-shot sequence that has frames and words of its own."""

    def __init__(self, batches: Batches, settings: FewShot) -> None:
        self.batches, self.sequences = batches, Sequences(batches.labels, batches.processor, settings)

    def __getitem__(self, step: int) -> Batch:
        return self.draw(step, self.batches.batch_size)

    def draw(self, step: int, size: int) -> Batch:
        """Make a batch of that size, this process' share of it; it depends on seed, step and size alone."""
        rng = np.random.default_rng([self.batches.seed, step, 1])
        words, numbers = self.sequences.pack([self.sequences.draw(rng) for _ in range(size)])
        number, count = self.batches.share
        rows = np.array_split(np.arange(size), count)[number]
        batch, frames = self.batches.draw(step, size), self.batches.frames
        images = dict(batch.images)
        for camera in frames.arrays:
            taken = frames.gather(camera, numbers[rows].ravel())
            images[of_shots(camera)] = torch.from_numpy(taken).unflatten(0, (len(rows), -1))
        in_all = {**batch.counted_in_all, "shots": int((words["shot_labels"] != -100).sum())}
        in_all["places"] = int((words["shot_at"] >= 0).sum())
        return replace(
            batch, images=images, counted_in_all=in_all, **{name: values[rows] for name, values in words.items()}
        )


def with_shots(parts: Sequence[Batches], settings: FewShot) -> list[WithShots]:
    """Add sequences to the batches of every dataset, as long in all as they are in the longest."""
    added = [WithShots(part, settings) for part in parts]
    longest = max(each.sequences.length for each in added)
    for each in added:
        each.sequences.length = longest
    return added


def shot_losses(
    network: Network, processor: Processor, images: dict[str, Tensor], batch: Batch, location_sigma: float
) -> dict[str, Tensor]:
    """Losses `shots`, of the answers that follow examples, and `places`: names, and ends of boxes, mean what is there.

    images: float 0..255 [B, ...] of each camera, and those of few-shot sequences [B, S, ...].
    """
    ids, asked, labels, at, box = batch.shot_ids, batch.shot_asked, batch.shot_labels, batch.shot_at, batch.shot_box
    assert ids is not None and asked is not None and labels is not None and at is not None and box is not None
    frames = {camera: images[of_shots(camera)].flatten(0, 1) for camera in network.vision.cameras}
    known = read(
        network, Parts(frames, torch.ones_like(ids[..., 0], dtype=torch.bool), ids, ids != processor.pad_id, asked)
    )
    found = {"shots": word_loss(network, known.hidden.flatten(0, 1), labels.flatten(0, 1), location_sigma)}
    grid = next(iter(network.vision.grids.values()), None)
    if grid:
        found["places"] = grounding_loss(known.named, at.flatten(0, 1), box.flatten(0, 1), grid)
    return found
