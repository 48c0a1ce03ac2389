"""Language models: any causal one of `transformers`, from scratch or pretrained."""

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from vla.model.pretrained import load_pretrained, make_room


def build_language_model(
    vocab_size: int, model_type: str | None = None, pretrained: str | None = None, **config: Any
) -> Any:
    """Make any causal language model of `transformers` with room for `vocab_size` tokens."""
    if pretrained is not None:
        model = load_pretrained(AutoModelForCausalLM, pretrained, **config)
        make_room(model, vocab_size)
        return model
    if model_type is None:
        raise ValueError("a language model needs model_type (from scratch, e.g. llama) or pretrained (name or folder)")
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, vocab_size=vocab_size, **config))
