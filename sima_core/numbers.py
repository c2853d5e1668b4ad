"""Numbers as people type them: parts that typed options are declared with."""

from typing import Annotated

from cyclopts import Parameter

from sima_core.errors import InputError


def whole_number(text: str) -> int:
    """The whole number that a text says.

    Raises:
        InputError: it says none.
    """
    try:
        return int(text)  # cyclopts' own converter would take 12.5 for 12
    except ValueError:
        raise InputError(f"{text!r} is no whole number") from None


def whole_numbers(text: str) -> tuple[int, ...]:
    """The whole numbers in a text such as ``96,128``.

    Raises:
        InputError: it says something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"expected whole numbers, such as 96,128: {text!r}") from None


#: An option, or a field that is one, that takes a whole number.
Whole = Annotated[int, Parameter(converter=lambda _, tokens: whole_number(tokens[-1].value))]
