"""`vla collect`: record demonstrations of a scripted expert as a LeRobotDataset v3.0, on all cores, resumable."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

import cv2
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from vla.data.dataset import EpisodeDataset
from vla.data.demonstration import Demonstrator, Outcome, Settings
from vla.data.writer import DatasetWriter
from vla.result import write_result

JOIN_EVERY = 50  # episodes from one look for full shards to the next
_worker: dict[str, Demonstrator] = {}  # the demonstrator of this worker process


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="collect")
def main(config: DictConfig) -> None:
    """Collect until the dataset has `episodes` episodes, then write the result."""
    out = Path(HydraConfig.get().runtime.output_dir)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    settings = Settings(
        ids=plain["env"]["ids"],
        env=plain["env"]["arguments"],
        mix=plain["mix"],
        seed=plain["seed"],
        noise=plain["noise"],
        noise_level=plain["noise_level"],
        vqa_stride=plain["vqa_stride"],
        vqa_count=plain["vqa_count"],
        tail_frames=plain["tail_frames"],
        max_attempts=plain["max_attempts"],
        keep_failures=plain["keep_failures"],
        policy=f"{plain['policy']}, weights {instantiate(config.tell_policy)}" if config.policy else None,
    )
    demonstrator = Demonstrator(
        settings,
        make_expert=instantiate(config.expert, _partial_=True),
        codec=plain["codec"],
        load_policy=instantiate(config.load_policy, _partial_=True) if config.policy else None,
    )
    result = collect(
        demonstrator,
        out / "dataset",
        episodes=plain["episodes"],
        workers=plain["workers"],
        language=plain["language"],
    )
    path = write_result(out, seed=plain["seed"], **result)
    print(
        f"{result['episodes']} episodes, {result['frames']} frames in {result['dataset']}; "
        f"{result['episodes_per_s']:.2f} episodes/s, expert success {result['expert_success']:.1%}\n{path}"
    )


def collect(
    demonstrator: Demonstrator, root: Path, episodes: int, workers: int | None = None, language: bool = False
) -> dict[str, Any]:
    """Fill the dataset `root` up to `episodes` episodes with `workers` processes (all cores) and return the result."""
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; at least 1 is needed")
    workers = workers or len(os.sched_getaffinity(0))
    started_s = time.monotonic()
    with _open_writer(demonstrator, root, language) as writer:
        missing = [episode for episode in range(episodes) if episode not in writer.saved()]
        with tqdm(total=episodes, initial=episodes - len(missing), unit="episode", desc="collect") as bar:
            attempts = 0
            for done, outcome in enumerate(_record_all(demonstrator, root, missing, workers), start=1):
                attempts += outcome.attempts
                bar.set_postfix(expert=f"{done / attempts:.0%}", refresh=False)
                bar.update()
                if done % JOIN_EVERY == 0:
                    writer.join_staged()
    seconds = time.monotonic() - started_s
    run = {"episodes_per_s": len(missing) / seconds, "collected": len(missing), "seconds": seconds, "workers": workers}
    return _summary(EpisodeDataset(root)) | run


def _open_writer(demonstrator: Demonstrator, root: Path, language: bool) -> DatasetWriter:
    """Open the dataset with the features and the body of the environment."""
    with closing(demonstrator):
        environment, _ = demonstrator.environment(next(iter(demonstrator.settings.mix)))
        world: Any = environment.unwrapped
        body, features = world.embodiment(), demonstrator.features(environment)
    settings = demonstrator.settings
    return DatasetWriter(
        root,
        fps=body["control_hz"],
        features=features,
        robot_type=body["name"],
        codec=demonstrator.codec,
        language=language,
        metadata={"embodiment": body, "collect": {name: getattr(settings, name) for name in settings.__annotations__}},
    )


def _summary(dataset: EpisodeDataset) -> dict[str, Any]:
    """Count episodes and the attempts that they took, in all and for each kind."""
    kinds: dict[str, dict[str, float]] = {}
    for episode in dataset.episodes:
        counts = kinds.setdefault(episode.extra["kind"], {"episodes": 0, "frames": 0, "attempts": 0, "successes": 0})
        counts["episodes"] += 1
        counts["successes"] += episode.extra.get("success", True)
        counts["frames"] += episode.length
        counts["attempts"] += episode.extra["attempts"]
    for counts in kinds.values():
        counts["expert_success"] = counts["successes"] / counts["attempts"]
    attempts = sum(counts["attempts"] for counts in kinds.values())
    return {
        "episodes": len(dataset.episodes),
        "frames": len(dataset),
        "attempts": attempts,
        "expert_success": sum(counts["successes"] for counts in kinds.values()) / attempts,
        "per_kind": dict(sorted(kinds.items())),
        "dataset": dataset.root,
    }


def _record_all(demonstrator: Demonstrator, root: Path, episodes: list[int], workers: int) -> Iterator[Outcome]:
    """Record the episodes, in this process if one worker is enough, and yield them as they are completed."""
    if workers == 1 or len(episodes) < 2:
        with closing(demonstrator):
            for episode in episodes:
                yield demonstrator.record(root, episode)
        return
    parts = (demonstrator.settings, demonstrator.make_expert, demonstrator.codec, demonstrator.load_policy)
    with _pool(min(workers, len(episodes)), partial(Demonstrator, *parts)) as pool:
        futures = [pool.submit(_record, root, episode) for episode in episodes]
        for future in as_completed(futures):
            yield _result(future)


@contextmanager
def _pool(workers: int, make: Callable[[], Demonstrator]) -> Iterator[ProcessPoolExecutor]:
    """A pool of worker processes that lets running episodes end, and begins no other, when something goes wrong."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a policy brings torch along before any line of ours runs in a worker
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(make,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process died, perhaps for lack of memory. Complete episodes are safe: run the command again, "
            "with fewer workers= if it happens again"
        ) from error


def _start_worker(make: Callable[[], Demonstrator]) -> None:
    """Prepare a worker process: one thread, no quarrel over Ctrl-C, and an end when the collector is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker["demonstrator"] = make()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _record(root: Path, episode: int) -> Outcome:
    return _worker["demonstrator"].record(root, episode)


if __name__ == "__main__":
    main()
