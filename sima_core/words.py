"""A stranger's text made fit for a sentence or a line: nothing that steers a terminal, and short.

Names of files, what was typed, names inside weights and lists: anybody may have written them.
"""

import re

#: Characters of a stranger's text that a sentence repeats at most, and of a sentence.
SHOWN, SENTENCE = 60, 200


def plain(text: object, length: int = SHOWN) -> str:
    """The text in one line of printable characters, cut in its middle.

    Control characters, escapes, line breaks, marks that turn the direction of writing and halves of
    characters (names that are no UTF-8) become question marks.
    """
    try:
        found = str(text)
    except ValueError:  # a number of more than 4,300 digits
        found = "…"
    if len(found) > length:
        end = (length - 1) // 2
        found = f"{found[: length - 1 - end]}…{found[len(found) - end :]}"
    return "".join(character if character.isprintable() else "?" for character in found)


def in_powers(value: float) -> str:
    """A small number as people write it, to one digit: ``2e-7``."""
    digit, _, power = f"{value:.0e}".partition("e")
    return f"{digit}e{int(power)}" if value else "0"


def shown(name: str, length: int = 80) -> str:
    """A name from a file, made fit for a sentence on a page too: no markup, no endless line."""
    safe = re.sub(r"[^\w .\-/]", "?", name[: length + 1])
    return safe if len(safe) <= length else safe[:length] + "…"


def printable(name: str) -> str:
    """A whole name for files and messages: what is no UTF-8 or steers a terminal is U+FFFD."""
    return "".join(character if character.isprintable() else "\ufffd" for character in name)
