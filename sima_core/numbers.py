"""Numbers as people type them: parts that typed options are declared with."""

from typing import Annotated

from cyclopts import Parameter


def whole_number(text: str) -> int:
    """The whole number that a text says.

    Raises:
        ValueError: it says none; for the parser of the command line, which words it.
    """
    try:
        return int(text)  # cyclopts' own converter would take 12.5 for 12
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


#: An option, or a field that is one, that takes a whole number.
Whole = Annotated[int, Parameter(converter=lambda _, tokens: whole_number(tokens[-1].value))]
