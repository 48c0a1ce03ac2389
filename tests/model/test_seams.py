"""Any vision encoder and any causal language model of transformers goes in by name or from a folder."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from tests.model.tiny import tiny_config, tiny_processor
from vla.model.network import Network, build_language_model
from vla.model.vision import build_encoder

ENCODERS = {
    "conv_stem": dict(hidden_sizes=[8, 16, 16], depths=[0, 1, 1]),
    "resnet": dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "vit": dict(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    ),
    "dinov2": dict(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1, image_size=32, patch_size=8
    ),
    "siglip_vision_model": dict(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    ),
}
LANGUAGE_MODELS = {
    "gpt2": dict(n_embd=32, n_layer=1, n_head=2, n_inner=32, n_positions=96),
    "llama": dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
    "qwen2": dict(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32
    ),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("language", LANGUAGE_MODELS)
def test_every_pair_gives_actions_and_words(encoder, language):
    processor = tiny_processor()
    config = tiny_config(processor.tokenizer)
    config |= dict(
        vision=dict(model_type=encoder, **ENCODERS[encoder]),
        language=dict(model_type=language, tie_word_embeddings=True, **LANGUAGE_MODELS[language]),
        cameras={"wrist": [32, 32]},
    )
    network = Network(**config).eval()
    images = {"wrist": torch.randint(0, 255, (2, 32, 32, 3), dtype=torch.uint8)}
    ids, mask = processor.prompts(["pick up the red cube", "is there"])
    with torch.no_grad():
        outputs = network(images, ids, mask, torch.zeros(2, 3), torch.zeros(2, 4, 3), torch.zeros(2, dtype=torch.long))
        answer = network.generate(images, ids, mask, 3, eos=-1, pad=0)
    assert outputs.action_hidden.shape == (2, 5, 32) and outputs.action_hidden.isfinite().all()
    assert answer.shape == (2, 3)


def test_pretrained_parts_come_from_a_folder_with_their_weights(tmp_path):
    encoder = AutoModel.from_config(AutoConfig.for_model("vit", **ENCODERS["vit"]))
    encoder.save_pretrained(tmp_path / "vision")
    same = build_encoder(pretrained=str(tmp_path / "vision"))
    assert torch.equal(next(encoder.parameters()), next(same.parameters()))
    language = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", vocab_size=64, **LANGUAGE_MODELS["llama"])
    )
    language.save_pretrained(tmp_path / "language")
    grown = build_language_model(100, pretrained=str(tmp_path / "language"))
    assert grown.get_input_embeddings().weight.shape[0] == 100
    assert torch.equal(grown.get_input_embeddings().weight[:64], language.get_input_embeddings().weight)


@pytest.mark.parametrize("build", [build_encoder, lambda: build_language_model(10)])
def test_neither_type_nor_weights_says_what_to_give(build):
    with pytest.raises(ValueError, match="needs model_type"):
        build()
