"""Numbers as people type them: what typed options are declared with, and the bounds of each.

Nobody computes with a number that is out of bounds: the parser refuses it, and says the bounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter, Token

from sima_core.errors import InputError
from sima_core.words import plain

#: Digits of the longest number that is looked at, and numbers of the longest list.
_MOST_DIGITS, MOST_NUMBERS = 40, 1000


@dataclass(frozen=True)
class Whole:
    """Whole numbers from `low` to `high`."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"a whole number from {self.low:,} to {self.high:,}"

    def read(self, text: str) -> int:
        """The number that a text says.

        Raises:
            InputError: it says none, or one that is out of bounds.
        """
        try:
            number = int(text[: _MOST_DIGITS + 1])  # cyclopts' own converter would take 12.5 for 12
        except ValueError:
            raise InputError(f"{plain(text, 20)!r} is no whole number: give {self}") from None
        if len(text) > _MOST_DIGITS or not self.low <= number <= self.high:
            raise InputError(f"expected {self}; got {plain(text, 20)!r}")
        return number

    def read_list(self, text: str) -> tuple[int, ...]:
        """The numbers in a text such as ``96,128``.

        Raises:
            InputError: as `read`; or there are more than `MOST_NUMBERS`.
        """
        parts = text.split(",", MOST_NUMBERS)
        if len(parts) > MOST_NUMBERS:
            raise InputError(f"a list takes at most {MOST_NUMBERS:,} numbers")
        return tuple(map(self.read, parts))


@dataclass(frozen=True)
class Real:
    """Numbers from `low` to `high`; neither infinity nor NaN is one."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"a number from {self.low:,} to {self.high:,}"

    def read(self, text: str) -> float:
        """The number that a text says.

        Raises:
            InputError: it says none, or one that is out of bounds.
        """
        try:
            number = float(text) if len(text) <= _MOST_DIGITS else math.nan
        except ValueError:
            raise InputError(f"{plain(text, 20)!r} is no number: give {self}") from None
        if not self.low <= number <= self.high:
            raise InputError(f"expected {self}; got {plain(text, 20)!r}")
        return number


def option(bounds: Whole | Real) -> Parameter:
    """What makes an option, or a field that is one, take a number within bounds."""

    def convert(_: Any, tokens: Sequence[Token]) -> float:
        return bounds.read(tokens[-1].value)

    return Parameter(converter=convert)


#: Layers and heads of a model.
LAYERS = Whole(-999, 999)
#: Sides of a network's input in pixels; the largest input is about a square of the highest.
SIDES = Whole(1, 4096)
#: Sides that are trained and measured at, which are multiples of 32.
TRAINED_SIDES = Whole(32, 4096)
#: Ids of pictures: COCO's file names have twelve digits.
IDS = Whole(0, 10**12 - 1)
#: Seeds that every generator of random numbers takes.
SEEDS = Whole(0, 2**32 - 1)

#: How many pictures.
Count = Annotated[int, option(Whole(1, 10_000_000))]
#: For timing; fewer seconds than the least tell nothing.
Seconds = Annotated[float, option(Real(0.001, 3600))]
#: Of training.
Minutes = Annotated[float, option(Real(0.01, 100_000))]
Epochs = Annotated[float, option(Real(0.001, 10_000))]
Share = Annotated[float, option(Real(0, 1))]
