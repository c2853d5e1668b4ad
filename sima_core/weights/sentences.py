"""What is said about strangers' weights: in short sentences, whatever the names in them are."""

import re
from collections.abc import Sequence

from sima_core.errors import SimaLensError

#: Characters of the longest sentence.
MAX_SENTENCE = 200
#: Characters of the longest name inside one.
MAX_SHOWN = 60


class CheckpointError(SimaLensError, ValueError):
    """A checkpoint cannot be used; the message says why, and what to do, in one sentence or two."""

    def __init__(self, message: str) -> None:
        super().__init__(cut(message, MAX_SENTENCE))


def first_names(names: list[str], count: int = 3) -> str:
    """The first few names, and how many more there are; fit for a sentence."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(shown, names[:count])) + more


def shown(name: str, length: int = MAX_SHOWN) -> str:
    """A name from a file, made fit for a sentence: no markup, no endless line."""
    return re.sub(r"[^\w .\-/…]", "?", cut(name, length))


def printable(text: str, length: int) -> str:
    """A text from a file on one line that is not too long, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in cut(text, length))


def cut(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis, of so many characters at most."""
    return text if len(text) <= length else text[: length - 1] + "…"


def shape_in_words(size: Sequence[int]) -> str:
    """Such as ``128×3``, or that it is a single number; the beginning of what is longer."""
    words = "×".join(cut(str(side), 12) for side in size[:4]) or "a single number"
    return words + "×…" * (len(size) > 4)
