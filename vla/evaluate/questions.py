"""Questions about scenes: what the policy answers, against the scene's truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vla.evaluate.pilot import PlanningPolicy
from vla.evaluate.statistics import Rate
from vla.model.vocabulary import read_box
from vla.types import Observation

SHORT_TOKENS, CAPTION_TOKENS = 16, 64


@dataclass(frozen=True)
class Answer:
    """One question with the true answer and the policy's."""

    question: str
    type: str  # caption, yesno, where, which, point
    truth: str
    answer: str

    @property
    def right(self) -> bool:
        """Whether the words agree; a box, whether it overlaps the true one by at least half."""
        if self.type == "point" and read_box(self.truth) is not None:
            return self.iou >= 0.5
        return self.answer.split() == self.truth.split()

    @property
    def iou(self) -> float:
        """Overlap of the two boxes, intersection over union; 0 where the answer is no box."""
        truth, answer = read_box(self.truth), read_box(self.answer)
        return box_iou(truth, answer) if truth is not None and answer is not None else 0.0


def box_iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes whose corners are inclusive."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0) * max(height, 0)
    areas = [(x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in (a, b)]
    return shared / (sum(areas) - shared)


def ask(
    policy: PlanningPolicy, asked: Sequence[tuple[dict[str, Any], list[dict[str, str]]]], *, batch: int = 32
) -> list[Answer]:
    """Put every question about every frame to the policy, `batch` at a time, captions last since they are long.

    asked: pairs of a gymnasium observation and its questions, each with question, answer and type.
    """
    pairs = [(observation, question) for observation, questions in asked for question in questions]
    captions = [pair for pair in pairs if pair[1]["type"] == "caption"]
    short = [pair for pair in pairs if pair[1]["type"] != "caption"]
    answers = []
    for those, max_tokens in ((short, SHORT_TOKENS), (captions, CAPTION_TOKENS)):
        for start in range(0, len(those), batch):
            part = those[start : start + batch]
            observations = [Observation.from_gym(observation, "", 0.0) for observation, _ in part]
            texts = policy.generate(observations, [question["question"] for _, question in part], max_tokens)
            answers += [
                Answer(question["question"], question["type"], question["answer"], text)
                for (_, question), text in zip(part, texts, strict=True)
            ]
    return answers


def score(answers: Sequence[Answer]) -> dict[str, Any]:
    """Summarise: yes/no accuracy with its interval and yes ratio, and one entry for each other type of question."""
    yesno = [answer for answer in answers if answer.type == "yesno"]
    rate = Rate.of(answer.right for answer in yesno)
    summary: dict[str, Any] = {
        "accuracy": rate.value,
        "ci95": rate.ci95,
        "asked": len(yesno),
        "yes_ratio": Rate.of(answer.answer.strip() == "yes" for answer in yesno).value,
        "true_yes_ratio": Rate.of(answer.truth == "yes" for answer in yesno).value,
        "by_type": {},
    }
    for kind in sorted({answer.type for answer in answers}):
        of_kind = Rate.of(answer.right for answer in answers if answer.type == kind)
        summary["by_type"][kind] = {"accuracy": of_kind.value, "ci95": of_kind.ci95, "asked": of_kind.episodes}
    boxes = [answer.iou for answer in answers if answer.type == "point" and read_box(answer.truth) is not None]
    summary["box_iou"] = sum(boxes) / len(boxes) if boxes else None
    return summary
