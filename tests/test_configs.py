"""Every config composes, and names callables that exist with the keys that they take."""

import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from vla.cli import VERBS

CONFIGS = Path(__file__).parents[1] / "configs"
ROOTS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "common")
NEEDED = {"bench": ["bench=sim"]}  # what a verb does not run without
CHOICES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.glob("*/**/*.yaml"))


def composed(root: str, *overrides: str) -> dict[str, Any]:
    """Return a config as plain values; what only a running job knows is left unresolved."""
    with initialize_config_module("configs", version_base="1.3"):
        config = compose(root, overrides=["out=OUT", *overrides])
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)  # type: ignore[return-value]


def targets(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping with a `_target_`."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


@cache
def choices_of_all() -> list[tuple[str, str]]:
    """Return (verb, override key) wherever a verb's defaults choose a file."""
    places = []
    with initialize_config_module("configs", version_base="1.3"):
        for root in ROOTS:
            config = compose(root, overrides=NEEDED.get(root, []), return_hydra_config=True)
            places += [(root, key) for key in config.hydra.runtime.choices]
    return places


def check_targets(config: dict[str, Any]) -> None:
    """Assert that each `_target_` can be called with its keys."""
    for node in targets(config):
        module, _, name = node["_target_"].rpartition(".")
        called = getattr(importlib.import_module(module), name)
        parameters = inspect.signature(called).parameters
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = {key for key in node if not key.startswith("_")} - set(parameters)
        assert open_ended or not unknown, f"{node['_target_']} takes no {sorted(unknown)}; it takes {list(parameters)}"


def test_every_verb_has_a_root_and_every_root_a_verb() -> None:
    assert set(ROOTS) == set(VERBS)


@pytest.mark.parametrize("root", ROOTS)
def test_root_composes_with_seed_and_out(root: str) -> None:
    config = composed(root, *NEEDED.get(root, []))
    assert config["out"] == "OUT"
    assert isinstance(config["seed"], int)
    check_targets(config)


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_composes_under_a_verb_that_has_its_group(choice: str) -> None:
    group, _, name = choice.partition("/")  # a choice may lie deeper: recipe=heads/flow
    places = [(root, key) for root, key in choices_of_all() if key.partition("@")[0] == group]
    assert places, f"no verb chooses from the group {group}"
    for root, key in places:
        check_targets(composed(root, f"{key}={name}"))


@pytest.mark.parametrize("name", [choice.partition("/")[2] for choice in CHOICES if choice.startswith("bench/")])
def test_a_bench_is_missing_nothing_but_the_seed(name: str) -> None:
    node = composed("bench", f"bench={name}")["bench"]
    module, _, function = node["_target_"].rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters.values()
    required = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    assert required - set(node) == {"seed"}
