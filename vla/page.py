"""What the HTML pages share: style, formats, pictures and small charts. Pages are one file and load nothing."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

STYLE = """
:root { --ink:#16203a; --dim:#64708a; --line:#e3e8f1; --ground:#f5f7fb; --card:#ffffff; --blue:#2f6fed; --green:#159a55;
  --amber:#c77d0a; --red:#d64545; --soft:#eaf1ff; --mono:ui-monospace,SFMono-Regular,Menlo,monospace; }
@media (prefers-color-scheme: dark) { :root { --ink:#eef2fa; --dim:#94a1ba; --line:#27324c; --ground:#0c1220;
  --card:#141c30; --blue:#6ba6ff; --green:#4ade80; --amber:#fbbf24; --red:#f87171; --soft:#1a2745; } }
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue",Arial,sans-serif; -webkit-font-smoothing:antialiased }
main { max-width:1120px; margin:0 auto; padding:56px 24px 80px }
h1 { font-size:clamp(30px,5vw,46px); line-height:1.12; letter-spacing:-.022em; margin:0 0 12px; font-weight:700 }
h2 { font-size:24px; letter-spacing:-.012em; margin:56px 0 16px; font-weight:650 }
h3 { font-size:19px; margin:0; font-weight:620; letter-spacing:-.008em }
p { margin:0 0 12px } .lead { font-size:19px; color:var(--dim); max-width:60ch; margin-bottom:26px }
.dim { color:var(--dim) }
.small { font-size:13.5px } code { font-family:var(--mono); font-size:.88em; background:var(--soft); padding:2px 6px;
  border-radius:6px; overflow-wrap:anywhere }
.card { background:var(--card); border:1px solid var(--line); border-radius:16px; padding:22px 24px; margin:0 0 20px }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(165px,1fr)); gap:14px; margin:28px 0 }
.tile { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:16px 18px }
.tile b { display:block; font-size:27px; letter-spacing:-.02em; font-weight:680; line-height:1.25 }
.tile span { color:var(--dim); font-size:13.5px }
.pill { display:inline-block; padding:3px 12px; border-radius:99px; font-size:14px; font-weight:600;
  white-space:nowrap }
.pill.good { background:color-mix(in srgb,var(--green) 16%,transparent); color:var(--green) }
.pill.bad { background:color-mix(in srgb,var(--red) 15%,transparent); color:var(--red) }
.pill.note { background:var(--soft); color:var(--blue) }
video { width:100%; border-radius:16px; background:#0d1322; display:block; border:1px solid var(--line) }
.row { display:flex; gap:14px; align-items:baseline; justify-content:space-between; flex-wrap:wrap }
.strip { display:grid; grid-auto-flow:column; grid-auto-columns:1fr; gap:8px; margin:16px 0 6px }
.strip img { width:100%; border-radius:10px; display:block } figure { margin:0 }
figcaption { color:var(--dim); font-size:12.5px; text-align:center; margin-top:4px }
.split { display:grid; grid-template-columns:minmax(0,1fr) minmax(0,1.5fr); gap:24px; margin-top:18px }
@media (max-width:760px) { .split { grid-template-columns:1fr }
  .strip { grid-auto-flow:row; grid-template-columns:1fr 1fr } }
.grid { display:grid; grid-template-columns:repeat(auto-fill,minmax(320px,1fr)); gap:18px }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums } td,th { text-align:left;
  padding:8px 12px 8px 0; border-bottom:1px solid var(--line); vertical-align:top } th { color:var(--dim);
  font-weight:500; font-size:13.5px } tr:last-child td { border-bottom:0 }
.bar { display:flex; height:14px; border-radius:7px; overflow:hidden; background:var(--line); min-width:160px }
dl { display:grid; grid-template-columns:auto 1fr; gap:4px 14px; margin:0; font-size:14.5px } dt { color:var(--dim) }
dd { margin:0 } svg text { font:13px system-ui,sans-serif; fill:var(--ink) } svg .dim { fill:var(--dim) }
footer { color:var(--dim); font-size:13.5px; margin-top:56px; border-top:1px solid var(--line); padding-top:20px }
"""

_FRAME = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
{% if policy %}<meta http-equiv="Content-Security-Policy" content="{{ policy }}">{% endif %}<title>{{ title }}</title>
<style>{{ style }}</style></head><body><main>{{ body }}</main></body></html>
"""


def percent(value: float | None, digits: int = 0) -> str:
    """Write a share 0..1 as a percentage; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(ci95: Sequence[float] | None) -> str:
    """Write a 95 % interval of shares as "84–97 %"."""
    return "–" if ci95 is None else f"{100 * ci95[0]:.0f}–{100 * ci95[1]:.0f} %"


def number(value: float | None, digits: int = 1) -> str:
    """Write a number; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def render_page(title: str, body: str, /, *, policy: str = "", **values: Any) -> str:
    """Fill the template `body` (Jinja; values are escaped, a missing one is an error) and wrap it into a page.

    policy: a Content-Security-Policy, for pages that show words of strangers.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, interval=interval, number=number)
    inner = Markup(environment.from_string(body).render(**values))
    return environment.from_string(_FRAME).render(title=title, style=Markup(STYLE), body=inner, policy=policy)


def image_uri(image: np.ndarray, *, side: int) -> str:
    """Return uint8[H, W, 3] RGB as a data address of a JPEG whose longer side is `side` pixels."""
    scale = side / max(image.shape[:2])
    shape = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    scaled = cv2.resize(image, shape, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    fine, data = cv2.imencode(".jpg", cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert fine
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def forest(rows: Sequence[tuple[str, float | None, Sequence[float] | None, str]]) -> Markup:
    """Chart rates with their intervals, one row each: (name, rate, [low, high], words at the right)."""
    height, left, right = 34 * len(rows) + 34, 150, 760
    width = right - left
    parts = [f'<svg viewBox="0 0 980 {height}" width="100%" role="img">']
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + width * share
        parts.append(f'<line x1="{x}" y1="4" x2="{x}" y2="{height - 26}" stroke="var(--line)"/>')
        parts.append(f'<text class="dim" x="{x}" y="{height - 8}" text-anchor="middle">{100 * share:.0f} %</text>')
    for row, (name, value, ci95, words) in enumerate(rows):
        y = 34 * row + 22
        parts.append(f'<text x="0" y="{y + 5}">{escape(name)}</text>')
        parts.append(f'<text class="dim" x="{right + 20}" y="{y + 5}">{escape(words)}</text>')
        if value is None or ci95 is None:
            continue
        low, high = left + width * ci95[0], left + width * ci95[1]
        parts.append(f'<line x1="{low}" y1="{y}" x2="{high}" y2="{y}" stroke="var(--blue)" stroke-width="8" ')
        parts.append('stroke-opacity=".25" stroke-linecap="round"/>')
        parts.append(f'<circle cx="{left + width * value}" cy="{y}" r="7" fill="var(--blue)"/>')
    return Markup("".join(parts) + "</svg>")


def lines_chart(name: str, target: np.ndarray, measured: np.ndarray, *, low: float, high: float, unit: str) -> Markup:
    """Chart one joint over time: the commanded target float[N] as a line, the measured position as a shade of it."""
    count = max(len(measured) - 1, 1)

    def path(values: np.ndarray) -> str:
        ys = 56 - 50 * (np.clip(values, low, high) - low) / max(high - low, 1e-9)
        return " ".join(f"{170 * index / count:.1f},{y:.1f}" for index, y in enumerate(ys))

    words = f"{target.min():.0f} to {target.max():.0f}{unit}" if len(target) else "–"
    return Markup(
        f'<svg viewBox="0 0 170 78" width="100%" role="img" aria-label="{escape(name)}">'
        f'<line x1="0" y1="60" x2="170" y2="60" stroke="var(--line)"/>'
        f'<polyline points="{path(measured)}" fill="none" stroke="var(--amber)" stroke-width="4" stroke-opacity=".45"/>'
        f'<polyline points="{path(target)}" fill="none" stroke="var(--blue)" stroke-width="1.6"/>'
        f'<text x="0" y="74" style="font-size:11px">{escape(name.replace("_", " "))}</text>'
        f'<text class="dim" x="170" y="74" text-anchor="end" style="font-size:10px">{words}</text></svg>'
    )


def boxed_image(image: np.ndarray, boxes: Sequence[tuple[str, Sequence[int], str, bool]], *, side: int) -> Markup:
    """Show an image with boxes over it: (label, [x0, y0, x1, y1] in 1/1024 of the image, CSS colour, solid line)."""
    stretch = image.shape[0] / image.shape[1]  # of what is down the image, against what is across
    height = round(1024 * stretch)
    parts = [f'<svg viewBox="0 0 1024 {height}" width="100%" style="border-radius:12px;display:block" role="img">']
    parts.append(f'<image href="{image_uri(image, side=side)}" width="1024" height="{height}"/>')
    for label, (x0, y0, x1, y1), colour, solid in boxes:
        dashes, top = "" if solid else ' stroke-dasharray="18 14"', round(y0 * stretch)
        parts.append(
            f'<rect x="{x0}" y="{top}" width="{max(x1 - x0, 6)}" height="{max(round((y1 - y0) * stretch), 6)}" '
            f'fill="none" stroke="{colour}" stroke-width="7" rx="8"{dashes}/>'
        )
        # The label keeps a dark rim, so that it is legible on any ground.
        parts.append(
            f'<text x="{min(x0, 700)}" y="{max(top - 14, 34)}" style="font-size:38px;font-weight:600;fill:{colour};'
            f'paint-order:stroke;stroke:#0b1020;stroke-width:8px">{escape(label)}</text>'
        )
    return Markup("".join(parts) + "</svg>")
