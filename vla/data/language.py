"""LeRobot 0.6's language columns, made from the `subtask` and `vqa` features of an episode.

`language_persistent` holds the same rows at every frame: each subtask (style "subtask") from the time when it begins,
and the numbered list of those that remain (style "plan"). `language_events` holds, at the frame that they are about,
questions and their answers as JSON (style "vqa").
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

PERSISTENT, EVENTS = "language_persistent", "language_events"
FEATURES = {key: {"dtype": "language", "shape": [1], "names": None} for key in (PERSISTENT, EVENTS)}
_COMMON = [("camera", pa.string()), ("tool_calls", pa.list_(pa.string()))]
_WORDS = [pa.field("role", pa.string(), nullable=False), ("content", pa.string()), ("style", pa.string())]
_TIME = [pa.field("timestamp", pa.float32(), nullable=False)]
ARROW = {
    PERSISTENT: pa.list_(pa.struct([*_WORDS, *_TIME, *_COMMON])),
    EVENTS: pa.list_(pa.struct([*_WORDS, *_COMMON])),
}


def hugging_face_type(key: str) -> dict[str, Any]:
    """Describe a language column as `datasets` does in the metadata of parquet files."""
    names = ["role", "content", "style", *(["timestamp"] if key == PERSISTENT else []), "camera"]
    row: dict[str, Any] = {
        name: {"dtype": "float32" if name == "timestamp" else "string", "_type": "Value"} for name in names
    }
    row["tool_calls"] = {"feature": {"_type": "Json"}, "_type": "List"}
    return {"feature": row, "_type": "List"}


def persistent_rows(subtasks: Sequence[str], fps: int) -> list[dict[str, Any]]:
    """Return the rows of an episode from the subtask of each of its frames."""
    starts = [frame for frame in range(len(subtasks)) if frame == 0 or subtasks[frame] != subtasks[frame - 1]]
    rows = []
    for number, frame in enumerate(starts):
        remaining = [subtasks[start] for start in starts[number:]]
        plan = "\n".join(f"{place}. {text}" for place, text in enumerate(remaining, start=1))
        for style, content in (("plan", plan), ("subtask", subtasks[frame])):
            row = {"role": "assistant", "content": content, "style": style, "timestamp": frame / fps}
            rows.append(row | {"camera": None, "tool_calls": None})
    return rows


def event_rows(questions: str, camera: str | None) -> list[dict[str, Any]]:
    """Return the rows of one frame from its questions (a JSON list) about the images of feature `camera`."""
    rows = []
    for question in json.loads(questions):
        answer = json.dumps({key: value for key, value in question.items() if key != "question"}, sort_keys=True)
        for role, content in (("user", question["question"]), ("assistant", answer)):
            row = {"role": role, "content": content, "style": "vqa", "camera": camera, "tool_calls": None}
            rows.append(row)
    return rows


def columns(table: pa.Table, fps: int, camera: str | None) -> dict[str, pa.Array]:
    """Return both language columns for the frames of one episode."""
    persistent = persistent_rows(table["subtask"].to_pylist(), fps)
    events = [event_rows(questions, camera) for questions in table["vqa"].to_pylist()]
    return {
        PERSISTENT: pa.array([persistent] * len(table), ARROW[PERSISTENT]),
        EVENTS: pa.array(events, ARROW[EVENTS]),
    }
