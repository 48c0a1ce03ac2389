"""The page of several items together: a table to sort, what is wrong, and the commands that put it right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vla.page import render_page
from vla.video.flag import ERROR, NOTE, WARNING, Flag
from vla.video.report import content_policy, little, script_text, template

PICTURED = 400  # more items are listed without pictures, or the page grows too large for a browser
SIDE = 96  # of the pictures [px]


def render(
    title: str, rows: Sequence[Mapping[str, Any]], dataset_flags: Sequence[Flag], remedy: Sequence[str], out: Path
) -> str:
    """Return the page; each row has folder (relative to `out`), record (a brief one) and flags, also of the comparison.

    What could not be read has no page of its own, so nothing leads there.
    """
    script = script_text("overview.js")
    return render_page(
        title,
        template("overview.html"),
        policy=content_policy(script),
        title=title,
        rows=[_row(row, out if len(rows) <= PICTURED else None) for row in rows],
        minutes=sum(row["record"]["figures"].get("seconds") or 0.0 for row in rows) / 60,
        flags=dataset_flags,
        remedy=remedy,
        script=script,
    )


def _row(row: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
    record, figures = row["record"], row["record"]["figures"]
    codes = {
        severity: sorted({flag.code for flag in row["flags"] if flag.severity == severity})
        for severity in (ERROR, WARNING, NOTE)
    }
    return {
        "name": record["source"]["name"],
        "task": record["source"]["task"],
        "link": quote(f"{row['folder']}/report.html") if record["keyframes"] else None,
        "pictures": [little((out / row["folder"] / name).read_bytes(), SIDE) for name in record["pictures"] if out],
        "seconds": figures.get("seconds") or 0.0,
        "keyframes": record["keyframes"],
        "segments": record["segments"],
        "outcome": record["outcome"],
        "jerk": figures.get("jerk_p95"),
        "still": figures.get("static_share"),
        "errors": codes[ERROR],
        "warnings": codes[WARNING],
        "notes": codes[NOTE],
    }
