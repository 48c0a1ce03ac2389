"""Several datasets in one run: their shares, and bodies of their own that one network learns to move."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.train.conftest import frames_of, run
from tests.train.test_designs import blank
from vla.data.dataset import EpisodeDataset
from vla.model import checkpoint
from vla.model.vocabulary import build_tokenizer
from vla.train.sources import Mixture, Source, of_all_bodies, processors, shares_of
from vla.types import ContractError, Embodiment

CAMERAS = {"front": (40, 64), "wrist": (64, 64)}


@pytest.fixture(scope="module")
def stiff(tmp_path_factory):
    """Two demonstrations of the body without wrist roll."""
    out = tmp_path_factory.mktemp("stiff")
    mix = "mix={pick: 1, place: 0, stack: 0, push: 0, open: 0, close: 0, press: 1, long: 0}"
    command = [sys.executable, "-m", "vla.data.collect", "env=stiff_wrist", "episodes=2", "noise=0", mix, "workers=1"]
    subprocess.run([*command, f"out={out}"], check=True, capture_output=True)
    return EpisodeDataset(out / "dataset")


@pytest.fixture(scope="module")
def sources(demonstrations, stiff):
    folder = frames_of(demonstrations)
    return [Source.open(data.root, weight, CAMERAS, folder) for data, weight in ((demonstrations, 0.25), (stiff, 0.75))]


@pytest.fixture(scope="module")
def mixture(sources):
    tokenizer = build_tokenizer([text for source in sources for text in source.labels.texts()])
    each = processors(sources, tokenizer, 16, 80)
    settings = {"max_given_steps": 4, "given_share": 0.5}
    return each, lambda **more: Mixture(sources, each, 16, 3, **settings, **more)


def test_samples_come_from_each_source_by_its_weight_and_say_which_joints_are_there(mixture, sources):
    _, of = mixture
    batches, narrow = of(), 0
    for step in range(30):
        batch = batches[step]
        stiff = ~batch.there.all(dim=1)
        narrow += int(stiff.sum())
        assert batch.state.shape == (16, 6) and batch.there[:, -1].all() and (batch.there.sum(1) >= 5).all()
        assert (batch.state[~batch.there] == 0).all() and (batch.actions.mT[~batch.there] == 0).all()
        assert batch.actions.abs().max() < 1.5 and batch.images["front"].shape == (16, *CAMERAS["front"], 3)
        assert (batch.question_mask | (batch.question_labels == -100)).all()
    assert 0.65 < narrow / (30 * 16) < 0.85
    assert torch.equal(of()[7].actions, batches[7].actions)


def test_shares_of_two_processes_are_the_whole(mixture):
    _, of = mixture
    whole, parts = of()[5], [of(share=(number, 2))[5] for number in range(2)]
    assert sum(len(part.state) for part in parts) == 16
    rows = {tuple(row.tolist()) for part in parts for row in part.state}
    assert rows == {tuple(row.tolist()) for row in whole.state}
    for name, share in whole.shares().items():
        assert share == 1 or whole.counted()[name] == 0
        assert sum(part.shares()[name] for part in parts) / 2 == pytest.approx(share)


def test_each_body_has_its_own_statistics_and_the_same_body_shares_them(sources, mixture):
    each, _ = mixture
    wide, narrow = (processor.codec for processor in each)
    assert (wide.joints, narrow.joints, wide.action_dim, narrow.action_dim) == (6, 5, 6, 6)
    own = sources[1].labels.fit_codec(16)
    assert torch.equal(narrow.low, own.low) and torch.equal(narrow.state_high, own.state_high)
    twice = processors([sources[0], dataclasses.replace(sources[0])], each[0].tokenizer, 16, 80)
    assert twice[0].codec.to_dict() == twice[1].codec.to_dict() == wide.to_dict()
    assert of_all_bodies(twice).others == () and len(of_all_bodies(each).others) == 1


def test_one_checkpoint_moves_both_bodies_and_no_third(demonstrations, stiff, tmp_path):
    small = ["steps=3", "save_every=2", "warmup_steps=1"]
    both = f"dataset=[{demonstrations.root},{stiff.root}]"
    result = run(demonstrations, tmp_path / "run", both, "dataset_weights=[1,3]", *small)
    assert result["complete"] and np.isfinite(result["loss"])
    policy = checkpoint.load(tmp_path / "run/checkpoints/last")
    provenance = json.loads((tmp_path / "run/checkpoints/last/provenance.json").read_text())
    assert [data["hash"] for data in provenance["dataset"]] == [demonstrations.hash, stiff.hash]
    for data, joints in ((demonstrations, 6), (stiff, 5), (demonstrations, 6)):
        body = Embodiment.from_dict(data.info["vla"]["embodiment"])
        policy.check(body)
        assert policy.embodiment == body
        state = data.column("observation.state")[0]
        chunk = policy.act([blank(body, state)], given=np.stack([[state] * 3]), given_steps=2)[0]
        assert chunk.actions.shape == (16, joints)
        np.testing.assert_allclose(chunk.actions[:2], np.stack([state] * 2), atol=1e-4)
        low, high = np.float32(body.position_min), np.float32(body.position_max)
        assert (chunk.actions >= low).all() and (chunk.actions <= high).all()
    third = dataclasses.replace(policy.embodiment, name="third")
    with pytest.raises(ContractError, match=r"(?s)name: 'so101' here, 'third' there.*'so101_stiff_wrist' here"):
        policy.check(third)


@pytest.mark.parametrize("folders, weights", [([], None), (["a", "b"], [1]), (["a"], [0]), (["a", "a"], None)])
def test_shares_that_make_no_sense_are_refused(folders, weights):
    with pytest.raises(ValueError, match="give a folder or a list of different ones"):
        shares_of(folders, weights)


def test_shares_follow_the_weights():
    assert shares_of("a", None) == {"a": 1.0}
    assert shares_of(["a", "b"], [1, 3]) == {"a": 0.25, "b": 0.75}
