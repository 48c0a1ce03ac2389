"""`vla VERB [key=value ...]`: runs the entry module of a room, and answers a mistake with what is possible."""

import ctypes
import difflib
import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


@dataclass(frozen=True)
class Verb:
    """One thing that `vla` does."""

    module: str  # has a `main()` under `hydra.main`
    does: str


VERBS = {
    "demo": Verb("vla.evaluate.demo", "watch the shipped checkpoint carry out instructions on the simulated arm"),
    "collect": Verb("vla.data.collect", "record demonstrations of the scripted expert as a LeRobot dataset"),
    "train": Verb("vla.train.train", "train a policy from demonstrations; the same command again resumes"),
    "eval": Verb("vla.evaluate.evaluate", "measure a checkpoint in closed loop, with intervals and controls"),
    "export": Verb("vla.model.export", "store a checkpoint in fewer bits; refused where its actions would change"),
    "deploy": Verb("vla.control.deploy", "run a policy on a robot or its simulated twin, behind the guard"),
    "record": Verb("vla.control.record", "record what you drive, or a policy that you correct, as a LeRobot dataset"),
    "serve": Verb("vla.serve.serve", "answer observations over a websocket; openpi's clients work unchanged"),
    "analyze": Verb("vla.video.analyze", "tell what happened in videos and when, as timelines and pages"),
    "search": Verb("vla.video.search", "find moments in what vla analyze left behind"),
    "bench": Verb("vla.bench.bench", "measure a part beside a named peer and the physical limit"),
}
SYSTEM_LIBRARIES = {  # what the packages mujoco and opencv-python load from the system on Linux -> Debian's package
    "libEGL.so.1": "libegl1 libgl1-mesa-dri",
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libxcb.so.1": "libxcb1",
}
TEXT_KEYS = (
    "instruction",
    "out",
    "checkpoint",
    "against",
    "policy",
    "replay",
    "path",
    "index",
    "query",
    "ask",
    "subtasks",
)
SECRET = "VLA_SECRET_"  # environment variables that hold what no file may
_SECRETS, _SECRET_OF_ONE = re.compile("://(.*)@"), re.compile(r"://([^/\s,]*)@")  # of a text, or of each one of a list
USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


class UsageError(Exception):
    """The command line asks for something that is not there; the message says what is."""


def main() -> None:
    """Run the verb named on the command line; exit code 2 for a wrong command line, 1 for a failure."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run `vla` with these arguments and return its exit code."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # renders with and without a display
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, rest = arguments[0], list(arguments[1:])
    show_all = bool(os.environ.get("VLA_DEBUG") or os.environ.get("HYDRA_FULL_ERROR"))
    before = os.environ.get("HYDRA_FULL_ERROR", "")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on to us
    try:
        if name not in VERBS:
            raise UsageError(f"vla has no verb {name!r}{_guess(name, VERBS)}; possible: {', '.join(VERBS)}")
        if name == "bench" and not rest:
            print(benches())
            return 0
        if name == "bench" and re.fullmatch(r"\w+", rest[0]):
            rest[0] = f"bench={rest[0]}"
        rest = [hidden(argument) for argument in rest]
        if not {"-m", "--multirun"} & set(rest):
            rest = [quote_text(argument) for argument in rest]
        if name == "bench":
            rest = of_the_bench(rest)
        check(name, rest)
        sys.argv = [f"vla {name}", *rest]
        importlib.import_module(VERBS[name].module).main()
        return 0
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C does not tear the cleaning up apart
        print(f"\nvla {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if show_all:
            raise
        return _report(name, error)
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before  # another verb may follow in this process
        for variable in [variable for variable in os.environ if variable.startswith(SECRET)]:
            del os.environ[variable]


def overview() -> str:
    """Return the verbs, one a line."""
    lines = [f"  {name:8} {verb.does}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: vla VERB [key=value ...]",
            "",
            *lines,
            "",
            "~key leaves something out, such as ~tasks.push in vla eval",
            "every verb takes seed= and out=, and writes result.json there; `vla VERB --cfg job` shows all keys,",
            "VLA_DEBUG=1 shows where an error came from",
        ]
    )


def benches() -> str:
    """Return the benches, one a line: each file's first line says what it measures."""
    files = sorted(resources.files("configs").joinpath("bench").iterdir(), key=lambda file: file.name)
    texts = {file.name.removesuffix(".yaml"): file.read_text() for file in files if file.name.endswith(".yaml")}
    lines = [f"  {name:10} {text.splitlines()[0].lstrip('# ')}" for name, text in texts.items()]
    return "\n".join(["usage: vla bench NAME [key=value ...]", "", *lines])


def missing_libraries() -> str:
    """Say which system libraries are missing and how to install them; empty if none is."""
    missing = {name: package for name, package in SYSTEM_LIBRARIES.items() if not _loads(name)}
    if sys.platform != "linux" or not missing:
        return ""
    return f"missing system libraries {', '.join(missing)}: sudo apt-get install {' '.join(missing.values())}"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def hidden(argument: str) -> str:
    """Leave user and password out of addresses: Hydra writes arguments to files, so they go by the environment."""
    pattern = _SECRETS if argument.partition("=")[0] in TEXT_KEYS else _SECRET_OF_ONE
    return pattern.sub(_by_environment, argument)


def _by_environment(found: re.Match[str]) -> str:
    variable = f"{SECRET}{sum(name.startswith(SECRET) for name in os.environ)}"
    os.environ[variable] = found[1]
    return f"://${{oc.env:{variable}}}@"


def quote_text(argument: str) -> str:
    """Take sentences and paths as typed: commas, brackets and "=" are characters to us, grammar to Hydra."""
    key, equals, value = argument.partition("=")
    if key not in TEXT_KEYS or not equals or value.startswith(("'", '"')) or value == "null":
        return argument
    return key + equals + '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def of_the_bench(arguments: list[str]) -> list[str]:
    """Read `seeds=3` as `bench.seeds=3`, where the bench has that key and the verb has not."""
    chosen = [argument for argument in arguments if argument.startswith("bench=")]
    if not chosen:
        return arguments
    with initialize_config_module("configs", version_base="1.3"):
        if any(_parsed(word).is_sweep_override() for word in chosen):
            return arguments
        config = _composed("bench", chosen)
    own = set(config.bench) - set(config)
    return [
        re.sub("^~?", r"\g<0>bench.", word) if re.split(r"[.=]", word.lstrip("~"))[0] in own else word
        for word in arguments
    ]


def check(verb: str, arguments: Sequence[str]) -> None:
    """Raise UsageError for an unknown key, choice or kind of value, before anything slow is imported."""
    words = [word for word in arguments if word.startswith("~") or ("=" in word and not word.startswith("-"))]
    for argument in arguments:
        if argument not in words and not any(flag.startswith("-") for flag in arguments):
            raise UsageError(f"{argument!r} is not key=value, nor ~key")
    with initialize_config_module("configs", version_base="1.3"):
        overrides = [(word, _parsed(word)) for word in words]
        if any(_is_group(override) and override.is_sweep_override() for _, override in overrides):
            return  # every job has its own keys; Hydra checks them
        chosen = [word for word, override in overrides if _is_group(override)]
        config = _composed(verb, chosen)
        for _, override in overrides:
            added = override.is_add() or override.is_force_add()
            if not _is_group(override) and not added and not override.is_hydra_override():
                _check_value(verb, config, override)


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise UsageError(f"cannot read {word!r}: {str(error).splitlines()[0]}; quote it: 'key=\"value\"'") from error


def _is_group(override: Override) -> bool:
    """Say whether the override chooses a file; must run with Hydra initialized."""
    group = override.key_or_group.partition("/")[0].partition("@")[0]
    return group != "hydra" and group in GlobalHydra.instance().config_loader().list_groups("")


def _composed(verb: str, chosen: list[str]) -> DictConfig:
    """Return the verb's config with its groups chosen and everything else at its default."""
    try:
        return compose(verb, overrides=chosen)
    except MissingConfigException as error:
        group, _, wrong = (error.missing_cfg_file or "").rpartition("/")
        possible = error.options or []
        raise UsageError(f"no {group} {wrong!r}{_guess(wrong, possible)}; possible: {', '.join(possible)}") from error
    except HydraException as error:
        given = {word.partition("=")[0] for word in chosen}
        wrong = next((key for key in given if f"'{key}'" in str(error)), None)
        if wrong is None:
            raise UsageError(f"vla {verb}: {' '.join(str(error).split())}") from error
        raise UsageError(f"vla {verb} has no choice {wrong!r}; {_possible(_composed(verb, []), wrong)}") from error


def _check_value(verb: str, config: DictConfig, override: Override) -> None:
    key = override.key_or_group
    node: Any = config
    for part in key.split("."):
        if not OmegaConf.is_dict(node) or part not in node.keys():  # noqa: SIM118 "in node" denies what is to be given
            raise UsageError(f"vla {verb} has no key {key!r}{_guess(key, _keys(config))}; {_possible(config, key)}")
        node = _default(node, part)
    if override.is_delete() or override.is_sweep_override():
        return
    value, wanted = override.value(), _wanted(node)
    if wanted and not wanted.fits(value):
        raise UsageError(f"{key}={value}: must be {wanted.words}; the default is {node}")


def _default(config: DictConfig, key: str) -> Any:
    """Return the value under a key, None where only a running job knows it."""
    unknown = OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key)
    return None if unknown else config[key]


@dataclass(frozen=True)
class Wanted:
    """What a value must be, judged by its default."""

    words: str
    fits: Callable[[object], bool]


def _wanted(default: object) -> Wanted | None:
    """Return what may replace this default; None: anything may."""
    if isinstance(default, bool):
        return Wanted("true or false", lambda value: isinstance(value, bool))
    if isinstance(default, int):
        return Wanted("a whole number", lambda value: value is None or type(value) is int)
    if isinstance(default, float):
        return Wanted("a number", lambda value: value is None or type(value) in (int, float))
    if OmegaConf.is_list(default):
        return Wanted("a list such as [a,b]", lambda value: value is None or isinstance(value, list))
    if OmegaConf.is_dict(default):
        return Wanted("a group of keys such as {a: 1}", lambda value: value is None or isinstance(value, dict))
    return None


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Return all dotted keys of a config that hold values."""
    keys: list[str] = []
    for key in map(str, config):
        value = _default(config, key)
        keys += _keys(value, f"{prefix}{key}.") if isinstance(value, DictConfig) and value else [f"{prefix}{key}"]
    return keys


def _possible(config: DictConfig, key: str) -> str:
    """List the keys beside a wrong one; "name.*" holds more."""
    node, prefix = config, ""
    for part in key.split(".")[:-1]:
        if part in node and isinstance(_default(node, part), DictConfig):
            node, prefix = node[part], f"{prefix}{part}."
    names = [str(name) for name in node if name != "_target_"]
    return "possible: " + ", ".join(
        f"{prefix}{name}{'.*' if isinstance(_default(node, name), DictConfig) else ''}" for name in names
    )


def _guess(word: str, possible: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(possible), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _report(name: str, error: Exception) -> int:
    """Print what went wrong as one message, or as a traceback if the fault is ours; return the exit code."""
    while isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what the named callable said
    ours = type(error).__module__.split(".")[0] in ("vla", "envs")
    if isinstance(error, UsageError):
        print(f"vla: {error}", file=sys.stderr)
        return USAGE_ERROR
    if isinstance(error, HydraException | OmegaConfBaseException):
        print(f"vla {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    told = getattr(error, "told", None)  # what an error in a worker said to people
    in_a_worker = hasattr(error, "told") and not told
    if (in_a_worker or isinstance(error, ImportError | AttributeError)) and (missing := missing_libraries()):
        print(f"vla {name}: {missing}", file=sys.stderr)
        return FAILURE
    if ours or isinstance(error, ValueError | OSError):
        print(f"vla {name}: {told or error}", file=sys.stderr)
        return FAILURE
    traceback.print_exception(error)
    return FAILURE


if __name__ == "__main__":
    main()
