"""`vla analyze`: what happened in these videos and when, as timelines and pages; the same command again resumes."""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from vla.data.annotate import annotate, check_annotation
from vla.data.dataset import EpisodeDataset
from vla.data.excerpt import check_excerpt, excerpt
from vla.result import write_result
from vla.video import overview, report, timeline
from vla.video.analysis import FrameEncoder, analyse
from vla.video.chat_words import ChatWords, SheetWords
from vla.video.child import Decoder
from vla.video.decode import ClipError, Limits, VideoClip
from vla.video.embed import EndpointEmbedder
from vla.video.fingerprint import fingerprint
from vla.video.flag import ERROR, NOTE, WARNING, Flag
from vla.video.index import Embedder, build, closeness
from vla.video.live import QUESTION, Live, told
from vla.video.live_child import ChildClip
from vla.video.objects import Detector
from vla.video.ocr import RapidReader
from vla.video.quality import compare
from vla.video.reading import Reader
from vla.video.remedy import kept, remedy
from vla.video.routing import RoutedWords
from vla.video.source import Item, find, shown
from vla.video.stream import PacedClip, StreamClip, is_stream
from vla.video.veil import TEXT, Veil, veiled
from vla.video.words import NoWords, Words

ITEMS = "items"  # folder of the items' folders
IN_PLACE = "in_place"  # the word for changing the dataset itself

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="analyze")
def main(config: DictConfig) -> None:
    """Analyse everything at `path`, then write the result."""
    out = Path(HydraConfig.get().runtime.output_dir)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if plain["path"] is None:
        raise ValueError("what shall be analysed? Give path= a video, an image, a folder of them or a dataset")
    reader = RapidReader() if plain["text"] or TEXT in plain["blur"] else None
    veil, words = Veil(plain["blur"], reader) if plain["blur"] else None, instantiate(config.vlm)
    detector = instantiate(config.detector) if plain["detector"]["model"] else None
    if plain["live"] or is_stream(str(plain["path"])):
        live(plain, out, words, veil, detector)
        return
    if plain["subtasks"] is not None:
        check_subtasks(Path(plain["path"]), plain["subtasks"], plain["subtask_feature"])
    if plain["clean"]:
        check_clean(Path(plain["path"]), Path(plain["clean"]))
    if plain["stronger"]["url"]:
        words = RoutedWords(words, ChatWords(**plain["stronger"]), plain["sure"])
    result = analyze(
        Path(plain["path"]),
        out,
        words=words,
        embedder=EndpointEmbedder(**plain["embeddings"]) if plain["embeddings"]["url"] else None,
        limits=Limits(**plain["limits"]),
        cameras=plain["cameras"],
        episodes=plain["episodes"],
        budget=plain["budget"],
        images_fps=plain["images_fps"],
        questions=questions(plain["ask"]),
        reader=reader if plain["text"] else None,
        veil=veil,
        detector=detector,
        encoder=instantiate(config.frames) if plain["frames"]["checkpoint"] else None,
        blur_written=plain["blur_written"],
        fresh=plain["fresh"],
        clean=Path(plain["clean"]) if plain["clean"] else None,
    )
    result["subtasks"] = write_subtasks(
        Path(plain["path"]), result["items"], plain["subtasks"], plain["subtask_feature"]
    )
    path = write_result(out, seed=plain["seed"], **result)
    for item in result["items"]:
        for answer in item["qa"]["answers"]:
            print(f"{item['name']}: {answer['question']}\n  {answer['answer']}")
    print(f"{len(result['items'])} items, {result['analysed']} of them analysed now\n{result['report']}\n{path}")


def live(plain: dict[str, Any], out: Path, words: Words, veil: Veil | None, detector: Detector | None) -> None:
    """Follow the source at `path` and write the result; ValueError for words that cannot look at single pictures."""
    if not isinstance(words, SheetWords | NoWords):
        raise ValueError("live pictures are shown to a model that can look, or to nobody: vlm=endpoint, hub or none")
    unused = [key for key in ("text", "subtasks", "clean") if plain[key]] + ["stronger.url"] * bool(
        plain["stronger"]["url"]
    )
    if unused:
        raise ValueError(f"{unused} are for recordings, this is live: leave them out")
    path = str(plain["path"])
    clip = StreamClip(path) if is_stream(path) else PacedClip(VideoClip(Path(path)))
    source = Live(
        ChildClip(clip),
        out,
        Limits(**plain["limits"]),
        look=words.look if isinstance(words, SheetWords) else None,
        question=" ".join(questions(plain["ask"])) or QUESTION,
        veil=veil,
        detector=detector,
        blur_written=plain["blur_written"],
    )
    result = source.run(plain["seconds"], lambda moment: print(told(moment), flush=True))
    written = write_result(out, seed=plain["seed"], words=words.identity, **result)
    drops = f"{result['frames_dropped']} frames and {result['keyframes_dropped']} keyframes dropped"
    print(
        f"{result['frames']} frames, {result['keyframes']} keyframes, {result['answers']} answers; {drops}\n{written}"
    )


def analyze(
    path: Path,
    out: Path,
    *,
    words: Words,
    limits: Limits,
    embedder: Embedder | None = None,
    cameras: Sequence[str] = (),
    episodes: Sequence[int] | None = None,
    budget: int,
    images_fps: float,
    questions: Sequence[str] = (),
    reader: Reader | None = None,
    veil: Veil | None = None,
    detector: Detector | None = None,
    encoder: FrameEncoder | None = None,
    blur_written: bool = True,
    fresh: bool = False,
    clean: Path | None = None,
) -> dict[str, Any]:
    """Analyse every item at `path` into `out`/items, answer `questions` about each, and return the result.

    Items whose fingerprint is already there are taken as they are, unless `fresh` or a question was left without any
    reply. An item that cannot be read is
    reported as such; ClipError if none can. reader: reads text in keyframes. veil: hides places in all pictures that
    `words` are shown and, with `blur_written`, in those that are written. detector: names things, in place of colours.
    encoder: makes keyframes vectors, by which search finds what they show. clean: a new folder for a copy of the
    dataset at `path` without episodes with errors and without idle ends, of those that were analysed.
    """
    items = _chosen(find(path, images_fps), path, episodes)
    settings = {"budget": budget, "cameras": list(cameras), "limits": asdict(limits), "words": words.identity}
    settings |= {"ask": list(questions), "similar": embedder.identity if embedder and questions else "words"}
    settings |= {
        "text": reader.identity if reader else "",
        "blur": list(veil.kinds) if veil else [],
        "blur_written": blur_written,
    }
    settings |= {"detector": detector.identity if detector else "colours"}
    settings |= {"encoder": encoder.identity} if encoder else {}
    similar = None if embedder is None else partial(closeness, embedder)
    rows: list[dict[str, Any]] = []
    with Decoder(limits) as decoder, tqdm(items, unit="item", desc="analyze") as bar:
        for item in bar:
            folder = Path(ITEMS) / folder_name(item)
            bar.set_postfix_str(item.name[-40:], refresh=False)
            record = None if fresh else timeline.read(out / folder)
            key = fingerprint(item, settings)
            made = record is None or record["fingerprint"] != key or timeline.unanswered(record)
            if record is None or made:
                analysis = analyse(
                    item,
                    decoder,
                    words,
                    cameras=cameras,
                    budget=budget,
                    questions=questions,
                    similar=similar,
                    reader=reader,
                    veil=veil,
                    detector=detector,
                    encoder=encoder,
                )
                if blur_written:
                    analysis = replace(analysis, tracks=veiled(analysis.tracks, veil))
                record = timeline.document(analysis, fingerprint=key, settings=settings)
                timeline.write(out / folder, record, analysis)
                if analysis.tracks:
                    (out / folder / "report.html").write_text(report.render(record, analysis), encoding="utf-8")
                for track in analysis.tracks.values():
                    track.thumbnails.unlink()
            rows.append({"folder": folder.as_posix(), "record": timeline.brief(record), "made": made})
    if not any(row["record"]["keyframes"] for row in rows):
        raise ClipError(rows[0]["record"]["qa"][0]["words"])
    index = build(out, timeline.Records(out, [row["folder"] for row in rows]), embedder, encoder)
    return _finish(path, out, items, rows, clean) | {"index": index}


def questions(ask: str | Sequence[str] | None) -> list[str]:
    """Return the questions of `ask=`, one text with "|" between them or a list; ValueError for one without words."""
    asked = [text.strip() for text in (ask.split("|") if isinstance(ask, str) else ask or [])]
    if not all(re.search(r"\w", text) for text in asked):
        raise ValueError(f'ask={ask!r} holds no question: give words, such as ask="when is the cube dropped?"')
    return asked


def check_clean(path: Path, target: Path) -> None:
    """Raise the ValueError with which writing a clean copy would end, before anything is analysed."""
    if not (path / "meta/info.json").is_file():
        raise ValueError(f"{path} is no LeRobot v3 dataset, so there is nothing to copy: leave clean out")
    check_excerpt(path, target)


def check_subtasks(path: Path, where: str, feature: str) -> None:
    """Raise the ValueError with which `write_subtasks` would end, before anything is analysed."""
    if not (path / "meta/info.json").is_file():
        raise ValueError(f"{path} is no LeRobot v3 dataset, so no subtasks can be written: leave subtasks out")
    check_annotation(path, feature, None if where == IN_PLACE else Path(where))


def write_subtasks(path: Path, items: Sequence[dict[str, Any]], where: str | None, feature: str) -> Path | None:
    """Write the label of the segment that each frame lies in as a text feature of the dataset that was analysed.

    items: of the result. where: a new folder for a copy of the dataset, IN_PLACE for the dataset itself, None for
    nowhere. Frames of episodes that were not analysed get "".
    """
    if where is None:
        return None
    check_subtasks(path, where, feature)
    data, texts = EpisodeDataset(path), {}
    for row in items:
        record = timeline.read(row["timeline"].parent)
        if record is not None and record["segments"]:
            episode = data.episodes[record["source"]["episode"]]
            texts[episode.index] = [_label_at(record["segments"], k / data.fps) for k in range(episode.length)]
    return annotate(path, feature, texts, None if where == IN_PLACE else Path(where))


def _label_at(segments: Sequence[dict[str, Any]], time_s: float) -> str:
    """Return the label of the segment that holds a time; the last one holds what comes after."""
    return next((part["label"] for part in segments if time_s < part["stop_s"] - 1e-6), segments[-1]["label"])


def _chosen(items: list[Item], path: Path, episodes: Sequence[int] | None) -> list[Item]:
    if episodes is None:
        return items
    chosen = [item for item in items if item.episode in set(episodes)]
    missing = sorted(set(episodes) - {item.episode for item in chosen})
    if missing:
        there = sorted({item.episode for item in items if item.episode is not None})
        span = f"it has {there[0]} to {there[-1]}" if there else "it has no episodes, leave episodes out"
        raise ValueError(f"episodes {missing} are not in {path}; {span}")
    return chosen


def folder_name(item: Item) -> str:
    """Return a name for the item's folder: like its own, but plain, and unlike that of any other."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", item.name).strip("-.")[-60:]
    return f"{plain or 'item'}-{hashlib.sha256(item.name.encode()).hexdigest()[:8]}"


def _finish(path: Path, out: Path, items: list[Item], rows: list[dict[str, Any]], clean: Path | None) -> dict[str, Any]:
    """Compare the items with each other and write what concerns all of them."""
    checked = [timeline.checked(row["record"]) for row in rows]
    readable = [number for number, row in enumerate(rows) if row["record"]["keyframes"]]
    further, dataset_flags = compare([checked[number] for number in readable])
    flags = [list(item.flags) for item in checked]
    for number, own in zip(readable, further, strict=True):
        flags[number] += own
    lines = remedy(items, flags)
    (out / "remedy.sh").write_text("\n".join(lines) + "\n" * bool(lines), encoding="utf-8")
    page = out / rows[0]["folder"] / "report.html"
    if len(rows) > 1:
        page = out / "report.html"
        listed = [row | {"flags": own} for row, own in zip(rows, flags, strict=True)]
        page.write_text(
            overview.render(shown(path.resolve().name), listed, dataset_flags, lines, out), encoding="utf-8"
        )
    return {
        "items": [_summary(item, out, row, own) for item, row, own in zip(items, rows, flags, strict=True)],
        "analysed": sum(row["made"] for row in rows),
        "routing": _routing([row["record"]["routing"] for row in rows]),
        "dataset_qa": [asdict(flag) for flag in dataset_flags],
        "remedy": out / "remedy.sh" if lines else None,
        "clean": _copied(path, kept(items, flags), clean),
        "report": page,
    }


def _copied(path: Path, rows: Mapping[int, tuple[int, int]], clean: Path | None) -> Path | None:
    """Copy what is kept of a dataset, and say where there is nothing, since the analysis stands all the same."""
    if clean is not None and not rows:
        log.warning("every episode of %s that was analysed has errors, so there is nothing to copy to %s", path, clean)
        return None
    return None if clean is None else excerpt(path, rows, clean)


def _routing(counts: Sequence[dict[str, int]]) -> dict[str, float]:
    """Add up what went to the stronger model; of what it changed, only a bench with the truth knows the gain."""
    total = {key: sum(own[key] for own in counts) for key in ("asked", "routed", "changed")}
    return total | {"share": round(total["routed"] / max(total["asked"], 1), 4)}


def _summary(item: Item, out: Path, row: dict[str, Any], flags: Sequence[Flag]) -> dict[str, Any]:
    """Return one entry of `items` in result.json; `qa` has the codes of the quality check and the answers."""
    record, folder = row["record"], out / row["folder"]
    lead = next(iter(record["source"]["cameras"].values()), {"frames": 0, "duration_s": 0.0})
    codes = {severity: sorted({f.code for f in flags if f.severity == severity}) for severity in (ERROR, WARNING, NOTE)}
    return {
        "path": item.path,
        "name": item.name,
        "frames": lead["frames"],
        "duration_s": lead["duration_s"],
        "keyframes": record["keyframes"],
        "segments": record["segments"],
        "qa": codes | {"answers": record["answers"]},
        "outcome": {key: record["outcome"][key] for key in ("label", "mode", "moment_s", "words")},
        "timeline": folder / "timeline.json",
        "report": folder / "report.html" if record["keyframes"] else None,
    }


if __name__ == "__main__":
    main()
