"""The operator's words: written as policies read them, and refused where a policy was never taught one of them."""

from collections.abc import Callable, Sequence

UnknownWords = Callable[[str], Sequence[str]]  # of a text, those that a policy was never taught


class WordsRefusedError(ValueError):
    """These words cannot be carried out; the message says why."""


def tidy(text: str) -> str:
    """Write an instruction as the policy reads it: lower case, single spaces, nothing after the last word."""
    return " ".join(text.lower().split()).rstrip(" .!?,;")


def admit_words(text: str, unknown_words: UnknownWords | None) -> str:
    """Return the words tidied; raises WordsRefusedError where there are none, or some that are not known.

    unknown_words: asks the policy that is to read them, None where something else reads them.
    """
    tidied = tidy(text)
    if not tidied:
        raise WordsRefusedError("there are no words, so nothing to do")
    if unknown := unknown_words(tidied) if unknown_words else ():
        raise WordsRefusedError(f"the policy does not know {', '.join(f'“{word}”' for word in unknown)}")
    return tidied
