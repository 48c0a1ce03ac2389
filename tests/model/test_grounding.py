"""Words find what they name, and pointing answers teach them to."""

import torch

from tests.model.tiny import tiny_policy
from vla.model.grounding import WordGrounding, named_token, waves
from vla.model.losses import grounding_loss


def test_the_named_token_is_the_one_at_the_centre_of_the_box():
    boxes = torch.tensor([[0.0, 0.0, 0.1, 0.1], [0.9, 0.9, 1.0, 1.0], [0.5, 0.0, 0.7, 0.4]])
    assert named_token(boxes, (4, 8)).tolist() == [0, 31, 4]


def test_waves_tell_places_apart_and_neighbours_are_alike():
    described = waves(torch.arange(1024) / 1024, 128, finest=64)
    likeness = torch.nn.functional.cosine_similarity(described[512], described, dim=1)
    assert likeness.argmax() == 512 and likeness[513] > 0.9 > likeness[700]


def test_words_learn_from_boxes_to_look_at_what_they_name():
    """Tokens are random; each of ten words names the token that equals its own code."""
    torch.manual_seed(0)
    grounding = WordGrounding(16, ["front"])
    words, codes = torch.randn(10, 16), torch.randn(10, 16)
    optimizer = torch.optim.Adam(grounding.parameters(), lr=0.01)

    def scene():
        order = torch.stack([torch.randperm(10)[:6] for _ in range(64)])
        asked = torch.randint(10, (64,))
        place = (order == asked[:, None]).float()
        seen = place.any(1)
        column = place.argmax(1)
        box = torch.stack([column / 6, torch.zeros(64), (column + 1) / 6, torch.ones(64)], dim=1)
        box[~seen] = torch.nan
        return words[asked][:, None], {"front": codes[order]}, box, torch.where(seen, column + 1, 0)

    for _ in range(300):
        word, visual, box, _ = scene()
        loss = grounding_loss(
            grounding(word, grounding.seen(visual))[1], torch.zeros(64, 1, dtype=torch.long), box[:, None], (1, 6)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    word, visual, _, truth = scene()
    assert (grounding(word, grounding.seen(visual))[1][:, 0].argmax(-1) == truth).float().mean() > 0.95


def test_where_nothing_is_asked_there_is_no_loss():
    log_probability = torch.randn(2, 3, 7).log_softmax(-1)
    nothing = grounding_loss(log_probability, torch.full((2, 1), -1), torch.full((2, 1, 4), torch.nan), (1, 6))
    assert nothing == 0


def test_a_place_is_chosen_when_all_places_together_are_likelier_than_any_word():
    network = tiny_policy().network
    width = network.location_ids.stop - network.location_ids.start
    bell = torch.softmax(-0.5 * ((torch.arange(width) - 300) / 12) ** 2, dim=0)
    logits = torch.full((2, network.embedding.num_embeddings), -30.0)
    logits[0, network.location_ids] = (0.7 * bell).clamp_min(1e-12).log()
    logits[0, 5] = torch.tensor(0.3).log()  # far above every single place
    logits[1, network.location_ids] = (0.2 * bell).clamp_min(1e-12).log()
    logits[1, 5] = torch.tensor(0.8).log()
    network.word_logits = lambda hidden: logits
    chosen = network.likeliest(torch.zeros(2, 1))
    assert abs(int(chosen[0]) - network.location_ids.start - 300) <= 1 and chosen[1] == 5
