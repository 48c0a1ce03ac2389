"""Every family of vision encoders goes in by name, sees frames of any shape, and says where things are."""

import pytest
import torch
from transformers import AutoConfig, AutoModel
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

from vla.model.encoders import build_encoder, features
from vla.model.vision import VisionTower

WIDTH = 16
VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
FAMILIES = {  # name -> configuration, tokens of a frame of 32 x 64 pixels, tokens that are no patch
    "siglip_vision_model": (VIT | dict(intermediate_size=16), 32, 0),
    "siglip2_vision_model": (VIT | dict(intermediate_size=16, num_patches=16), 32, 0),
    "clip_vision_model": (VIT | dict(intermediate_size=16), 33, 1),
    "vit": (VIT | dict(intermediate_size=16), 33, 1),
    "dinov2": (VIT | dict(mlp_ratio=1), 33, 1),
    "dinov2_with_registers": (VIT | dict(mlp_ratio=1), 37, 5),
    "dinov3_vit": (VIT | dict(intermediate_size=16, num_register_tokens=4), 37, 5),
    "convnext": (dict(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2), 32, 0),
    "resnet": (dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"), 32, 0),
    "conv_stem": (dict(hidden_sizes=[8, 16, 16], depths=[0, 0, 0]), 32, 0),
}
MAPS = ("convnext", "resnet", "conv_stem")  # give rows and columns unasked
FUSED = [  # OpenVLA's pair and its second to last layers, tiny, each at a size and with colours of its own
    dict(model_type="dinov2_with_registers", **FAMILIES["dinov2_with_registers"][0], layer=-2, size=[32, 32]),
    dict(model_type="siglip_vision_model", **FAMILIES["siglip_vision_model"][0], layer=-2, size=[32, 32]),
]


@pytest.mark.parametrize("patches_only", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_family_gives_its_tokens_of_a_wide_frame(name, patches_only):
    config, count, others = FAMILIES[name]
    torch.manual_seed(0)
    tower = VisionTower(dict(model_type=name, **config, patches_only=patches_only), {"front": (32, 64)}, WIDTH).eval()
    tokens = tower({"front": torch.randint(256, (2, 32, 64, 3), dtype=torch.uint8)})
    assert tokens.shape == (2, count - others * patches_only, WIDTH) and tokens.isfinite().all()
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3
    assert list(tower.grids) == ["front"] * (patches_only or name in MAPS)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "siglip" in name or name == "clip_vision_model"])
def test_of_two_towers_in_a_folder_the_one_that_sees_is_taken(name, tmp_path):
    towers = name.removesuffix("_vision_model")
    text = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    config = AutoConfig.for_model(towers, vision_config=FAMILIES[name][0], text_config=text)
    whole = AutoModel.from_config(config)
    whole.save_pretrained(tmp_path)
    encoder = build_encoder(pretrained=str(tmp_path)).eval()
    assert not any("text" in weight for weight, _ in encoder.named_parameters())
    mine, theirs = encoder.state_dict().values(), whole.vision_model.state_dict().values()
    assert all(torch.equal(*pair) for pair in zip(mine, theirs, strict=True))


@torch.no_grad()
def test_siglip2_sees_patches_as_its_own_processor_cuts_them():
    encoder = build_encoder("siglip2_vision_model", **FAMILIES["siglip2_vision_model"][0]).eval()
    frame = torch.randn(1, 3, 16, 40)
    patches = torch.from_numpy(convert_image_to_patches(frame[0].numpy(), 8))[None]
    shapes, everything = torch.tensor([[2, 5]]), torch.ones(1, 10, dtype=torch.long)
    expected = encoder.model(patches, pixel_attention_mask=everything, spatial_shapes=shapes).last_hidden_state
    torch.testing.assert_close(features(encoder, frame, patches_only=True).flatten(2).transpose(1, 2), expected)


@torch.no_grad()
def test_fused_features_are_those_of_each_part_at_its_size_and_colours():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    fused = build_encoder(parts=[FUSED[0] | dict(mean=mean, std=std), FUSED[1]]).eval()
    colours = torch.rand(2, 3, 32, 32)
    seen = fused(pixel_values=colours * 2 - 1).last_hidden_state
    normal = (colours - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    dino, siglip = fused.encoders
    dino._forward_pre_hooks.clear()  # which changes the colours
    ours = dino(normal, output_hidden_states=True).hidden_states[-2][:, 5:]
    theirs = siglip(colours * 2 - 1, output_hidden_states=True).hidden_states[-2]
    expected = torch.cat([ours, theirs], dim=-1).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_fused_tower_sees_a_wide_frame_in_squares_and_every_part_counts():
    torch.manual_seed(0)
    tower = VisionTower(dict(parts=FUSED), {"front": (48, 96)}, WIDTH, dict(name="pixel_shuffle")).eval()
    frame = {"front": torch.randint(256, (1, 48, 96, 3), dtype=torch.uint8)}
    tokens = tower(frame)
    assert tokens.shape == (1, 4, WIDTH) and tower.grids == {"front": (2, 2)}
    for encoder in tower.encoder.encoders:
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
        assert (tower(frame) - tokens).abs().max() > 1e-3
        tokens = tower(frame)


def test_parts_that_do_not_fit_are_refused_with_what_to_do():
    coarse = FUSED[1] | dict(size=[64, 32])
    with pytest.raises(ValueError, match="see 4 x 4 and 8 x 4 patches: give each a size"):
        VisionTower(dict(parts=[FUSED[0], coarse]), {"front": (32, 32)}, WIDTH)
    with pytest.raises(ValueError, match="two parts or more, got 1"):
        build_encoder(parts=FUSED[:1])
    with pytest.raises(ValueError, match="mean and std together"):
        build_encoder("vit", mean=[0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"parts and nothing else, got \['hidden_size'\]"):
        build_encoder(parts=FUSED, hidden_size=8)
