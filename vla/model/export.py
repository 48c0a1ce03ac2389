"""`vla export`: a checkpoint in fewer bits, refused where that would change what it does by more than a bound."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vla.model import checkpoint
from vla.model.fidelity import compare, latencies_ms
from vla.model.foundation import without_downloads
from vla.model.looks import Look, acted, recorded
from vla.model.policy import VLAPolicy
from vla.model.precision import refuse_unknown, stored
from vla.result import write_result

WEIGHTS = "model.safetensors"
NOISE = 0.05  # of a latency, as a share of it


class ExportError(ValueError):
    """The export would change what the policy does by more than was allowed; nothing has been written."""


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="export")
def main(config: DictConfig) -> None:
    """Compare on frames, then write the checkpoint and result.json, or refuse."""
    out = Path(HydraConfig.get().runtime.output_dir)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    torch.set_num_threads(settings["threads"])
    source = Path(settings["checkpoint"] or checkpoint.DEFAULT)
    policy = checkpoint.load(source)
    refuse(source, out, settings["precision"])
    if settings["dataset"]:
        count = settings["scenes"] * settings["looks"]
        looks = recorded(policy, settings["dataset"], seed=settings["seed"], count=count)
    else:
        world = settings["env"]["ids"]["default"], settings["env"]["arguments"]
        size = {key: settings[key] for key in ("seed", "scenes", "looks", "steps")}
        looks = acted(policy, *world, **size)
    fewer = {key: settings[key] for key in ("precision", "keep", "bound", "calls")}
    result = export(source, policy, out, looks, **fewer)
    path = write_result(out, checkpoint=source, seed=settings["seed"], dataset=settings["dataset"], **result)
    print(f"{words(result)}\n{path}")


def export(
    source: Path,
    policy: VLAPolicy,
    out: Path,
    looks: Sequence[Look],
    *,
    precision: str,
    bound: Mapping[str, float],
    calls: int,
    keep: int | None = None,
) -> dict[str, Any]:
    """Write the checkpoint `source`, which `policy` was loaded from, to `out` and return how it compares.

    precision: see `precision.stored`; keep: visual tokens that reach the language model, None for as many as now;
    bound: the most that `action_error` (by its keys) and the share of answers that change (`answers`) may be.
    Raises ExportError beyond it, and ValueError where `refuse` does.
    """
    refuse(source, out, precision)
    documents = {name: json.loads((source / name).read_text()) for name in ("config.json", "provenance.json")}
    weights = stored(policy.network, precision)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
        made = Path(beside) / "made"
        origin = documents["provenance.json"] | {"exported": {"from": source.name, "precision": precision}}
        network = without_downloads(policy.network, documents["config.json"]["network"])
        network |= {} if keep is None else {"keep": keep}
        checkpoint.save(made, network, weights, policy.processor, origin, precision=precision)
        candidate = checkpoint.load(made)  # what is measured is what will be loaded
        compared = compare(policy, candidate, looks)
        _refuse_beyond(bound, compared, precision)
        before, after = latencies_ms((policy, candidate), looks, calls)
        size = {"before": (source / WEIGHTS).stat().st_size, "after": (made / WEIGHTS).stat().st_size}
        result = {
            "precision": precision,
            "visual_tokens": {"before": tokens(policy), "after": tokens(candidate)},
            **compared,
            "bound": dict(bound),
            "weight_bytes": size,
            "chunk_latency_ms": {"before": before, "after": after},
            "times_as_fast": before["p50"] / after["p50"],
            "threads": torch.get_num_threads(),
        }
        (made / "README.md").write_text(_card(source, result))
        _take(made, out)
    return result


def refuse(source: Path, out: Path, precision: str) -> None:
    """Raise ValueError for what cannot be exported, before anything takes long."""
    refuse_unknown(precision)
    if (out / WEIGHTS).exists():
        raise ValueError(f"{out} holds a checkpoint already; choose another folder with out=")
    if made := json.loads((source / "config.json").read_text()).get("precision"):
        raise ValueError(f"{source} is an export already ({made}); export the checkpoint that it was made of")


def tokens(policy: VLAPolicy) -> int:
    """Visual tokens of a frame that reach its language model."""
    return policy.network.keep or policy.network.vision.num_tokens


def words(result: Mapping[str, Any]) -> str:
    """Say in a few lines what an export changed; a slower one is called slower."""
    error, answers, size = result["action_error"], result["answers"], result["weight_bytes"]
    before, after = (result["chunk_latency_ms"][when] for when in ("before", "after"))
    faster = result["times_as_fast"]
    pace = f"{faster:.2f} times as fast" if faster > 1 else f"slower here, {1 / faster:.2f} times the time"
    pace = "as fast as before" if abs(faster - 1) < NOISE else pace
    seen = result["visual_tokens"]
    return (
        f"{result['precision']}: {size['after'] / 2**20:.2f} MiB of weights instead of {size['before'] / 2**20:.2f}, "
        f"{seen['after']} visual tokens instead of {seen['before']}\n"
        f"joint targets on {result['frames']} frames: mean {error['mean_rad']:.5f} rad, 99 of 100 within "
        f"{error['p99_rad']:.4f}, at most {error['max_rad']:.4f}; gripper {error['gripper_mean']:.4f} of 0..1\n"
        f"yes/no answers that changed: {answers['changed']} of {answers['asked']}\n"
        f"a chunk takes {after['p50']:.1f} ms (p95 {after['p95']:.1f}) instead of {before['p50']:.1f} "
        f"(p95 {before['p95']:.1f}): {pace}"
    )


def _refuse_beyond(bound: Mapping[str, float], compared: Mapping[str, Any], precision: str) -> None:
    answers = compared["answers"]
    measured = compared["action_error"] | {"answers": answers["changed"] / max(1, answers["asked"])}
    if unknown := sorted(set(bound) - set(measured)):
        raise ValueError(f"bound.{unknown[0]} is nothing that is measured, possible: {', '.join(measured)}")
    beyond = [f"{key} is {measured[key]:.4f}, bound {most}" for key, most in bound.items() if not measured[key] <= most]
    if beyond:
        raise ExportError(
            f"{precision} would change what this checkpoint does on {compared['frames']} frames: {'; '.join(beyond)}. "
            "Nothing was written. Export to more bits (int8_weights, bfloat16), keep more visual tokens, or raise "
            "bound.KEY= if you can bear it"
        )


def _card(source: Path, result: Mapping[str, Any]) -> str:
    card = source / "README.md"
    before = f"\n\nThe card of {source.name}:\n\n{card.read_text()}" if card.exists() else ""
    said = "\n".join(f"- {line}" for line in words(result).splitlines())
    return f"# {source.name}, exported\n\nMade by `vla export precision={result['precision']}`.\n\n{said}{before}"


def _take(made: Path, out: Path) -> None:
    """Move the files to `out`, the weights last: until they are there it is no checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(made.iterdir(), key=lambda path: path.name == WEIGHTS):
        os.replace(path, out / path.name)
    shutil.rmtree(made)


if __name__ == "__main__":
    main()
