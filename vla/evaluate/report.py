"""The report of an evaluation: a page for people, and a table for the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vla.evaluate.episodes import OUTCOMES, Episode
from vla.page import forest, interval, number, percent, render_page

COLOURS = {
    "success": "var(--green)",
    "near_miss": "#8fb8ff",
    "slipped": "#5b8def",
    "missed": "#f2c14e",
    "no_contact": "#e98a4b",
    "wrong_target": "#d64545",
    "wrong_plan": "#a855f7",
    "done_too_early": "#ec4899",
    "gave_up": "#94a3b8",
    "crash": "#111827",
}

_BODY = """
<p class="dim small">vla eval · <code>{{ r.checkpoint }}</code> · seeds from {{ r.seed }}</p>
<h1>{{ r.success_rate | percent(1) }} success</h1>
<p class="lead">Mean of {{ r.per_task | length }} single-step tasks over {{ r.episodes }} episodes in closed loop, from
pixels and words alone; 95 % interval {{ r.ci95 | interval }}. {{ r.crashes }} crashed, counted apart.</p>
<div class="tiles">
{% for value, words in tiles %}<div class="tile"><b>{{ value }}</b><span>{{ words }}</span></div>{% endfor %}
</div>

<h2>Tasks</h2><div class="card">{{ tasks }}</div>
<h2>How episodes ended</h2><div class="card"><table>
{% for task, row in ended.items() %}<tr><td style="width:150px">{{ task }}</td><td><div class="bar">
{% for name, count in row.outcomes.items() %}<i title="{{ outcomes[name] }}: {{ count }}"
 style="flex:{{ count }};background:{{ colours[name] }}"></i>{% endfor %}</div></td>
<td class="dim small" style="width:110px">{{ row.mean_steps_to_success | number(0) }} steps</td></tr>{% endfor %}
</table><p class="small dim" style="margin:14px 0 0">{% for name in seen %}<span style="display:inline-block;width:11px;
height:11px;border-radius:3px;background:{{ colours[name] }};margin:0 5px 0 12px"></span>{{ outcomes[name] }}
{% endfor %}
 · steps: mean until success</p></div>

{% if held_out %}<h2>Held out from training</h2><div class="card">{{ held_out }}</div>{% endif %}

<h2>Controls</h2><div class="card"><table>
<tr><th>the policy gets</th><th>reaches the asked goal</th><th>reaches the other goal</th></tr>
<tr><td>everything</td><td>{{ r.success_rate | percent }}</td><td>–</td></tr>
<tr><td>a blank instruction</td><td>{{ c.blank_instruction | percent }}</td>
<td>{{ c.blank_instruction_other | percent }}</td></tr>
<tr><td>an instruction for another object of the scene</td><td>{{ c.swapped_original | percent }}</td>
<td>{{ c.swapped_named | percent }}</td></tr>
<tr><td>blank cameras</td><td>{{ c.blank_camera | percent }}</td><td>–</td></tr></table>
<p class="small dim" style="margin:14px 0 0">“Asked” is the goal of the episode, “other” the one that the swapped
instruction names. A policy that listens follows the swapped words; one that sees fails with blank cameras.</p></div>

<h2>Knowing when it is done, and what it sees</h2><div class="card"><table>
<tr><th>output</th><th>result</th><th></th></tr>
<tr><td>“done”, single tasks</td><td>precision {{ r.completion.precision | percent }}, recall
{{ r.completion.recall | percent }}</td><td class="dim">within {{ r.completion.tolerance_s }} s;
{{ r.completion.declared }} declared, {{ r.completion.completed }} true</td></tr>
<tr><td>“done”, long tasks</td><td>precision {{ r.long_horizon.completion.precision | percent }}, recall
{{ r.long_horizon.completion.recall | percent }}</td>
<td class="dim">{{ r.long_horizon.completion.completed }} true</td></tr>
<tr><td>progress</td><td>mean error {{ r.completion.progress_error | number(3) }}</td><td class="dim">of 0..1</td></tr>
<tr><td>yes/no questions, held-out scenes</td><td>{{ r.questions.accuracy | percent(1) }}</td>
<td class="dim">{{ r.questions.ci95 | interval }} of {{ r.questions.asked }}; says yes
{{ r.questions.yes_ratio | percent }}, truth {{ r.questions.true_yes_ratio | percent }}</td></tr>
{% for kind, row in r.questions.by_type.items() if kind != "yesno" %}<tr><td>{{ kind }} questions</td>
<td>{{ row.accuracy | percent(1) }}</td><td class="dim">{{ row.ci95 | interval }} of {{ row.asked }}
{% if kind == "point" %}; right = at least half overlap, mean overlap {{ r.questions.box_iou | percent }}
{% endif %}</td>
</tr>{% endfor %}</table></div>

{% if r.against is defined %}<h2>Against another checkpoint</h2>
<div class="card"><p><code>{{ r.against.checkpoint }}</code>
reaches {{ r.against.success_rate | percent(1) }} on the same seeds. Difference
<b>{{ (100 * r.against.paired.difference) | number }} points</b>, 95 % interval
{{ (100 * r.against.paired.ci95[0]) | number }} to {{ (100 * r.against.paired.ci95[1]) | number }}, exact McNemar p =
{{ r.against.paired.p_value | number(3) }} ({{ r.against.paired.only_a }} episodes only the first solved,
{{ r.against.paired.only_b }} only the second, {{ r.against.paired.pairs }} pairs).</p></div>{% endif %}

{% if r.guard_interventions %}<h2>Loop and guard</h2><div class="card"><table>
<tr><th>what</th><th>result</th><th></th></tr>
{% if r.loop %}<tr><td>delay</td><td>{{ r.latency_ms | number(0) }} ms</td>
<td class="dim">from an observation to its chunk, in virtual time</td></tr>
<tr><td>idle ticks</td><td>{{ r.loop.idle_ticks }} of {{ r.loop.ticks }}</td>
<td class="dim">nothing new to do, since the first motion</td></tr>
<tr><td>speed jump at a seam</td><td>{{ r.loop.velocity_jump_rad_s.p50 | number(2) }} rad/s</td>
<td class="dim">median; 99 % below {{ r.loop.velocity_jump_rad_s.p99 | number(2) }} rad/s</td></tr>{% endif %}
<tr><td>guard</td><td>{{ r.guard_interventions.total }} interventions</td><td class="dim">in
{{ r.guard_interventions.episodes_with_any }} of {{ r.guard_interventions.episodes }} episodes, all groups:
{% for rule, count in r.guard_interventions.rules.items() %}{{ rule }} {{ count }}{{ ", " if not loop.last else "" }}
{% endfor %}</td></tr></table></div>{% endif %}

{% if videos %}<h2>Watch</h2><div class="grid">
{% for name, e in videos.items() %}<div><video src="videos/{{ name }}" controls preload="metadata" muted loop></video>
<p style="margin:8px 0 0"><span class="pill {{ 'good' if e.success else 'bad' }}">
{{ e.outcome | replace("_", " ") }}</span>
 {{ e.instruction }}</p>
<p class="dim small">{{ e.case.task }}, seed {{ e.case.seed }}, {{ e.seconds | number }} s</p></div>
{% endfor %}</div>{% endif %}
<footer>Every record: <code>episodes.jsonl</code>, all numbers: <code>result.json</code>. Intervals are Wilson's, 95 %.
Chunk latency p50 {{ r.chunk_latency_ms.p50 | number }} ms, p95 {{ r.chunk_latency_ms.p95 | number }} ms, one
observation at a time. The evaluation took {{ (r.seconds / 60) | number }} minutes.</footer>
"""


def write_report(out: Path, result: Mapping[str, Any], *, gallery: Mapping[str, Episode]) -> Path:
    """Write report.html beside result.json; return its path."""
    ended = {**result["per_task"], "long horizon": result["long_horizon"]}
    path = out / "report.html"
    page = render_page(
        f"{percent(result['success_rate'])} success · vla eval",
        _BODY,
        r=result,
        c=result["controls"],
        tiles=_tiles(result),
        tasks=_rates(result["per_task"] | {"long horizon": result["long_horizon"]}),
        held_out=_rates(result["held_out"]) if result["held_out"] else "",
        ended=ended,
        seen=[name for name in OUTCOMES if any(name in row["outcomes"] for row in ended.values())],
        outcomes=OUTCOMES,
        colours=COLOURS,
        videos=dict(sorted(gallery.items(), key=lambda item: list(OUTCOMES).index(item[1].outcome))),
    )
    path.write_text(page)
    return path


def _rates(rows: Mapping[str, Mapping[str, Any]]) -> Markup:
    return forest(
        [
            (name, row["success_rate"], row["ci95"], f"{percent(row['success_rate'])} of {row['episodes']} episodes")
            for name, row in rows.items()
        ]
    )


def _tiles(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headline numbers as (value, words)."""
    long, completion, latency = result["long_horizon"], result["completion"], result["chunk_latency_ms"]
    return [
        (percent(long["success_rate"]), f"long-horizon instructions, {interval(long['ci95'])}"),
        (percent(long["subtasks_completed"]), "of their subtasks"),
        *[(percent(row["success_rate"]), f"held-out {name}") for name, row in result["held_out"].items()],
        (f"{percent(completion['precision'])} / {percent(completion['recall'])}", "done: precision / recall"),
        (percent(result["questions"]["accuracy"]), "yes/no questions right"),
        (f"{number(latency['p50'], 0)} ms", f"per chunk, p95 {number(latency['p95'], 0)} ms"),
    ]


def console_table(result: Mapping[str, Any]) -> str:
    """Return the main numbers as a table for the terminal."""
    rows = [("task", "success", "95 % interval", "episodes", "crashes", "steps")]
    named = {**result["per_task"], "long horizon": result["long_horizon"]}
    for name, row in named.items():
        counts = (str(row["episodes"]), str(row["crashes"]), number(row["mean_steps"], 0))
        rows.append((name, percent(row["success_rate"], 1), interval(row["ci95"]), *counts))
    for name, row in {"mean of single": result, **{f"held-out {k}": v for k, v in result["held_out"].items()}}.items():
        counts = (str(row["episodes"]), str(row["crashes"]), "")
        rows.append((name, percent(row["success_rate"], 1), interval(row["ci95"]), *counts))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    control, done, asked = result["controls"], result["completion"], result["questions"]
    latency = result["chunk_latency_ms"]
    lines += [
        "",
        f"controls     blank instruction {percent(control['blank_instruction'])} (other goal "
        f"{percent(control['blank_instruction_other'])}), swapped: named {percent(control['swapped_named'])}, original "
        f"{percent(control['swapped_original'])}, blank camera {percent(control['blank_camera'])}",
        f"done         precision {percent(done['precision'])}, recall {percent(done['recall'])}",
        f"questions    yes/no {percent(asked['accuracy'], 1)}, says yes {percent(asked['yes_ratio'])}",
        f"latency      p50 {number(latency['p50'])} ms, p95 {number(latency['p95'])} ms",
    ]
    if result["loop"]:
        ticks, jumps = result["loop"], result["loop"]["velocity_jump_rad_s"]
        lines.append(
            f"loop         {result['latency_ms']:g} ms, idle {ticks['idle_ticks']} of {ticks['ticks']} ticks, speed "
            f"jumps p50 {number(jumps['p50'], 2)} p99 {number(jumps['p99'], 2)} rad/s"
        )
    if guard := result["guard_interventions"]:
        rules = ", ".join(f"{rule} {count}" for rule, count in guard["rules"].items())
        lines.append(
            f"guard        {guard['total']} interventions in {guard['episodes_with_any']} of {guard['episodes']} "
            f"episodes ({rules})"
        )
    if "against" in result:
        paired = result["against"]["paired"]
        low, high = paired["ci95"]
        lines.append(
            f"against      {result['against']['checkpoint']}: {100 * paired['difference']:+.1f} points "
            f"[{100 * low:+.1f}, {100 * high:+.1f}], McNemar p = {paired['p_value']:.3f}"
        )
    return "\n".join(lines)
