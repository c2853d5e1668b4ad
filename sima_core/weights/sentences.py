"""What is said about strangers' weights: in short sentences, whatever the names in them are."""

from collections.abc import Sequence

from sima_core.errors import SimaLensError
from sima_core.words import SENTENCE, SHOWN, shown

#: Characters of the longest side of a shape that is named whole, and the most sides.
MAX_DIGITS, MAX_SIDES = 10, 4


class CheckpointError(SimaLensError, ValueError):
    """A checkpoint cannot be used; the message says why, and what to do, in one sentence or two.

    It is never longer than a sentence may be.
    """

    def __init__(self, message: str) -> None:
        short = message if len(message) <= SENTENCE else message[: SENTENCE - 1] + "…"
        super().__init__(short)


def first_names(names: list[str], count: int = 3) -> str:
    """The first few names, and how many more there are; fit for a sentence."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(shown(name, SHOWN) for name in names[:count]) + more


def shape_in_words(size: Sequence[int]) -> str:
    """Such as ``128×3``, or that it is a single number; the beginning of what is longer."""
    sides = (str(side) if side < 10**MAX_DIGITS else "…" for side in size[:MAX_SIDES])
    return ("×".join(sides) or "a single number") + "×…" * (len(size) > MAX_SIDES)
