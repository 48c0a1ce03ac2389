"""Episodes that a bench records for itself; what was recorded before a run was cut off is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vla.bench.ledger import Ledger
from vla.data.collect import collect
from vla.data.demonstration import Demonstrator, Expert, Settings


class Recordings(Protocol):
    """Records a dataset; its repr tells what is recorded."""

    def collect(self, root: Path, episodes: int) -> None:
        """Fill the dataset `root` up to so many episodes."""
        ...


@dataclass(frozen=True)
class Demonstrations:
    """Records demonstrations as `vla collect` does."""

    settings: Settings
    make_expert: Callable[..., Expert]  # called with noise= and seed=
    codec: str = "h264_444"
    workers: int = 1

    def collect(self, root: Path, episodes: int) -> None:
        """Fill the dataset `root` up to so many episodes."""
        collect(Demonstrator(self.settings, self.make_expert, self.codec), root, episodes, self.workers)


def recorded(recordings: Recordings, root: Path, episodes: int) -> Path:
    """Return `root` with so many episodes in it, recorded unless they are there.

    Raises ValueError if other recordings were begun there.
    """
    ledger = Ledger(root.with_suffix(".jsonl"), {"recordings": repr(recordings), "episodes": episodes})
    if "whole" not in ledger.rows:
        recordings.collect(root, episodes)
        ledger.add("whole", True)
    return root
