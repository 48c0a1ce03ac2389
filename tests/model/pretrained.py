"""Tiny "pretrained" parts in folders, as the hub has large ones."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

SENTENCES = ["pick up the red cube", "put the blue cube in the green bowl", "is there a red cube, yes or no"]


LLAMA = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)


def save_tokenizer(folder: Path, sentences: list[str] = SENTENCES) -> int:
    """Save a tokenizer that spells every word by its bytes; return its size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.save_pretrained(folder)
    return len(fast)


def save_language_model(folder: Path, tied: bool = True, sentences: list[str] = SENTENCES) -> Path:
    """Save a Llama of two layers with its tokenizer."""
    torch.manual_seed(1)
    rows = save_tokenizer(folder, sentences) + (0 if tied else 6)  # many have some rows more than tokens
    config = AutoConfig.for_model("llama", **LLAMA, vocab_size=rows, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def save_encoder(folder: Path) -> Path:
    """Save a DINOv2 of two layers."""
    torch.manual_seed(2)
    size = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=7)
    config = AutoConfig.for_model("dinov2", **size, use_mask_token=False)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder
