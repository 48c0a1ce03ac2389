"""A detector of the hub, tiny and with weights that are set to see one box, gives things with its names."""

import numpy as np
import pytest
import torch
from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

from tests.video.pictures import ground
from tests.video.scenes import record
from tests.video.test_events import track_of
from vla.video.detector import HubDetector
from vla.video.objects import Follower
from vla.video.track import followed

BOX = (0.25, 0.5, 0.2, 0.4)  # middle x, y, width, height, in shares of the picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved YOLOS that sees a mug at BOX, whatever it is shown."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {0: "spoon", 1: "mug"}
    config = YolosConfig(**sizes, image_size=[32, 48], patch_size=16, num_detection_tokens=1, id2label=names)
    model = YolosForObjectDetection(config)
    with torch.no_grad():
        for head, wanted in ((model.class_labels_classifier, [0.0, 5.0, 0.0]), (model.bbox_predictor, BOX)):
            last = head.layers[-1]
            last.weight.zero_()
            last.bias.copy_(torch.tensor(wanted) if wanted is not BOX else torch.logit(torch.tensor(BOX)))
    path = tmp_path_factory.mktemp("yolos")
    model.save_pretrained(path)
    YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 48}).save_pretrained(path)
    return path


def test_things_have_the_names_and_places_that_the_model_gives_them(folder):
    (seen,) = HubDetector(str(folder))(ground())
    height = 192 / 256
    assert (seen.kind, seen.square) == ("mug", None)
    np.testing.assert_allclose([seen.x, seen.y], [BOX[0], BOX[1] * height], atol=1e-3)
    np.testing.assert_allclose([seen.width, seen.height], [BOX[2], BOX[3] * height], atol=1e-3)
    assert HubDetector(str(folder), sure=0.999)(ground()) == []


def test_what_a_detector_names_is_followed_under_its_name(folder, tmp_path):
    track = track_of(record(1), tmp_path)
    detector = HubDetector(str(folder))
    (thing,) = followed(track, detector).things
    assert thing.name == "mug" and len(thing.time_s) == len(track.sample) and thing.way == 0
    follower = Follower()
    seen = [detector(ground()) if k > 2 else [] for k in range(9)]
    changes = [change for k, found in enumerate(seen) for change in follower.update(k / 10, found, False)]
    assert changes == [("mug", "appears")]
