"""Frames and sentences find each other once they were taught to, by either loss."""

import numpy as np
import pytest
import torch

from tests.model.tiny import observation, tiny_config, tiny_policy, tiny_processor
from vla.model.dual import DualEncoder
from vla.model.network import Network
from vla.model.policy import VLAPolicy

TEXTS = ["a red cube", "a blue cube", "the green bowl", "pick up the bowl"]


def policy(loss="siglip"):
    torch.manual_seed(0)
    processor = tiny_processor(texts=TEXTS)
    return VLAPolicy(Network(**tiny_config(processor.tokenizer), dual={"size": 16, "loss": loss}), processor)


@pytest.mark.parametrize("loss", ["siglip", "clip"])
def test_after_training_each_sentence_finds_its_frame(loss):
    one = policy(loss)
    network, frames = one.network, [observation(seed) for seed in range(len(TEXTS))]
    images, (ids, mask) = one.processor.images(frames), one.processor.text(TEXTS)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        network.dual.loss(network.dual.images(network.vision(images)), network.meaning(ids, mask)).backward()
        optimizer.step()
    scores = one.embed_texts(TEXTS) @ one.embed_images(frames).T
    assert (scores.argmax(axis=1) == np.arange(len(TEXTS))).all()
    assert (scores.argmax(axis=0) == np.arange(len(TEXTS))).all()


def test_vectors_have_length_one_and_padding_does_not_matter():
    one = policy()
    alone, among = one.embed_texts(TEXTS[:1]), one.embed_texts([TEXTS[0], " ".join(["cube"] * 20)])
    np.testing.assert_allclose(np.linalg.norm(among, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(alone[0], among[0], atol=1e-5)


def test_losses_are_those_of_the_papers():
    torch.manual_seed(1)
    images, texts = (torch.nn.functional.normalize(torch.randn(3, 4), dim=1) for _ in range(2))
    sigmoid, softmax = DualEncoder(8, 4, loss="siglip"), DualEncoder(8, 4, loss="clip")
    scores = images @ texts.T * 10
    expected = sum(
        torch.log1p(torch.exp(-(1 if i == j else -1) * (scores[i, j] - 10))) for i in range(3) for j in range(3)
    )
    torch.testing.assert_close(sigmoid.loss(images, texts), expected / 3)
    rows, columns = (-torch.log_softmax(s, dim=1).diagonal().mean() for s in (scores, scores.T))
    torch.testing.assert_close(softmax.loss(images, texts), (rows + columns) / 2)


@pytest.mark.parametrize("loss", ["siglip", "clip"])
def test_what_is_true_of_two_frames_is_wrong_for_neither(loss):
    dual = DualEncoder(8, 2, loss=loss)
    near, apart = (torch.tensor([[1.0, 0.0], [0.0, 1.0]])[[0, i]] for i in (0, 1))
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    assert dual.loss(near, near, everywhere) < dual.loss(apart, apart, everywhere)
    assert dual.loss(apart, apart) < dual.loss(near, near)


def test_without_a_dual_encoder_the_recipe_is_named():
    with pytest.raises(ValueError, match="vla train recipe=dual_encoder"):
        tiny_policy().embed_texts(["a cube"])
    with pytest.raises(ValueError, match="possible: siglip, clip"):
        DualEncoder(8, loss="hinge")
