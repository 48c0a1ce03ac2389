"""Whole image-text-to-text models under the same policy class: they learn, are saved, and come back as they were."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.model.pretrained import LLAMA, save_tokenizer
from tests.model.tiny import observation, tiny_config, tiny_processor
from vla.model import attention, checkpoint
from vla.model.foundation import Foundation, to_store
from vla.model.network import Network
from vla.model.policy import VLAPolicy
from vla.model.processor import Processor, pad
from vla.model.vocabulary import pretrained_tokenizer
from vla.model.whole import FAMILIES, build_whole, spatial_positions
from vla.train.batch import Batch
from vla.train.objective import losses
from vla.train.optimizer import Average, build_optimizer
from vla.train.stages import prepare

TEXT = LLAMA | dict(head_dim=8, tie_word_embeddings=True)
EYES = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
)
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
MERGING = dict(depth=2, num_heads=2, patch_size=8, spatial_merge_size=2, temporal_patch_size=2)
WHOLE = {
    "smolvlm": dict(scale_factor=2, pad_token_id=0, vision_config=EYES, text_config=TEXT | {"model_type": "llama"}),
    "idefics3": dict(scale_factor=2, pad_token_id=0, vision_config=EYES, text_config=TEXT | {"model_type": "llama"}),
    "paligemma": dict(
        projection_dim=32,
        vision_config=EYES | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=TEXT | {"model_type": "gemma"},
    ),
    "llava": dict(vision_config=EYES | {"model_type": "clip_vision_model"}, text_config=TEXT | {"model_type": "llama"}),
    "llava_next": dict(
        image_grid_pinpoints=[[64, 64]],
        vision_config=EYES | {"model_type": "clip_vision_model"},
        text_config=TEXT | {"model_type": "llama"},
    ),
    "qwen2_vl": dict(
        vision_config=dict(MERGING, embed_dim=16, hidden_size=32, mlp_ratio=2),
        text_config=TEXT | {"rope_parameters": MROPE},
    ),
    "qwen2_5_vl": dict(
        vision_config=dict(
            MERGING, hidden_size=16, out_hidden_size=32, intermediate_size=24, window_size=32, fullatt_block_indexes=[1]
        ),
        text_config=TEXT | {"rope_parameters": MROPE},
    ),
    "qwen3_vl": dict(
        vision_config=dict(
            MERGING,
            hidden_size=16,
            out_hidden_size=32,
            intermediate_size=24,
            deepstack_visual_indexes=[0],
            num_position_embeddings=16,
        ),
        text_config=TEXT | {"rope_parameters": MROPE | {"mrope_interleaved": True}},
    ),
}
CAMERAS = {"front": (32, 32), "wrist": (32, 32)}
SETTINGS = dict(sigma_bins=1.5, location_sigma=12.0, augmentation=0.0, state_noise=0.0)


def whole_config(processor, whole):
    config = tiny_config(processor.tokenizer) | {"vision": None, "language": None, "whole": whole}
    return config | {"cameras": {name: list(size) for name, size in CAMERAS.items()}}


def tiny_whole(family):
    plain = tiny_processor()
    processor = Processor(plain.embodiment, CAMERAS, plain.codec, plain.tokenizer, plain.max_text_tokens)
    config = whole_config(processor, {"model_type": family, **WHOLE[family]})
    torch.manual_seed(0)
    return VLAPolicy(Network(**config), processor), config


def batch(processor, size=4):
    """Return a batch of noise with an instruction, a question and a thing that is named."""
    rng = np.random.default_rng(0)
    images = {n: torch.from_numpy(rng.integers(0, 255, (size, *s, 3), dtype=np.uint8)) for n, s in CAMERAS.items()}
    state = torch.from_numpy(rng.uniform([-1, -1, 0], [1, 1, 1], (size, 3)).astype(np.float32))
    text_ids, text_mask = processor.text(["pick up the red cube"] * size)
    question, answer = processor.tokenize("is there a red cube"), [*processor.tokenize("cube"), processor.eos_id]
    question_ids, question_mask = pad([question + answer] * size, processor.pad_id)
    return Batch(
        kind="short",
        images=images,
        text_ids=text_ids,
        text_mask=text_mask,
        state=state,
        actions=state[:, None] + 0.05 * torch.arange(4)[:, None],
        counts=torch.ones(size, 4, dtype=torch.bool),
        given_steps=torch.zeros(size, dtype=torch.long),
        progress=torch.full((size,), 0.5),
        done=torch.zeros(size),
        question_ids=question_ids,
        question_mask=question_mask,
        question_labels=pad([[-100] * len(question) + answer] * size, -100)[0],
        named_ids=text_ids,
        named_at=torch.full((size, 1), 3),
        named_box=torch.tensor([[[0.1, 0.1, 0.3, 0.3]]]).expand(size, -1, -1),
    )


def total_loss(policy, example):
    generator = torch.Generator().manual_seed(0)
    parts = losses(policy.network, policy.processor, example, generator=generator, **SETTINGS)
    return torch.stack(list(parts.values())).sum()


def chunk(policy):
    return policy.act([observation()])[0].actions


ALSO = ("llava", "qwen2_vl", "qwen3_vl")  # of the same code as another


@pytest.mark.parametrize("family", [pytest.param(f, marks=[pytest.mark.slow] * (f in ALSO)) for f in FAMILIES])
def test_a_whole_model_learns_and_comes_back_as_it_was(family, tmp_path):
    policy, config = tiny_whole(family)
    example = batch(policy.processor)
    optimizer = build_optimizer(policy.network, 3e-3, 0.0)
    values = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = total_loss(policy, example)
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[2] < values[1] < values[0]
    unused = {name for name, parameter in policy.network.named_parameters() if parameter.grad is None}
    assert not {name for name in unused if not name.startswith("vision.encoder.vision.")}
    checkpoint.save(tmp_path / family, config, policy.network.state_dict(), policy.processor, {})
    loaded = checkpoint.load(tmp_path / family)
    np.testing.assert_array_equal(chunk(loaded), chunk(policy))
    assert loaded.generate([observation()], ["is there"], 4) == policy.generate([observation()], ["is there"], 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_visual_tokens_are_those_of_the_model_itself(family):
    """Those of its own `get_image_features`; of LLaVA-NeXT, which always adds tiles, the frame's."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **WHOLE[family] | {"text_config": TEXT | WHOLE[family]["text_config"]})
    model = AutoModelForImageTextToText.from_config(config).eval()
    kind, _ = FAMILIES[family]
    pixels = torch.randn(2, 3, 32, 32)
    given, more = pixels, {}
    if family in ("smolvlm", "idefics3"):
        given = pixels[:, None]
    elif family == "llava_next":
        given, more = torch.cat([pixels[:, None], torch.randn(2, 4, 3, 32, 32)], dim=1), {"image_sizes": [[64, 64]] * 2}
    elif family.startswith("qwen"):
        given, more = patches_one_by_one(pixels), {"image_grid_thw": torch.tensor([[1, 4, 4]] * 2)}
    with torch.no_grad():
        theirs = model.get_image_features(given, **more).pooler_output
        ours = kind(model.model).eval()(pixel_values=pixels).last_hidden_state.flatten(2).transpose(1, 2)
    theirs = [image[: ours.shape[1]] for image in theirs]
    torch.testing.assert_close(ours, torch.stack(theirs), atol=1e-5, rtol=1e-4)


def patches_one_by_one(pixels, side=8, merge=2):
    """Cut frames as the Qwens' processor says: blocks by rows, in each its patches by rows, each twice over time."""
    rows = []
    for image in pixels:
        for block_row in range(0, image.shape[1], side * merge):
            for block_column in range(0, image.shape[2], side * merge):
                for row in range(block_row, block_row + side * merge, side):
                    for column in range(block_column, block_column + side * merge, side):
                        patch = image[:, row : row + side, column : column + side]
                        rows.append(torch.stack([patch, patch], dim=1).flatten())
    return torch.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_frames_and_words_are_read_as_the_model_reads_them(family):
    """All in order, as its language model does by itself; of PaliGemma the frames at once."""
    network = tiny_whole(family)[0].network.eval()
    visual, words = network.vision.num_tokens, 5
    embeddings = 0.3 * torch.randn(2, visual + words, network.embedding.embedding_dim)
    kinds = torch.tensor([attention.IMAGE] * visual + [attention.TEXT] * words)
    positions = torch.arange(visual + words)
    ours = network.run(embeddings, kinds, torch.ones(2, visual + words, dtype=torch.bool), positions)
    sees = torch.ones(visual + words, visual + words, dtype=torch.bool).tril()
    if family == "paligemma":
        sees[:visual, :visual] = True
    given = {"attention_mask": sees.expand(2, 1, -1, -1)} if family == "paligemma" else {}
    theirs = network.language.base_model(inputs_embeds=embeddings, position_ids=positions.expand(2, -1), **given)
    torch.testing.assert_close(ours, theirs.last_hidden_state, atol=1e-5, rtol=1e-4)


def test_qwen_gets_positions_in_rows_and_columns():
    policy, _ = tiny_whole("qwen2_5_vl")
    places, end = spatial_positions(policy.network.vision)
    assert (
        places.tolist() == [[0, 0, 0, 0, 2, 2, 2, 2], [0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3]] and end == 4
    )
    taken = []
    text = policy.network.language.model
    text.rotary_emb.register_forward_pre_hook(lambda module, arguments: taken.append(arguments[1]))
    chunk(policy)
    assert torch.equal(taken[0][:, 0, :8], places)
    assert taken[0][:, 0, 8].tolist() == [4, 4, 4]  # the first word follows the largest of them


def test_qwen_gets_them_for_earlier_frames_too():
    _, config = tiny_whole("qwen2_5_vl")
    torch.manual_seed(0)
    network = Network(**config | {"history": {"frames": 1, "stride": 2}})
    places, end = spatial_positions(network.vision)
    assert places.shape[1] == network.vision.num_tokens == 16 and end == 8
    assert places[:, 4:8].tolist() == [[2] * 4, [2, 2, 3, 3], [2, 3, 2, 3]]  # the front camera's earlier frame


def test_adapters_on_a_pretrained_whole_model_are_stored_beside_it(tmp_path):
    model = AutoModelForImageTextToText.from_config(
        AutoConfig.for_model(
            "smolvlm", **WHOLE["smolvlm"] | {"text_config": TEXT | {"vocab_size": 420, "model_type": "llama"}}
        )
    )
    model.save_pretrained(tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    (tmp_path / "base" / "preprocessor_config.json").write_text(
        '{"image_processor_type": "SmolVLMImageProcessor", "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}'
    )
    plain = tiny_processor()
    tokenizer = pretrained_tokenizer(str(tmp_path / "base"))
    processor = Processor(plain.embodiment, CAMERAS, plain.codec, tokenizer, 32, taught=frozenset({"red"}))
    config = whole_config(processor, {"pretrained": str(tmp_path / "base")})
    network = Network(**config)
    assert network.vision.encoder.colours == {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    policy, foundation = VLAPolicy(network, processor), Foundation.of(network, config)
    prepare(network, {}, {"parts": ["vision", "language"], "rank": 2, "alpha": 4})
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    build, weights, base = to_store(network, Average(network, 0.9).weights, config, foundation)
    checkpoint.save(tmp_path / "tuned", build, weights, processor, {}, base=base)
    assert base is not None and set(base) == {"whole"}
    assert chunk(checkpoint.load(tmp_path / "tuned")) == pytest.approx(chunk(policy), abs=1e-4)
    build, weights, base = to_store(network, Average(network, 0.9).weights, config, Foundation())
    checkpoint.save(tmp_path / "merged", build, weights, processor, {}, base=base)
    assert base is None and "pretrained" not in build["whole"]
    assert chunk(checkpoint.load(tmp_path / "merged")) == pytest.approx(chunk(policy), abs=1e-4)


def test_what_does_not_fit_is_refused():
    _, config = tiny_whole("llava")
    with pytest.raises(ValueError, match=r"takes frames of 32 x 32 pixels, got 48 x 32: .*tile: 32"):
        Network(**config | {"cameras": {"front": [48, 32]}})
    for family, size, said in [("smolvlm", [32, 48], "square frames"), ("qwen3_vl", [32, 40], "multiples of 16")]:
        whole = {"model_type": family, **WHOLE[family]}
        with pytest.raises(ValueError, match=said):
            Network(**config | {"cameras": {"front": size}, "whole": whole})
    with pytest.raises(ValueError, match="brings vision, language and connector along"):
        Network(**config | {"connector": {"name": "mlp"}})
    with pytest.raises(ValueError, match="type blip-2 are not known, possible: smolvlm"):
        build_whole(100, "blip-2")
    with pytest.raises(ValueError, match="needs model_type"):
        build_whole(100)
    with pytest.raises(ValueError, match=r"mean and std together, got mean=\[0.4, 0.5, 0.6\], std=None"):
        build_whole(100, "llava", mean=[0.4, 0.5, 0.6], **WHOLE["llava"])


def test_tiles_are_looked_at_by_a_model_of_one_size():
    _, config = tiny_whole("llava_next")
    network = Network(**config | {"cameras": {"front": [64, 64]}, "tiling": {"tile": 32, "max_tokens": 80}})
    assert network.vision.num_tokens == 5 * 16
