"""The record that every verb leaves behind: `result.json` in its folder."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np


def write_result(out: Path, **values: Any) -> Path:
    """Write the values to `out/result.json` in one step, so that a reader never sees half of it; return its path.

    Arrays and NumPy numbers become lists and numbers; NaN and infinity are refused, since JSON has none.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "result.json"
    text = json.dumps(values, indent=2, default=_plain, allow_nan=False)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(text + "\n")
    partial.replace(path)
    return path


def commit() -> str:
    """Name the commit of this code, with "-dirty" where files differ from it; "unknown" where git does not keep it."""
    folder = Path(__file__).resolve().parent
    kept = ["git", "ls-files", "--error-unmatch", Path(__file__).name]  # a repository around may be another's
    named = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        for command in (kept, named):
            git = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
            if git.returncode:
                return "unknown"
    except OSError:  # no git
        return "unknown"
    return git.stdout.strip()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} has no place in result.json; give plain values")
