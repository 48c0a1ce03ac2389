"""Keyframes are found by what they show: a checkpoint with a dual encoder, from video to hit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.tiny import PROMPTS, tiny_config, tiny_policy, tiny_processor
from tests.video.scenes import record as scene
from tests.video.test_decode import write as encode
from vla.model import checkpoint
from vla.model.network import Network
from vla.types import Observation
from vla.video import timeline
from vla.video.analysis import analyse
from vla.video.child import Decoder
from vla.video.decode import VideoClip
from vla.video.frame_search import CheckpointEncoder
from vla.video.index import build, search
from vla.video.source import Item
from vla.video.words import NoWords

CAMERAS = ("front", "wrist")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny checkpoint with a dual encoder."""
    torch.manual_seed(0)
    processor = tiny_processor()
    config = tiny_config(processor.tokenizer) | {"dual": {"size": 16}}
    network = Network(**config)
    for weight in network.parameters():  # large enough that frames differ
        weight.data.mul_(3 if weight.ndim > 1 else 1)
    path = tmp_path_factory.mktemp("dual") / "tiny"
    checkpoint.save(path, config, network.state_dict(), processor, {})
    return path


@pytest.fixture(scope="module")
def item(tmp_path_factory) -> Item:
    """A scene that both cameras of the checkpoint saw."""
    recorded = scene(5)
    path = encode(tmp_path_factory.mktemp("item") / "scene.mp4", recorded.frames, fps=recorded.fps)
    return Item("a scene", path, {name: VideoClip(path) for name in CAMERAS}, state=recorded.state)


@pytest.fixture(scope="module")
def analysed(item, folder, tmp_path_factory):
    """What was found, and the folder with its index."""
    out, encoder = tmp_path_factory.mktemp("out"), CheckpointEncoder(str(folder))
    with Decoder() as decoder:
        analysis = analyse(item, decoder, NoWords(), encoder=encoder)
        record = timeline.document(analysis, fingerprint="f", settings={})
        timeline.write(out / "items/a", record, analysis)
        pictures = [{name: analysis.tracks[name].picture(k.time_s) for name in CAMERAS} for k in analysis.keyframes]
    build(out, [("items/a", record)], None, encoder)
    return record, pictures, out


def test_the_frame_that_is_nearest_to_the_words_comes_first(analysed, folder):
    record, pictures, out = analysed
    policy = checkpoint.load(folder)
    observations = [Observation(images, np.zeros(3, np.float32), "", 0.0) for images in pictures]
    near = policy.embed_images(observations) @ policy.embed_texts([PROMPTS[1]])[0]
    hits = search(out, PROMPTS[1].upper() + ".", 100, encoder=CheckpointEncoder(str(folder)))
    frames = [hit for hit in hits if hit.kind == "frame"]
    best = record["keyframes"][int(near.argmax())]
    assert (frames[0].start_s, frames[0].picture) == (best["time_s"], best["picture"])
    assert {hit.label for hit in frames} <= {part["label"] for part in record["segments"]}
    assert frames[0].ranks == {"sight": 1} and np.ptp(near) > 1e-3
    assert not [hit for hit in search(out, "frame", 100) if hit.kind == "frame"]  # words do not find frames


def test_words_that_were_never_taught_find_no_frame(analysed, folder):
    encoder = CheckpointEncoder(str(folder))
    assert encoder.sentence("an elephant") is None and encoder.sentence(" . ") is None
    assert all(hit.kind != "frame" for hit in search(analysed[2], "the elephant sets off", 10, encoder=encoder))


def test_an_item_without_one_of_the_cameras_has_no_vectors_and_old_ones_go(item, folder, tmp_path):
    encoder = CheckpointEncoder(str(folder))
    for cameras, shape in ((CAMERAS, None), (("front",), (0, 16))):
        with Decoder() as decoder:
            analysis = analyse(item, decoder, NoWords(), cameras=cameras, encoder=encoder)
            assert analysis.vectors.shape == (shape or (len(analysis.keyframes), 16))
            record = timeline.document(analysis, fingerprint="f", settings={})
            timeline.write(tmp_path, record, analysis)
        assert (timeline.vectors(tmp_path, record) is None) == (shape is not None)


def test_vectors_of_another_encoder_are_not_compared(analysed, folder):
    encoder = CheckpointEncoder(str(folder))
    encoder.identity = "another"
    with pytest.raises(ValueError, match=r"made with the dual encoder 'tiny .*', the query would be with 'another'"):
        search(analysed[2], "red", 1, encoder=encoder)
    record, _, out = analysed
    build(out, [("items/a", record)], None)
    with pytest.raises(ValueError, match="made with the dual encoder 'none'"):
        search(out, "red", 1, encoder=encoder)


def test_a_checkpoint_without_a_dual_encoder_names_the_recipe(tmp_path):
    policy = tiny_policy()
    config = tiny_config(policy.processor.tokenizer)
    checkpoint.save(tmp_path / "plain", config, policy.network.state_dict(), policy.processor, {})
    with pytest.raises(ValueError, match="vla train recipe=dual_encoder"):
        CheckpointEncoder(str(tmp_path / "plain"))
