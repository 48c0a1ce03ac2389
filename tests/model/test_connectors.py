"""Connectors give the token counts that were published, in the order that was published, and know where things are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from vla.model.connectors import CONNECTORS, build_connector
from vla.model.tiling import GRIDS, Tiling, choose_tiling
from vla.model.vision import VisionTower

WIDTH = 16


def clip(side, patch):
    """CLIP's vision transformer, narrow; the second to last layer without the class token, as LLaVA takes it."""
    return dict(
        model_type="clip_vision_model",
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=patch,
        layer=-2,
        patches_only=True,
    )


@pytest.mark.parametrize(
    "side, patch, connector, count",
    [
        (336, 14, dict(name="linear"), 576),  # LLaVA
        (336, 14, dict(name="mlp"), 576),  # LLaVA-1.5
        (448, 14, dict(name="pixel_shuffle", factor=2), 256),  # InternVL 1.5
        (512, 16, dict(name="pixel_shuffle", factor=4), 64),  # SmolVLM
        (224, 14, dict(name="qformer"), 32),  # BLIP-2
        (336, 14, dict(name="perceiver"), 64),  # Flamingo
    ],
)
def test_token_counts_are_the_published_ones(side, patch, connector, count):
    tower = VisionTower(clip(side, patch), {"front": (side, side)}, WIDTH, connector)
    with torch.no_grad():
        tokens = tower({"front": torch.zeros(1, side, side, 3, dtype=torch.uint8)})
    assert tower.num_tokens == count and tokens.shape == (1, count, WIDTH)


def test_five_tiles_of_llava_next_make_2880_tokens():
    tiling = dict(tile=336, max_tokens=2880)
    tower = VisionTower(clip(336, 14), {"front": (672, 672)}, WIDTH, tiling=tiling)
    with torch.no_grad():
        tokens = tower({"front": torch.zeros(1, 672, 672, 3, dtype=torch.uint8)})
    assert tower.tilings["front"].count == 5 and tokens.shape == (1, 2880, WIDTH)


@settings(max_examples=60, deadline=None)
@given(st.integers(50, 2000), st.integers(50, 2000), st.integers(3, 5))
def test_tiles_are_those_of_llava_next_and_never_more_than_the_budget(height, width, affordable):
    chosen = choose_tiling((height, width), tile=336, tile_tokens=576, max_tokens=576 * affordable)
    small = max(height, width) <= 336  # has nothing that a tile would show better than the whole frame
    assert chosen.count <= affordable and (chosen.rows, chosen.columns) in ([(0, 0)] if small else GRIDS)
    if affordable == 5 and not small:
        pinpoints = [[rows * 336, columns * 336] for rows, columns in GRIDS]
        assert chosen.count == image_size_to_num_patches((height, width), pinpoints, 336)


def test_a_budget_without_room_for_tiles_says_what_is_needed():
    with pytest.raises(ValueError, match="need 1728"):
        choose_tiling((672, 672), tile=336, tile_tokens=576, max_tokens=1000)


def test_a_frame_as_large_as_a_tile_is_seen_once():
    tiling = dict(tile=28, max_tokens=12)
    tower = VisionTower(clip(28, 14), {"front": (28, 56), "wrist": (28, 28)}, WIDTH, tiling=tiling)
    frames = {name: torch.zeros(1, *size, 3, dtype=torch.uint8) for name, size in tower.cameras.items()}
    with torch.no_grad():
        assert tower.tokens == {"front": 12, "wrist": 4} and tower(frames).shape == (1, 16, WIDTH)


def test_tiles_show_their_part_and_the_first_one_everything():
    quadrants = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).repeat_interleave(8, 0).repeat_interleave(8, 1)
    whole, *tiles = Tiling(tile=8, rows=2, columns=2).cut(quadrants.expand(1, 3, 16, 16))[0]
    for tile, value in zip(tiles, (0.1, 0.2, 0.3, 0.4), strict=True):
        assert tile.mean().item() == pytest.approx(value, abs=0.02)
    assert whole.mean().item() == pytest.approx(0.25, abs=0.01)


def test_tiles_keep_the_proportions_of_the_frame():
    """A frame of 1:2 in a square of tiles has black above and below, and none of it is lost."""
    cut = Tiling(tile=8, rows=2, columns=2).cut(torch.ones(1, 3, 8, 16))[0, 1:]
    assert (cut[:2, :, :4] == -1).all() and (cut[2:, :, 4:] == -1).all()
    assert (cut[:2, :, 4:] == 1).all() and (cut[2:, :, :4] == 1).all()


def test_pixel_shuffle_takes_neighbours_in_the_order_of_idefics3(monkeypatch):
    connector = build_connector(3, WIDTH, "pixel_shuffle", factor=2)
    monkeypatch.setattr(connector.project, "forward", lambda features, grid: features)
    features = torch.randn(2, 36, 3)
    expected = Idefics3Connector.pixel_shuffle(connector, features, 2)
    assert torch.equal(connector(features, (6, 6)), expected)


@pytest.mark.parametrize("name", CONNECTORS)
def test_tokens_tell_where_something_is(name):
    """The encoder says what is in each patch and not where: the same patch elsewhere gives other tokens in all."""
    torch.manual_seed(0)
    tower = VisionTower(dict(model_type="patches", patch_size=8), {"front": (16, 32)}, WIDTH, dict(name=name))
    frames, thing = torch.zeros(2, 16, 32, 3, dtype=torch.uint8), torch.randint(256, (8, 8, 3), dtype=torch.uint8)
    frames[0, :8, :8], frames[1, 8:, 24:] = thing, thing
    with torch.no_grad():
        tokens = tower({"front": frames})
        assert (tokens[0] - tokens[1]).abs().max() > 1e-4
        for position in tower.position.values():
            position.zero_()
        placeless = tower({"front": frames})
    if CONNECTORS[name].resamples:  # what learned queries find does not depend on the order of what they look at
        torch.testing.assert_close(placeless[0], placeless[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CONNECTORS)
def test_every_weight_of_a_connector_learns(name):
    torch.manual_seed(0)
    connector = build_connector(12, WIDTH, name)
    connector(torch.randn(3, 8, 12), (2, 4)).square().mul(torch.rand(WIDTH)).sum().backward()
    still = [name for name, weight in connector.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not [weight for weight in still if not weight.endswith("key.bias")]  # softmax does not see the bias of keys


def test_what_cannot_be_is_refused_with_what_can():
    with pytest.raises(ValueError, match="'attention' is not known, possible: linear, mlp"):
        build_connector(8, WIDTH, "attention")
    with pytest.raises(ValueError, match="3 x 4 features cannot be shuffled in blocks of 2"):
        build_connector(8, WIDTH, "pixel_shuffle")(torch.zeros(1, 12, 8), (3, 4))
    with pytest.raises(ValueError, match="patches_only=true"):
        encoder = clip(32, 8) | dict(patches_only=False)
        VisionTower(encoder, {"front": (32, 32)}, WIDTH, dict(name="pixel_shuffle"))
