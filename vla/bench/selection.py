"""Are the few frames that are chosen for a question those that show it? BOLT and AKS against an even choice."""

from collections.abc import Sequence

import numpy as np

from vla.video.analysis import Analysis
from vla.video.answer import relevance
from vla.video.select import aks, bolt, uniform

FRAMES = 8  # chosen for a question
NEAR_S = 0.3  # a frame shows a moment that is so near
QUESTIONS = {"grasp": "when is it grasped?", "lost": "when does it let go?"}  # kind of truth -> what is asked about it

Shown = dict[str, list[bool]]  # way of choosing -> whether each true moment is shown


def shown(found: Analysis, truth: Sequence[tuple[float, str]]) -> Shown:
    """Say for every true moment that is asked about whether one of the chosen frames shows it."""
    lead = next(iter(found.tracks.values()))
    time_s = lead.time_s[lead.sample]
    result: Shown = {"bolt": [], "aks": [], "uniform": []}
    for kind, question in QUESTIONS.items():
        moments = [moment_s for moment_s, what in truth if what == kind]
        scores = relevance(question, time_s, found.events, found.outcome, found.segments)
        chosen = {"bolt": bolt(scores, FRAMES), "aks": aks(scores, FRAMES), "uniform": uniform(len(time_s), FRAMES)}
        for way, samples in chosen.items():
            result[way] += [bool(np.abs(time_s[samples] - moment_s).min() <= NEAR_S + 1e-9) for moment_s in moments]
    return result


def score(every: Sequence[Shown]) -> dict[str, float | int | None]:
    """Return the share of true moments that are shown, by way of choosing, and their number."""
    joined = {way: [hit for own in every for hit in own[way]] for way in ("bolt", "aks", "uniform")}
    shares = {way: float(np.mean(hits)) if hits else None for way, hits in joined.items()}
    return shares | {"moments": len(joined["bolt"])}
