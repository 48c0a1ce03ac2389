"""Training batches: a window of joint targets, the words that asked for it, and a question about the same frame.

Batch `step` depends on (seed, step) alone, so a resumed run continues with exactly the batches it would have had.
Three kinds of batches keep texts of one length together: `whole` (a long-horizon instruction), `wordy` (captions and
plans) and `short` (subtasks); the first and the last with pointing, yes/no, where and which.

N frames of the dataset, B batch, T action horizon, A action dimension.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla.data.dataset import EpisodeDataset
from vla.data.framecache import EarlierFrames, FrameCache
from vla.model.actions import ActionCodec
from vla.model.processor import Processor, pad
from vla.model.prompts import ALL_FINISHED, IS_THERE, JOINS, NOT_VISIBLE, plan_prompt, point_prompt
from vla.model.vocabulary import LOCATIONS, read_box
from vla.train import hands
from vla.train.batch import Batch, held
from vla.train.captions import drawn
from vla.train.preference import in_equal_shares

WORDY_SHARE = 0.15  # of the batches that are not `whole`
PLAN_SHARE = 0.7  # of the questions in `wordy` batches, captions for the rest
MADE_UP_SHARE = 0.7  # of the plans: joined from instructions of single steps, so that none is learnt by heart
MOST_STEPS = 5  # of such an instruction
ABSENT_SHARE = 0.35  # of the questions that point: at something that is not there
ELSEWHERE = 50  # frames in which an answer that is not true of this one is looked for
FAILED_SHARE = 0.15  # of the plans: the step that is due was tried in vain, and is to be tried again
TYPES = {"short": {"point": 0.4, "yesno": 0.4, "where": 0.1, "which": 0.1}, "wordy": {"caption": 1.0}}


@dataclass
class Labels:
    """Columns of the dataset in memory, with what follows from them."""

    state: np.ndarray  # float32[N, A]
    action: np.ndarray  # float32[N, A]
    progress: np.ndarray  # float32[N]
    done: np.ndarray  # bool[N]
    task: list[str]
    subtask: list[str]
    vqa: list[str]
    episode_end: np.ndarray  # int[N], one past the last frame of the episode
    subtask_end: np.ndarray  # int[N], one past the last frame of the present subtask
    subtask_number: np.ndarray  # int[N], 0 for the first of the episode
    plans: list[tuple[str, ...]] = field(repr=False)  # of every episode, its subtasks in order
    plan_of: np.ndarray = field(repr=False)  # int[N], row in `plans` and `absent`
    absent: list[tuple[str, ...]] = field(repr=False)  # of every episode, things that are known not to be there
    failed: np.ndarray | None = field(default=None, repr=False)  # bool[N], whether the episode ended without success
    executed: np.ndarray | None = field(default=None, repr=False)  # float32[N, A], targets that the arm was given
    rollin: np.ndarray | None = field(default=None, repr=False)  # bool[N], whether a policy drove there
    shown: np.ndarray | None = field(default=None, repr=False)  # bool[N], whether to learn it, see hands.py; None: all

    @classmethod
    def read(cls, dataset: EpisodeDataset) -> "Labels":
        """Read the columns and find where subtasks begin and end."""
        subtask, task_of = list(dataset.column("subtask")), np.asarray(dataset.column("task_index"))
        count, names = len(dataset), {number: text for text, number in dataset.tasks.items()}
        ends, numbers, plan_of = np.zeros((2, count), int), np.zeros(count, int), np.zeros(count, int)
        plans: list[tuple[str, ...]] = []
        lengths = [episode.length for episode in dataset.episodes]
        for row, episode in enumerate(dataset.episodes):
            start, stop = episode.start, episode.start + episode.length
            new = [i for i in range(start + 1, stop) if subtask[i] != subtask[i - 1]]
            borders = [start, *new, stop]
            for number, (first, last) in enumerate(pairwise(borders)):
                ends[1, first:last], numbers[first:last] = last, number
            ends[0, start:stop], plan_of[start:stop] = stop, row
            plans.append(tuple(subtask[border] for border in borders[:-1]))
        return cls(
            state=np.stack(dataset.column("observation.state")).astype(np.float32),
            action=np.stack(dataset.column("action")).astype(np.float32),
            progress=np.asarray(dataset.column("progress"), np.float32),
            done=np.asarray(dataset.column("done"), bool),
            task=[names[int(number)] for number in task_of],
            subtask=subtask,
            vqa=list(dataset.column("vqa")),
            episode_end=np.minimum(ends[0], hands.ends(dataset)),
            subtask_end=np.minimum(ends[1], hands.ends(dataset)),
            subtask_number=numbers,
            plans=plans,
            plan_of=plan_of,
            absent=[_absent(dataset.column("vqa")[e.start : e.start + e.length]) for e in dataset.episodes],
            failed=np.repeat([not e.extra.get("success", True) for e in dataset.episodes], lengths),
            executed=np.stack(dataset.column("executed")) if "executed" in dataset.features else None,
            rollin=np.asarray(dataset.column("rollin"), bool) if "rollin" in dataset.features else None,
            shown=hands.shown(dataset),
        )

    def texts(self) -> list[str]:
        """Everything that is ever said or asked, for the vocabulary."""
        asked = {
            text for row in set(self.vqa) for item in json.loads(row) for text in (item["question"], item["answer"])
        }
        return sorted(
            {*self.task, *self.subtask, *asked, *JOINS, plan_prompt("", [], "failed"), ALL_FINISHED, NOT_VISIBLE}
        )

    def ready(self) -> np.ndarray:
        """The middle of the poses in which the episodes begin, float32[A]."""
        begins = np.r_[True, np.diff(self.plan_of) != 0]
        return self.state[begins].mean(axis=0)

    def window(self, index: np.ndarray, horizon: int) -> np.ndarray:
        """Absolute targets float32[B, T, A] from each frame on, the last one of the episode repeated."""
        steps = np.minimum(index[:, None] + np.arange(horizon), self.episode_end[index][:, None] - 1)
        return self.action[steps]

    def executed_window(self, index: np.ndarray, horizon: int) -> np.ndarray:
        """What the arm was given instead of `window`, float32[B, T, A]."""
        assert self.executed is not None
        return self.executed[np.minimum(index[:, None] + np.arange(horizon), self.episode_end[index][:, None] - 1)]

    def astray(self, horizon: int) -> np.ndarray:
        """Frames of failed episodes from which on the arm was not given what the expert would have done, bool[N]."""
        if self.executed is None or self.failed is None:
            return np.zeros(len(self.state), bool)
        differ = np.abs(self.executed - self.action).max(axis=1) > 1e-6
        ahead = np.concatenate([[0], np.cumsum(differ)])
        stop = np.minimum(np.arange(len(differ)) + horizon, self.subtask_end)
        return self.failed & (ahead[stop] > ahead[:-1])

    def led_until(self) -> np.ndarray:
        """One past the last frame of each window that the expert led up to, int[N].

        Targets after a frame at which a policy drove answer a state that the window's own targets do not lead to.
        """
        count = len(self.state)
        if self.rollin is None:
            return np.full(count, count)
        driven = np.append(np.where(self.rollin, np.arange(count), count), count)
        return np.minimum.accumulate(driven[::-1])[::-1][:count] + 1

    def still(self, steps: int = 5, tolerance: float = 0.02) -> np.ndarray:
        """Whether joints and targets stay within `tolerance` [rad, 0..1] over the next steps, bool[N].

        Targets are compared with each other, since a jaw that holds something never reaches its own.
        """
        index = np.arange(len(self.state))
        ahead = np.minimum(index[:, None] + np.arange(steps), self.episode_end[:, None] - 1)
        moved = [np.abs(values[ahead] - values[:, None]).max(axis=(1, 2)) for values in (self.state, self.action)]
        still = np.maximum(*moved) < tolerance
        return still if self.rollin is None else still & ~self.rollin  # a policy that is stuck needs its answer

    def fit_codec(self, horizon: int, margin: float = 0.02) -> ActionCodec:
        """Exact ranges over every window of the dataset."""
        return ActionCodec.fit(self.state, self.window(np.arange(len(self.state)), horizon), margin)


class Batches:
    """`batches[step]` is the batch of that step."""

    def __init__(
        self,
        labels: Labels,
        frames: FrameCache | EarlierFrames,
        processor: Processor,
        batch_size: int,
        seed: int,
        max_given_steps: int,
        given_share: float,
        still_weight: float = 1.0,
        worse: bool = False,
        captions: bool = False,
        failures: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Prepare.

        max_given_steps: d_max, the most leading steps that are shown, in `given_share` of the samples, as the arm was
        given them: where a policy drove, the expert says how to go on from what that had decided; still_weight:
        how often a frame is used after which nothing moves, against one of motion; worse: whether every question comes
        with an answer that is not true as well; captions: whether every frame comes with a caption; failures:
        whether half of the frames are of failed episodes, and come with what went wrong there; share: which part of so
        many of each batch is made, see `Batch.split`. Raises ValueError where nothing of that kind is known.
        """
        self.share = share
        self.worse, self.captions, self.failures = worse, captions, failures
        self.labels, self.frames, self.processor = labels, frames, processor
        self.tokenize = lru_cache(maxsize=1 << 16)(processor.tokenize)  # most texts come again and again
        self.batch_size, self.seed = batch_size, seed
        self.max_given_steps, self.given_share = max_given_steps, given_share
        steps = np.array([len(plan) for plan in labels.plans])[labels.plan_of]
        used = np.ones(len(steps), bool) if labels.shown is None else labels.shown
        self.astray = labels.astray(processor.codec.action_horizon) & used
        if failures and not self.astray.any():
            raise ValueError(
                "no frame of a failed rollout in which the arm was led astray: collect some with "
                "vla collect keep_failures=true noise=1 noise_level=3"
            )
        self.led_until = labels.led_until()
        self.long = np.flatnonzero((steps > 1) & (self.astray if failures else used))
        single = np.flatnonzero(steps == 1)
        self.said = sorted({(labels.task[i], labels.subtask[i]) for i in single})  # the operator's words, the subtask
        # A long-horizon frame is used with its subtask half of the time and with the whole instruction otherwise.
        weight = np.where(steps > 1, 0.5, 1.0) * np.where(labels.still(), still_weight, 1.0) * used
        if failures:
            weight = in_equal_shares(weight, self.astray)
        self.short_cumulative = np.cumsum(weight) / weight.sum()
        self.whole_share = 0.5 * len(self.long) / (0.5 * len(self.long) + weight.sum())

    def __getitem__(self, step: int) -> Batch:
        return self.draw(step, self.batch_size)

    def draw(self, step: int, size: int) -> Batch:
        """Make a batch of that size, this process' share of it; it depends on seed, step and size alone."""
        rng, labels, codec = np.random.default_rng([self.seed, step]), self.labels, self.processor.codec
        if rng.random() < self.whole_share:
            kind, index = "whole", rng.choice(self.long, size)
        else:
            kind = "wordy" if rng.random() < WORDY_SHARE else "short"
            index = np.searchsorted(self.short_cumulative, rng.random(size)).clip(max=len(labels.state) - 1)
        if not self.failures:
            index = np.array([self._with_questions(i, rng) for i in index])
        texts, ends, progress, done = self._ask(index, kind, rng)
        given = rng.integers(1, self.max_given_steps + 1, size) * (rng.random(size) < self.given_share)
        given = np.minimum(given, ends - index - 1)
        ends = np.minimum(ends, self.led_until[index + given])
        questions = [self._question(i, kind, rng) for i in index]
        counts = index[:, None] + np.arange(codec.action_horizon) < ends[:, None]
        state = torch.from_numpy(labels.state[index])
        now = torch.from_numpy(counts)
        targets = held(torch.from_numpy(labels.window(index, codec.action_horizon)), now)
        wrong = None
        if self.failures:
            led = torch.from_numpy(labels.executed_window(index, codec.action_horizon))
            wrong = held(torch.where(torch.from_numpy(self.astray[index])[:, None, None], led, targets), now)
        if labels.executed is not None:
            shown = torch.arange(codec.action_horizon) < torch.from_numpy(given)[:, None]
            executed = torch.from_numpy(labels.executed_window(index, codec.action_horizon))
            targets = torch.where(shown[..., None], executed, targets)
        text_ids, text_mask = pad([self.tokenize(text) for text in texts], self.processor.pad_id)
        question_ids, question_mask, question_labels = self._pack(questions)
        named_ids, named_at, named_box = self._named(index, rng)
        others = [self._untrue(i, question, rng) for i, question in zip(index, questions, strict=True)]
        worse = self._pack(others) if self.worse else (None, None, None)
        captions: dict[str, Any] = {}
        if self.captions:
            captions |= drawn([labels.vqa[i] for i in index], self.processor, rng)
        number, count = self.share
        mine = np.array_split(index, count)[number]
        batch = Batch(
            kind=kind,
            **captions,
            worse_ids=worse[0],
            worse_mask=worse[1],
            worse_labels=worse[2],
            images={},
            text_ids=text_ids,
            text_mask=text_mask,
            state=codec.encode_state(state),
            actions=codec.encode(targets, state),
            worse_actions=None if wrong is None else codec.encode(wrong, state),
            counts=now,
            given_steps=torch.from_numpy(given),
            progress=torch.from_numpy(progress.astype(np.float32)),
            done=torch.from_numpy(done.astype(np.float32)),
            question_ids=question_ids,
            question_mask=question_mask,
            question_labels=question_labels,
            named_ids=named_ids,
            named_at=named_at,
            named_box=named_box,
            there=codec.there().expand(size, -1),
        ).split(count)[number]
        batch.images = {name: torch.from_numpy(self.frames.gather(name, mine)) for name in self.frames.arrays}
        return batch

    def _with_questions(self, index: int, rng: np.random.Generator) -> int:
        """Move most samples by one frame to where questions are stored; neighbours look nearly the same."""
        if self.labels.vqa[index] == "[]" and rng.random() < 0.7:
            for neighbour in (index - 1, index + 1):
                inside = 0 <= neighbour < len(self.labels.vqa)
                if inside and self.labels.subtask_end[neighbour] == self.labels.subtask_end[index]:
                    return neighbour
        return index

    def _ask(
        self, index: np.ndarray, kind: str, rng: np.random.Generator
    ) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """What the controller is told at each frame, until which frame that holds, its progress, if done."""
        labels = self.labels
        count = np.array([len(labels.plans[labels.plan_of[i]]) for i in index])
        if kind == "whole":
            number = labels.subtask_number[index]
            progress = (number + labels.progress[index]) / count
            done = labels.done[index] & (number == count - 1)
            return [labels.task[i] for i in index], labels.episode_end[index], progress, done
        # A single-step episode has the operator's own words for its subtask.
        own_words = (count == 1) & (rng.random(len(index)) < 0.7)
        texts = [labels.task[i] if own else labels.subtask[i] for i, own in zip(index, own_words, strict=True)]
        # The targets of the next subtask cannot be known from the text of this one.
        return texts, labels.subtask_end[index], labels.progress[index], labels.done[index]

    def _question(self, index: int, kind: str, rng: np.random.Generator) -> dict[str, str] | None:
        """One question with answer and type about a frame, or None where none fits."""
        if kind == "wordy" and rng.random() < PLAN_SHARE:
            made_up = self.said and rng.random() < MADE_UP_SHARE
            return self._made_up_plan(rng) if made_up else self._plan(index, rng)
        items = json.loads(self.labels.vqa[index])
        shares = TYPES["wordy" if kind == "wordy" else "short"]
        weights = np.array([shares.get(item["type"], 0.0) for item in items])
        if not weights.sum():
            return None
        item = items[rng.choice(len(items), p=weights / weights.sum())]
        absent = self._point_in_vain(index, rng) if item["type"] == "point" and rng.random() < ABSENT_SHARE else None
        return absent or item

    def _point_in_vain(self, index: int, rng: np.random.Generator) -> dict[str, str] | None:
        """Ask to point at something that is not there, if anything is known not to be."""
        if not (names := self.labels.absent[self.labels.plan_of[index]]):
            return None
        return {"question": point_prompt(names[rng.integers(len(names))]), "answer": NOT_VISIBLE, "type": "point"}

    def _untrue(self, index: int, question: dict[str, str] | None, rng: np.random.Generator) -> dict[str, str] | None:
        """Answer a question as another of its kind is answered, about this frame if there is one; None if none is."""
        if question is None or not self.worse:
            return None
        kind, right = question["type"], question["answer"]
        possible = [NOT_VISIBLE] * (kind == "point") + ["yes", "no"] * (kind == "yesno")
        if kind == "plan":
            possible = [ALL_FINISHED, *(subtask for _, subtask in self.said)]
        for number in (index, *rng.integers(len(self.labels.vqa), size=ELSEWHERE)):
            items = json.loads(self.labels.vqa[number])
            possible += [item["answer"] for item in items if item["type"] == kind]
            if others := [answer for answer in possible if answer != right]:
                return question | {"answer": others[rng.integers(len(others))]}
        return None

    def _plan(self, index: int, rng: np.random.Generator) -> dict[str, str]:
        """Ask what is next, before or after the present subtask was declared finished."""
        labels = self.labels
        plan, number = labels.plans[labels.plan_of[index]], int(labels.subtask_number[index])
        due = number + (1 if labels.done[index] and rng.random() < 0.7 else 0)
        answer = plan[due] if due < len(plan) else ALL_FINISHED
        return {"question": plan_prompt(labels.task[index], plan[:due]), "answer": answer, "type": "plan"}

    def _made_up_plan(self, rng: np.random.Generator) -> dict[str, str]:
        """Join instructions of single-step episodes to a long one, and ask what comes after any of its steps."""
        drawn = [self.said[i] for i in rng.integers(len(self.said), size=rng.integers(1, MOST_STEPS + 1))]
        steps = list({subtask: text for text, subtask in drawn}.items())  # nothing is asked for twice
        joins = [JOINS[i] for i in rng.integers(len(JOINS), size=len(steps))]
        while True:
            instruction = steps[0][1] + "".join(join + text for join, (_, text) in zip(joins, steps[1:], strict=False))
            plan = [subtask for subtask, _ in steps]
            due = int(rng.integers(len(plan) + 1))
            failed = plan[due] if due < len(plan) and rng.random() < FAILED_SHARE else ""
            question = plan_prompt(instruction, plan[:due], failed)
            if len(steps) == 1 or self._fits(question):
                return {"question": question, "answer": [*plan, ALL_FINISHED][due], "type": "plan"}
            steps.pop()

    def _fits(self, text: str) -> bool:
        return len(self.processor.tokenizer.tokenize(text)) <= self.processor.max_text_tokens

    def _pack(self, questions: list[dict[str, str] | None]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, mask and labels [B, Q]; only answers and their end have labels."""
        rows, labels = [], []
        eos = self.processor.eos_id
        for question in questions:
            prompt = self.tokenize(question["question"]) if question else []
            answer = [*self.tokenize(question["answer"]), eos] if question else []
            rows.append(prompt + answer)
            labels.append([-100] * len(prompt) + answer)
        ids, mask = pad(rows, self.processor.pad_id)
        return ids, mask, pad(labels, -100)[0]

    def _named(self, index: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Collect the things that the stored questions point at and an absent one, with the words that name them."""
        frames = [[item for item in json.loads(self.labels.vqa[i]) if item["type"] == "point"] for i in index]
        for i, items in zip(index, frames, strict=True):
            if absent := self._point_in_vain(i, rng):
                items.append(absent)
        most = max(1, *map(len, frames))
        rows: list[list[int]] = [[] for _ in frames]
        at, box = torch.full((len(frames), most), -1), torch.full((len(frames), most, 4), torch.nan)
        for number, items in enumerate(frames):
            for which, item in enumerate(items):
                rows[number] += self.tokenize(item["question"])
                at[number, which] = len(rows[number]) - 1
                if corners := read_box(item["answer"]):
                    box[number, which] = torch.tensor(corners) / (LOCATIONS - 1)
        return pad(rows, self.processor.pad_id)[0], at, box


def _absent(rows: Sequence[str]) -> tuple[str, ...]:
    """Things of which an episode says that there are none; nothing is taken away or brought during an episode."""
    items = [item for row in set(rows) for item in json.loads(row) if item["answer"] == "no"]
    return tuple(sorted({found[1] for item in items if (found := IS_THERE.fullmatch(item["question"]))}))
