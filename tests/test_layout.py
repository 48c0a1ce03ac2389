"""The rules of the house that a machine can check: rooms in reading order, short files, Hydra at the door only."""

import ast
from pathlib import Path

import pytest

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
KNOW_HYDRA = ("vla.cli", *(verb.module for verb in VERBS.values()))


def module_name(path: Path) -> str:
    """Return the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import of {node.module}; write the full name"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_file_is_short(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= 400, f"{path} has {lines} lines, limit 400: split it by noun"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_up(path: Path) -> None:
    name = module_name(path)
    top, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    for imported in imports(path):
        other_top, _, other_rest = imported.partition(".")
        other = other_rest.partition(".")[0]
        if {top, other_top} == {"vla", "envs"}:
            raise AssertionError(f"{name} imports {imported}: vla and envs never import each other")
        if top != "vla" or other_top != "vla" or other in ("", room, *OPEN_TO_ALL) or room == "cli":
            continue
        assert room in ROOMS_ABOVE, f"{name} imports {imported}: only rooms {tuple(ROOMS_ABOVE)} import others"
        assert other in ROOMS_ABOVE[room], f"{name} imports {imported}: {room} may import {ROOMS_ABOVE[room]}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_verbs_know_hydra(path: Path) -> None:
    known = {name.partition(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    assert not known or module_name(path) in KNOW_HYDRA


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_stand_at_the_top_level(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
            assert not inner, f"{path}:{inner[0].lineno}: import inside {function.name}"


def test_every_room_in_the_order_is_a_package_or_yet_to_come() -> None:
    rooms = {path.name for path in (ROOT / "vla").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(ROOMS_ABOVE), f"unknown rooms {rooms - set(ROOMS_ABOVE)}: give them a place in ROOMS_ABOVE"
