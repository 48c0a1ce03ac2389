"""The page of the demo: a video, and for every instruction what was seen, commanded and said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from vla.evaluate.episodes import OUTCOMES, Episode
from vla.evaluate.questions import Answer
from vla.evaluate.workers import last_words
from vla.model.vocabulary import read_box
from vla.page import boxed_image, image_uri, lines_chart, render_page
from vla.types import Embodiment

KEYFRAMES = 5
BOX_COLOURS = ("#38bdf8", "#f472b6", "#fbbf24", "#a78bfa")

_BODY = """
<p class="dim small">vla demo · <code>{{ checkpoint }}</code> · seed {{ seed }}</p>
<h1>{{ headline }}</h1>
<p class="lead">{{ lead }}</p>
{% if refusal %}
<div class="card" style="border-left:5px solid var(--amber)"><div class="row"><h3>“{{ refusal.instruction }}”</h3>
<span class="pill note">not carried out</span></div><p style="margin-top:12px">{{ refusal.reason }}</p>
<p class="dim">The arm did not move. Instructions that this checkpoint was trained on sound like these:</p>
<ul>{% for text in refusal.examples %}<li><code>{{ text }}</code></li>{% endfor %}</ul></div>
{% endif %}
{% if video %}<video src="{{ video }}" controls autoplay muted loop playsinline></video>
<p class="small dim" style="margin:10px 0 0">Left: {{ large }}. Right: what the policy sees, how far along it
believes to be, and the joint targets that it commands.</p>{% endif %}
{% if cards %}<h2>Instruction by instruction</h2>{% endif %}
{% for card in cards %}
<section class="card"><div class="row"><h3>“{{ card.episode.instruction }}”</h3>
<span class="pill {{ 'good' if card.episode.success else 'bad' }}">{{ card.verdict }}</span>
<span class="pill note">{{ card.guard }}</span></div>
{% if card.episode.plans %}<p class="small dim" style="margin:8px 0 0">planned by the model:
{% for step, text in card.episode.plans %}<code>{{ text }}</code>{% if not loop.last %} → {% endif %}{% endfor %}</p>
{% endif %}
<div class="strip">{% for uri, words in card.strip %}<figure><img src="{{ uri }}" alt="{{ words }}">
<figcaption>{{ words }}</figcaption></figure>{% endfor %}</div>
<div class="split"><div>{{ card.pointed }}
<p class="small dim" style="margin:8px 0 0">Boxes: solid is where the model points, dashed is the truth.</p></div>
<div><p class="dim small" style="margin:0 0 8px">Joint commands (line) and measured positions (shade)</p>
<div style="display:grid;grid-template-columns:1fr 1fr 1fr;gap:10px 18px">
{% for chart in card.charts %}<div>{{ chart }}</div>{% endfor %}</div>
{% if card.words %}<table style="margin-top:14px" class="small">
<tr><th style="width:42%">asked</th><th>the model says</th><th>truth</th></tr>
{% for answer in card.words %}<tr><td>{{ answer.question }}</td>
<td style="color:var({{ '--green' if answer.right else '--red' }})">{{ answer.answer or "(nothing)" }}</td>
<td class="dim">{{ answer.truth }}</td></tr>{% endfor %}</table>{% endif %}
</div></div></section>
{% endfor %}
<footer>The policy sees two small camera pictures, six joint positions and the words: never the simulator's state.
Success is judged by the simulator's physics. Try your own: <code>vla demo instruction="{{ example }}"</code></footer>
"""


@dataclass
class Card:
    """One instruction on the page."""

    episode: Episode
    answers: Sequence[Answer] = ()
    verdict: str = ""
    guard: str = ""
    strip: list[tuple[str, str]] = field(default_factory=list)
    pointed: Markup = field(default_factory=Markup)
    charts: list[Markup] = field(default_factory=list)
    words: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Refusal:
    """An instruction that is not carried out, and why."""

    instruction: str
    reason: str
    examples: Sequence[str]


def make_card(episode: Episode, answers: Sequence[Answer], body: Embodiment) -> Card:
    """Turn a recorded episode and the answers about its first frame into a card; needs the episode's frames."""
    assert episode.recording is not None
    card = Card(episode, answers, verdict=verdict(episode), guard=meddling(episode.interventions))
    views = [pixels.get("render", next(iter(pixels.values()))) for pixels in episode.recording.pixels]
    card.strip = [(image_uri(views[step], side=360), f"{step / body.control_hz:.1f} s") for step in keyframes(episode)]
    card.pointed = _pointed(next(iter(episode.recording.pixels[0].values())), answers)
    card.charts = _charts(episode, body)
    card.words = [answer for answer in answers if answer.type != "point"]
    return card


def verdict(episode: Episode) -> str:
    """Say in a few words how the episode ended."""
    if episode.success_step is not None:
        return f"success after {episode.success_step * episode.seconds / max(episode.steps, 1):.1f} s"
    if episode.crash is not None:
        return f"crashed: {last_words(episode.crash)}"
    return OUTCOMES[episode.outcome].split(":")[0]


def meddling(interventions: Mapping[str, int] | None) -> str:
    """Say in a few words what the guard did, by rule; None: there was none."""
    if interventions is None:
        return "guard: off"
    rules = {rule: count for rule, count in interventions.items() if count}
    if not rules:
        return "guard: nothing to object to"
    said = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items(), key=lambda item: -item[1]))
    return f"guard: stepped in {sum(rules.values())} times ({said})"


def keyframes(episode: Episode) -> list[int]:
    """Choose steps that tell the story: first, last, where the jaw moves most, the rest evenly between."""
    assert episode.recording is not None
    last = episode.success_step or len(episode.recording.states) - 1
    jaw = np.array([state[-1] for state in episode.recording.states[: last + 1]])
    moves = np.abs(np.convolve(np.diff(jaw, prepend=jaw[:1]), np.ones(3), "same"))
    chosen = {0, last}
    apart = max(1, last // (2 * KEYFRAMES))
    for step in [*np.argsort(-moves, kind="stable")[:40], *range(0, last, max(1, last // (KEYFRAMES - 1)))]:
        if len(chosen) < KEYFRAMES and all(abs(int(step) - other) >= apart for other in chosen):
            chosen.add(int(step))
    return sorted(chosen)


def _pointed(image: np.ndarray, answers: Sequence[Answer]) -> Markup:
    """Draw the true box of each thing that was asked for dashed, the model's solid, in one colour."""
    boxes = []
    points = {answer.question.removeprefix("point to the "): answer for answer in answers if answer.type == "point"}
    for (name, answer), colour in zip(points.items(), cycle(BOX_COLOURS), strict=False):
        truth, said = read_box(answer.truth), read_box(answer.answer)
        if truth is not None:
            boxes.append(("" if said else name, truth, colour, False))
        if said is not None:
            boxes.append((name, said, colour, True))
    return boxed_image(image, boxes, side=512)


def _charts(episode: Episode, body: Embodiment) -> list[Markup]:
    assert episode.recording is not None
    targets, measured = np.array(episode.recording.actions), np.array(episode.recording.states)
    charts = []
    for joint, name in enumerate(body.joints):
        gripper = name == "gripper"
        scale, unit = (100.0, " %") if gripper else (180.0 / np.pi, "°")
        target, real = targets[:, joint] * scale, measured[:, joint] * scale
        middle, half = (50.0, 55.0) if gripper else _span(target, real)
        charts.append(lines_chart(name, target, real, low=middle - half, high=middle + half, unit=unit))
    return charts


def _span(*series: np.ndarray) -> tuple[float, float]:
    """Return middle and half width that show all values, at least 10 degrees wide."""
    values = np.concatenate(series)
    low, high = float(values.min()), float(values.max())
    return (low + high) / 2, max((high - low) / 2, 5.0) * 1.1


def write_page(out: Path, cards: Sequence[Card], **values: Any) -> Path:
    """Write report.html; values are those of the template, see the demo."""
    path = out / "report.html"
    path.write_text(render_page(f"{values['headline']} · vla demo", _BODY, cards=cards, **values))
    return path
