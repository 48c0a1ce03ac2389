"""Are spoilt recordings flagged, and sound ones left alone? Recall by fault, false alarms by the hour."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.bench import spoilt
from vla.data.dataset import EpisodeDataset
from vla.video.child import Decoder
from vla.video.flag import NOTE
from vla.video.quality import Checked, check
from vla.video.source import Item


def examine(data: EpisodeDataset, item: Item, decoder: Decoder, rng: np.random.Generator) -> dict[str, Any]:
    """Spoil an episode in every way, and encode it again unspoilt; return what was noticed, in plain JSON types."""
    recording = spoilt.load(data, item)
    hits: dict[str, list[bool]] = {}
    with tempfile.TemporaryDirectory(prefix="vla-bench-video-") as folder:
        clean = _checked(spoilt.write(recording, Path(folder), "clean"), decoder)
        for name, (spoil, _) in spoilt.FAULTS.items():
            broken = spoilt.write(spoil(recording, rng), Path(folder), name)
            hits[name] = spoilt.noticed(name, _checked(broken, decoder), list(item.clips))
    alarms = [f"{item.name}: {flag.words}" for flag in clean.flags if flag.severity != NOTE]
    return {"hits": hits, "alarms": alarms, "seconds": len(recording) / recording.fps}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up what `examine` returned for several episodes."""
    hits = {name: [hit for row in rows for hit in row["hits"][name]] for name in spoilt.FAULTS}
    every = [hit for own in hits.values() for hit in own]
    alarms, seconds = [alarm for row in rows for alarm in row["alarms"]], sum(row["seconds"] for row in rows)
    return {
        "recall": float(np.mean(every)) if every else None,
        "recall_by_fault": {name: float(np.mean(own)) for name, own in hits.items() if own},
        "faults": len(every),
        "false_alarms_per_hour": len(alarms) / (seconds / 3600) if seconds else None,
        "false_alarms": alarms,
        "hours": seconds / 3600,
    }


def _checked(item: Item, decoder: Decoder) -> Checked:
    tracks = {camera: decoder.track(clip) for camera, clip in item.clips.items()}
    for track in tracks.values():
        track.thumbnails.unlink()
    return check(item, tracks)
