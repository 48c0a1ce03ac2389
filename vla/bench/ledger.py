"""What a long bench has measured so far, one line of JSON each, so that a run that was cut off goes on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Ledger:
    """Rows by key in a file; they count for one set of settings alone.

    A last line that was cut off is taken away.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        """Open or begin a ledger; raises ValueError if the file was written with other settings."""
        self._path, self.rows = path, dict[str, Any]()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        now = json.loads(json.dumps(settings))
        if lines and lines[0] != {"settings": now}:
            before = lines[0]["settings"]
            changed = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
            raise ValueError(f"{path} was measured with another {', '.join(changed)}; give another out=, or remove it")
        if not lines:
            whole = json.dumps({"settings": now}) + "\n"
        if whole != text:
            path.write_text(whole)
        self.rows = {line["key"]: line["row"] for line in lines[1:]}

    def add(self, key: str, row: Any) -> None:
        """Write down what was measured, in plain JSON types."""
        with self._path.open("a") as lines:
            lines.write(json.dumps({"key": key, "row": row}) + "\n")
        self.rows[key] = row

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return the row of a key; where there is none it is measured first and written down, in JSON types."""
        if key not in self.rows:
            self.add(key, json.loads(json.dumps(measure())))
        return self.rows[key]
