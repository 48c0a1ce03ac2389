"""One vocabulary for everything the model says: words, 256 action bins and 1024 image locations.

Words come from the training text, so a word that was never taught maps to `<unk>` and can be named to the user. A
pretrained language model keeps its own tokenizer, which can spell every word: there the words of the training text are
kept beside it.
"""

import re
from collections.abc import Container, Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vla.model.wheels import located

ACTION_BINS = 256
LOCATIONS = 1024
SPECIALS = ["<pad>", "<unk>", "<eos>"]
ACTION_TOKENS = [f"<act{i:03d}>" for i in range(ACTION_BINS)]
LOCATION_TOKENS = [f"<loc{i:04d}>" for i in range(LOCATIONS)]

_BOX = re.compile(r"<box (\d+) (\d+) (\d+) (\d+)>")
_LOCATIONS = re.compile(r"(?:<loc\d{4}> ?){3}<loc\d{4}>")


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a word-level tokenizer that knows every word of `texts`, then the action bins, then the locations."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator((_BOX.sub(" ", text) for text in texts), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", padding_side="left"
    )
    add_action_and_location_tokens(fast)
    return fast


def pretrained_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Take the tokenizer of a pretrained language model, by its name or folder, and append action bins and locations.

    It reads lower case, as `build_tokenizer` does, and fills up with a token of its own. Raises ValueError for a
    tokenizer that is not of the library `tokenizers`.
    """
    own = AutoTokenizer.from_pretrained(located(name))
    if not isinstance(own, PreTrainedTokenizerFast):
        raise ValueError(f"{name} has a {type(own).__name__}: only those that have a tokenizer.json can be stored")
    reading = [own.backend_tokenizer.normalizer, normalizers.Lowercase()]
    own.backend_tokenizer.normalizer = normalizers.Sequence([step for step in reading if step is not None])
    fast = PreTrainedTokenizerFast(tokenizer_object=own.backend_tokenizer, padding_side="left", unk_token=own.unk_token)
    add_action_and_location_tokens(fast)  # first, so that nothing new comes before them
    fast.add_special_tokens({"pad_token": "<pad>", "eos_token": str(own.eos_token or "<eos>")})
    return fast


def add_action_and_location_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """Append the 256 action bins and 1024 locations to any tokenizer, each as one token."""
    tokenizer.add_tokens([*ACTION_TOKENS, *LOCATION_TOKENS], special_tokens=True)


def boxes_to_tokens(text: str) -> str:
    """Write each `<box x0 y0 x1 y1>` (0..1023 of width and height) as four location tokens."""
    return _BOX.sub(lambda box: "".join(LOCATION_TOKENS[int(value)] for value in box.groups()), text)


def tokens_to_boxes(text: str) -> str:
    """Invert `boxes_to_tokens`; fewer than four locations in a row stay as they are."""
    return _LOCATIONS.sub(
        lambda found: f"<box {' '.join(str(int(v)) for v in re.findall(r'[0-9]{4}', found[0]))}>", text
    )


def read_box(text: str) -> tuple[int, int, int, int] | None:
    """Read `<box x0 y0 x1 y1>`, 0..1023 of width and height; None where it is not a box with its corners in order."""
    found = _BOX.fullmatch(text.strip())
    if found is None:
        return None
    x0, y0, x1, y1 = (int(value) for value in found.groups())
    return (x0, y0, x1, y1) if x0 <= x1 < LOCATIONS and y0 <= y1 < LOCATIONS else None


def words_of(text: str) -> list[str]:
    """Cut a text into words and signs, in lower case."""
    return [word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(_BOX.sub(" ", text).lower())]


def unknown_words(taught: Container[str], text: str) -> list[str]:
    """The words of `text` that the model was never taught, in order, each once."""
    return list(dict.fromkeys(word for word in words_of(text) if word not in taught))
