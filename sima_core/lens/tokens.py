"""Tokens as people type them: ``3,5`` is row 3, column 5; ``2-4,6-9`` a rectangle; ``class``.

Rows and columns count from 1. Nothing here knows a model or a picture, so that whatever is typed is
refused before there is one; `tokens_in` then says what does not fit the grid.
"""

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sima_core.errors import InputError
from sima_core.numbers import MOST_NUMBERS, Whole
from sima_core.words import plain

if TYPE_CHECKING:
    from torch import Tensor

    from sima_core.lens.flow import Token

#: Rows and columns: no grid has more than an input has pixels on a side.
PLACES = Whole(1, 4096)


@dataclass(frozen=True)
class Area:
    """A rectangle of tokens, its first and last rows and columns included."""

    first_row: int
    last_row: int
    first_col: int
    last_col: int


def read_token(text: str) -> "Token":
    """The token that a text names: ``ROW,COLUMN`` or ``class``.

    Raises:
        InputError: it names none.
    """
    if text.strip() == "class":
        return "class"
    row, comma, col = text.partition(",")
    if not comma:
        raise InputError(
            f"a token is ROW,COLUMN, such as 3,5, or class; got {plain(repr(text), 20)}"
        )
    return PLACES.read(row.strip()), PLACES.read(col.strip())


def read_areas(text: str) -> tuple[Area, ...]:
    """The tokens and rectangles that a text names, with ``;`` between them: ``3,5;2-4,6-9``.

    Raises:
        InputError: it names none, or more than `MOST_NUMBERS`.
    """
    parts = text.split(";", MOST_NUMBERS)
    if len(parts) > MOST_NUMBERS:
        raise InputError(f"name at most {MOST_NUMBERS:,} tokens and rectangles")
    return tuple(map(_area, parts))


def tokens_in(areas: tuple[Area, ...], grid: tuple[int, int]) -> list[tuple[int, int]]:
    """Every token of some areas, once: (row, column), row by row.

    Args:
        grid: (rows, cols) of the tokens that there are.

    Raises:
        InputError: an area reaches beyond the grid.
    """
    import numpy as np  # not for a command's help

    named = np.zeros(grid, dtype=bool)
    for area in areas:
        place_on(grid, (area.last_row, area.last_col))
        named[area.first_row - 1 : area.last_row, area.first_col - 1 : area.last_col] = True
    return [(int(row) + 1, int(col) + 1) for row, col in np.argwhere(named)]


def place_on(grid: tuple[int, int], token: Any, instead: str = "") -> tuple[int, int]:
    """The row and column of a token on a grid, both counted from 1.

    Args:
        instead: what else may be named there, for the sentence.

    Raises:
        InputError: it is no row and column, or there is no such token.
    """
    try:
        row, col = (operator.index(number) for number in token)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"a token is (row, column), counted from 1{instead}; got {plain(repr(token))}"
        ) from None
    rows, cols = grid
    if not (1 <= row <= rows and 1 <= col <= cols):
        raise InputError(
            f"there is no token at row {plain(row)}, column {plain(col)}: the grid has {rows} "
            f"rows and {cols} columns, counted from 1"
        )
    return row, col


def grid_of(pixels: "Tensor", patch_size: int) -> tuple[int, int]:
    """(rows, cols) of the patches of a network's input."""
    height, width = pixels.shape[-2:]
    return height // patch_size, width // patch_size


def _area(text: str) -> Area:
    row, comma, col = text.partition(",")
    if not comma:
        raise InputError(
            "name tokens as ROW,COLUMN and rectangles as 2-4,6-9, with ; between them; got "
            f"{plain(repr(text), 20)}"
        )
    return Area(*_ends(row), *_ends(col))


def _ends(text: str) -> tuple[int, int]:
    """The ends of a range such as ``2-4``, or a number twice."""
    first, dash, last = text.partition("-")
    low = PLACES.read(first.strip())
    high = PLACES.read(last.strip()) if dash else low
    if high < low:
        raise InputError(f"{low}-{high} runs backwards: write {high}-{low}")
    return low, high
