"""The rules of the house that a machine can check: rooms in reading order, short files, Hydra at the door only."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from vla.cli import VERBS

ROOT = Path(__file__).parents[1]
FILES = sorted(path for top in ("vla", "envs") for path in (ROOT / top).rglob("*.py"))
OPEN_TO_ALL = ("types", "result", "page")
ROOMS_ABOVE = {  # room -> rooms it may import, beside itself and what is open to all
    "data": (),
    "model": ("data",),
    "train": ("data", "model"),
    "control": ("data", "model", "train"),
    "serve": ("data", "model", "train", "control"),
    "evaluate": ("data", "model", "train", "control"),
    "video": ("data", "model", "train", "control"),
    "bench": ("data", "model", "train", "control", "serve", "evaluate", "video"),
}
HYDRA = re.compile(r"(hydra|omegaconf)(\.|$)")
KNOW_HYDRA = ("vla.cli", *(verb.module for verb in VERBS.values()))


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


def module_name(path: Path) -> str:
    """Return the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import of {node.module}; write the full name"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def misplaced(path: Path) -> Iterator[str]:
    """Say which imports of a file do not point up."""
    name = module_name(path)
    top, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    for imported in sorted(imports(path)):
        other_top, _, other_rest = imported.partition(".")
        other = other_rest.partition(".")[0]
        if {top, other_top} == {"vla", "envs"}:
            yield f"{name} imports {imported}: vla and envs never import each other"
        elif top != "vla" or other_top != "vla" or other in ("", room, *OPEN_TO_ALL) or room == "cli":
            continue
        elif room not in ROOMS_ABOVE:
            yield f"{name} imports {imported}: only rooms {tuple(ROOMS_ABOVE)} import others"
        elif other not in ROOMS_ABOVE[room]:
            yield f"{name} imports {imported}: {room} may import {ROOMS_ABOVE[room]}"


def buried(path: Path) -> Iterator[str]:
    """Say which imports of a file stand inside a function."""
    for function in ast.walk(tree_of(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield f"{path}:{node.lineno}: import inside {function.name}"


def test_files_are_short() -> None:
    lines = {path: path.read_text().count("\n") for path in FILES}
    assert len(lines) > 100 and {path: count for path, count in lines.items() if count > 400} == {}, "split by noun"


def test_imports_point_up() -> None:
    assert [words for path in FILES for words in misplaced(path)] == []


def test_only_verbs_know_hydra() -> None:
    knowing = {module_name(path) for path in FILES if any(HYDRA.match(name) for name in imports(path))}
    assert "vla.cli" in knowing and knowing <= set(KNOW_HYDRA)


def test_imports_stand_at_the_top_level() -> None:
    assert [words for path in FILES for words in buried(path)] == []


def test_every_room_in_the_order_is_a_package_or_yet_to_come() -> None:
    rooms = {path.name for path in (ROOT / "vla").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(ROOMS_ABOVE), f"unknown rooms {rooms - set(ROOMS_ABOVE)}: give them a place in ROOMS_ABOVE"
