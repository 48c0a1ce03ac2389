"""`vla train`: demonstrations in, checkpoint out; one script, read from top to bottom, exactly resumable."""

import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vla.data.dataset import EpisodeDataset
from vla.model import checkpoint
from vla.model.few_shot import lengthened
from vla.model.foundation import Foundation, to_store
from vla.model.history import History
from vla.model.network import Network
from vla.model.processor import Processor
from vla.model.vocabulary import ACTION_TOKENS, LOCATION_TOKENS, build_tokenizer, pretrained_tokenizer, words_of
from vla.result import commit, write_result
from vla.train.designs import designs, inherited
from vla.train.memory import recompute_activations
from vla.train.objective import Objective
from vla.train.optimizer import Average, build_optimizer, learning_rate_at
from vla.train.processes import Peers, Replicas, gathered
from vla.train.shards import Shards
from vla.train.shots import few_shot_texts
from vla.train.snapshot import has_snapshot, load_snapshot, save_snapshot
from vla.train.sources import Mixture, Source, of_all_bodies, processors, shares_of
from vla.train.stages import keep_frozen_statistics, kept_by_design, part_of, prepare, refuse_untaught

LOG_EVERY = 20
DEMONSTRATIONS = "demonstrations"
MAY_CHANGE = ("out", "leg_minutes", "save_every", "device", "dataset", "frames", "collect", "provenance_note")
MAY_CHANGE += ("parallel", "accumulate", "checkpointing")  # what a step costs, not what it teaches


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="train")
def main(config: DictConfig) -> None:
    """Collect what is missing, train until `steps`, write the checkpoint and the result."""
    peers = Peers(config.device)
    out = Path(peers.agreed(HydraConfig.get().runtime.output_dir))  # the time in its name may differ by a second
    plain: Any = OmegaConf.to_container(config, resolve=True)
    try:
        result = train(plain, out, peers)
    except torch.OutOfMemoryError as error:
        raise OSError(
            f"out of memory on {peers.device}: raise accumulate= (now {config.accumulate}) or set checkpointing=true; "
            f"{out}/checkpoints/last is the last saved state, the same command with these resumes from it"
        ) from error
    if peers.first:
        path = write_result(out, seed=plain["seed"], **result)
        print(f"{result['steps']} steps, loss {result['loss']:.3f}, {result['samples_per_s']:.0f} samples/s\n{path}")
    peers.leave()


def train(config: dict[str, Any], out: Path, peers: Peers | None = None) -> dict[str, Any]:
    """Run one leg of training and return what `result.json` holds; peers: the processes that train together."""
    started_s = time.monotonic()
    seed, steps, batch_size, accumulate = (config[key] for key in ("seed", "steps", "batch_size", "accumulate"))
    if config["preference"] and config["prefer_actions"]:
        raise ValueError("preference=true prefer_actions=true: choose one, the other can follow in a run of its own")
    if accumulate < 1:
        raise ValueError(f"accumulate={accumulate}: a batch runs in one piece at least")
    peers = peers or Peers(config["device"])
    device, alone = peers.device, peers.count == 1
    if not alone and config["shards"] not in (None, 1):
        raise ValueError(f"shards={config['shards']}: with torchrun, start more processes instead")
    shards = config["shards"] or (1 if device.type == "cuda" or not alone else _shards(batch_size // accumulate))
    torch.manual_seed(seed)
    if peers.first:
        _keep_settings(out, config)

    # Data: demonstrations, their frames in a memory map, their labels in memory.
    if peers.first and not config["dataset"]:
        _collect(config, out)
    peers.wait()
    folders = config["dataset"] or str(out / DEMONSTRATIONS / "dataset")
    cameras = {name: (size[0], size[1]) for name, size in config["model"]["cameras"].items()}
    decoded = Path(config["frames"] or out / "frames")
    shares = shares_of(folders, config["dataset_weights"])
    sources = [Source.open(Path(folder), share, cameras, decoded) for folder, share in shares.items()]
    if peers.first:
        _keep_data(out, [source.dataset for source in sources])
    data_s = time.monotonic() - started_s

    # Model: the vocabulary and the action ranges come from the data.
    init, preferring = config["init"], next((key for key in ("preference", "prefer_actions") if config[key]), None)
    model = inherited(config["model"], init) if preferring and init else config["model"]
    texts = sorted({text for source in sources for text in source.labels.texts()} | few_shot_texts(config["shots"]))
    spelt = (model.get("whole") or model["language"]).get("pretrained")
    tokenizer = pretrained_tokenizer(spelt) if spelt else build_tokenizer(texts)
    taught = frozenset(word for text in texts for word in words_of(text)) if spelt else None
    history = History(**model["history"]) if model.get("history") else None
    each = processors(sources, tokenizer, model["action_horizon"], model["max_text_tokens"], taught, history)
    processor = of_all_bodies(each)
    fitted = [(source.labels, one.codec) for source, one in zip(sources, each, strict=True)]
    architecture = {
        "vision": model["vision"],
        "language": model["language"],
        "cameras": {name: list(size) for name, size in cameras.items()},
        "vocab_size": len(tokenizer),
        "first_action_id": tokenizer.convert_tokens_to_ids(ACTION_TOKENS[0]),
        "action_horizon": model["action_horizon"],
        "action_dim": processor.codec.action_dim,
        "max_text_tokens": model["max_text_tokens"],
        "first_location_id": tokenizer.convert_tokens_to_ids(LOCATION_TOKENS[0]),
        **designs(model, *fitted[0], *fitted[1:]),
    }
    network = Network(**architecture).to(device).train()
    size = sum(parameter.numel() for parameter in network.parameters())
    rates, lora = config["rates"], config["lora"]
    foundation = Foundation.of(network, architecture)
    drawn = _start_from(init, network, processor) if init else network.state_dict().keys() - foundation.names
    refuse_untaught(drawn, rates, lora, init, preferring, kept_by_design(network))
    reference = _reference(network, init, preferring) if preferring else None
    prepare(network, rates, lora)
    keep_frozen_statistics(network)
    if config["checkpointing"]:
        recompute_activations(network)
    bf16 = _bf16(config["precision"], device)
    objective = Objective(processor, config["objective"], config["loss_weights"], seed, bf16, reference)
    replicas = None if alone else Replicas(peers, network, objective, accumulate, config["parallel"])

    # Optimizer, and the state of an earlier leg.
    optimizer = build_optimizer(
        network, config["learning_rate"], config["weight_decay"], lambda name: rates.get(part_of(name), 1.0)
    )
    average = Average(network, config["ema_decay"])
    done = load_snapshot(out, network, average, optimizer) or {"step": 0, "seconds": 0.0, "loss": None}
    batches = Mixture(
        sources,
        each,
        batch_size,
        seed,
        max_given_steps=config["max_given_steps"],
        given_share=config["given_share"],
        still_weight=config["still_weight"],
        worse=config["preference"],
        failures=config["prefer_actions"],
        captions=network.dual is not None,
        shots=config["shots"],
        share=(peers.number, peers.count),
    )
    provenance = _provenance(config, [source.dataset for source in sources], size)

    def save(step: int, loss: float | None, seconds: float) -> None:
        progress = {"step": step, "seconds": seconds, "loss": loss}
        save_snapshot(out, network, average, optimizer, progress)
        record = provenance | {"steps": step, "samples": step * batch_size, "train_seconds": round(seconds)}
        weights = gathered(average.weights)
        if peers.first:
            plain, base = replicas.plain if replicas else network, Foundation() if init else foundation
            build, weights, hashes = to_store(plain, weights, architecture, base)
            last = out / "checkpoints" / "last"
            checkpoint.save(last, build, weights, processor, record, _storage(config["store"]), base=hashes)

    # Loop.
    log = SummaryWriter(str(out / "tensorboard"), purge_step=done["step"]) if peers.first else None
    loss_value, start = done["loss"], done["step"]
    leg_s = math.inf if config["leg_minutes"] is None else 60 * config["leg_minutes"]
    step = start
    smooth: dict[str, float] = {}
    with (
        replicas or Shards(network, shards, objective, accumulate) as side_by_side,
        ThreadPoolExecutor(1) as loader,
        tqdm(total=steps, initial=start, desc="train", unit="step", disable=not peers.first) as bar,
    ):
        loop_s = time.monotonic()
        upcoming = loader.submit(batches.__getitem__, start) if start < steps else None
        for step in range(start, steps):
            assert upcoming is not None
            batch = upcoming.result().to(device)
            upcoming = loader.submit(batches.__getitem__, step + 1)
            rate = learning_rate_at(step, steps, config["learning_rate"], config["warmup_steps"])
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.zero_grad(set_to_none=True)
            parts = side_by_side.backward(batch, step)
            loss_value = parts["total"]
            if not math.isfinite(loss_value):
                raise FloatingPointError(
                    f"loss is {loss_value} at step {step}, nothing was saved after it: {out}/checkpoints/last is still "
                    "good. Lower learning_rate=, or look for broken targets in the dataset"
                )
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config["max_grad_norm"])
            optimizer.step()
            average.update(network, step)
            for name, part in parts.items():
                smooth[name] = 0.98 * smooth.get(name, part) + 0.02 * part
            bar.update()
            if step % LOG_EVERY == 0:
                speed = (step + 1 - start) * batch_size / (time.monotonic() - loop_s)
                bar.set_postfix({"samples/s": f"{speed:.0f}", **{k: f"{v:.3f}" for k, v in smooth.items()}})
                norm = float(gathered({"norm": norm})["norm"])
                if log:
                    for name, value in {**smooth, "grad_norm": norm, "samples_per_s": speed}.items():
                        log.add_scalar(f"train/{name}", value, step)
            over = leg_s < math.inf and peers.agreed(time.monotonic() - started_s > leg_s)
            if (step + 1) % config["save_every"] == 0 or step + 1 == steps or over:
                save(step + 1, loss_value, done["seconds"] + time.monotonic() - loop_s)
            if over:
                if peers.first:
                    print(f"{config['leg_minutes']} minutes are over at step {step + 1}; the same command goes on")
                break
    if log:
        log.close()
    last = step + 1 if start < steps else start
    seconds = time.monotonic() - loop_s
    taken, took_s = (
        (last - start, seconds) if last > start else (last, done["seconds"])
    )  # in all, where nothing is left
    return {
        "steps": last,
        "complete": last >= steps,
        "samples": last * batch_size,
        "samples_per_s": taken * batch_size / took_s if took_s else 0.0,
        "loss": loss_value,
        "losses": smooth,
        "parameters": size,
        "train_seconds": done["seconds"] + seconds * (last > start),
        "data_seconds": data_s,
        "checkpoint": out / "checkpoints" / "last",
    }


def _shards(batch_size: int) -> int:
    """One part of the batch a core, unless that leaves less than eight samples to each."""
    return max(1, min(len(os.sched_getaffinity(0)), batch_size // 8))


def _collect(config: dict[str, Any], out: Path) -> None:
    """Collect the recipe's demonstrations under `out`, as `vla collect` does."""
    if not config["collect"]:
        raise ValueError("nothing to train on: give dataset=FOLDER (a LeRobotDataset v3.0) or a recipe that collects")
    folder = out / DEMONSTRATIONS
    command = [sys.executable, "-m", "vla.data.collect", *config["collect"], f"seed={config['seed']}", f"out={folder}"]
    if subprocess.run(command).returncode:
        raise RuntimeError(f"collecting failed, see above; what is saved in {folder} is used by the same command again")


def _reference(network: Network, init: str | None, key: str) -> Network:
    """Return a copy to prefer against; the network itself must go on as it stands, batch statistics included."""
    if init is None:
        raise ValueError(f"{key}=true: give init=, a checkpoint whose answers or actions are to become better")
    return deepcopy(network.eval()).requires_grad_(False)


def _start_from(folder: str, network: Network, processor: Processor) -> set[str]:
    """Take over what fits: words by spelling, tensors by name, of wider ones the first rows and columns.

    folder: a checkpoint, or the name of one that ships. Returns the names of what was left as drawn, or cut.
    """
    if checkpoint.precision_of(folder) == "int8":
        raise ValueError(
            f"init={folder} was exported to int8, from which nothing is learnt: give what it was made from"
        )
    other = checkpoint.load(folder)
    weights, fresh = other.network.state_dict(), network.state_dict()
    known, wanted = other.processor.tokenizer.get_vocab(), processor.tokenizer.get_vocab()
    if known != wanted:
        shared = [word for word in wanted if word in known]
        old, new = (torch.tensor([ids[word] for word in shared]) for ids in (known, wanted))
        for name in list(weights):
            if weights[name].shape[0:1] == (len(known),) and name in fresh:
                rows, start = _cut(weights.pop(name)[old], fresh[name][new]), fresh[name].cpu()
                if rows is not None:
                    weights[name] = start.index_copy(0, new, rows.to(start.dtype))
        print(f"{folder} knows {len(shared)} of {len(wanted)} tokens, the others start at random")
    if other.processor.codec.to_dict() != processor.codec.to_dict():
        print(f"{folder} has other action ranges than this dataset: its bins are fitted to the new ones in training")
    weights |= lengthened(network, weights)
    fitting = {name: cut for name, tensor in fresh.items() if (cut := _cut(weights.get(name), tensor)) is not None}
    if left := sorted(fresh.keys() - fitting.keys()):
        print(f"{len(left)} of {len(fresh)} tensors have no equal in {folder} and start at random: {', '.join(left)}")
    network.load_state_dict(fresh | fitting)
    return {name for name in fresh if name not in fitting or weights[name].shape != fresh[name].shape}


def _cut(weight: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """Take the first rows and columns of a weight that is at least as large in every direction, else None."""
    if weight is None or weight.ndim != like.ndim or any(w < n for w, n in zip(weight.shape, like.shape, strict=True)):
        return None
    return weight[tuple(slice(size) for size in like.shape)]


def _keep_settings(out: Path, config: dict[str, Any]) -> None:
    """Write the settings of a new run; refuse to resume one that was begun with others."""
    path = out / "settings.json"
    fixed = {key: value for key, value in config.items() if key not in MAY_CHANGE}
    if path.exists() and has_snapshot(out):
        before = json.loads(path.read_text())
        changed = [f"{k}: {before[k]!r} before, {v!r} now" for k, v in fixed.items() if k in before and before[k] != v]
        if changed:
            raise ValueError(f"{out} holds a run with other settings, choose another out=: " + "; ".join(changed))
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fixed, indent=1))


def _keep_data(out: Path, datasets: list[EpisodeDataset]) -> None:
    """Write what a new run learns from; refuse to resume one with other data: ranges were fitted to the first."""
    path, found = out / "data.json", [data.hash for data in datasets]
    if path.exists() and has_snapshot(out) and json.loads(path.read_text()) != found:
        raise ValueError(
            f"{out} holds a run on other data than {[str(data.root) for data in datasets]}: give the same, wherever it "
            "lies, or choose another out= and init= for what was learnt so far"
        )
    path.write_text(json.dumps(found))


def _provenance(config: dict[str, Any], datasets: list[EpisodeDataset], parameters: int) -> dict[str, Any]:
    """What made this checkpoint."""
    records = [{"hash": data.hash, "episodes": len(data.episodes), "frames": len(data)} for data in datasets]
    return {
        "commit": commit(),
        "dataset": records[0] if len(records) == 1 else records,
        "recipe": {
            key: value for key, value in config.items() if key not in ("out", "dataset", "frames", "provenance_note")
        },
        "seed": config["seed"],
        "parameters": parameters,
        "torch": torch.__version__,
        "note": config["provenance_note"],
    }


def _storage(name: str) -> torch.dtype:
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def _bf16(precision: str, device: torch.device) -> bool:
    """`auto` uses bfloat16 where the processor multiplies in it; elsewhere it is slower than float32."""
    if precision not in ("auto", "bfloat16", "float32"):
        raise ValueError(f"precision {precision!r} is not known, possible: auto, bfloat16, float32")
    if precision == "auto":
        return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return precision == "bfloat16"


if __name__ == "__main__":
    main()
