"""What is said, and what is logged, where something goes wrong that should not."""

import sys
import traceback

from sima_core.files import is_full
from sima_core.words import plain

#: The sentence for whoever asked; what happened is for the log alone.
SENTENCE = "Something went wrong here that should not have: try again, and report it if it stays."
_FULL = "There is no room left on this server: try again later."

#: Of one mishap the log keeps so many frames, and so many characters of a line and of them all:
#: an exception may carry whatever a stranger sent.
_FRAMES, _LINE, _ALL = 12, 300, 8000


def sentence(error: BaseException) -> str:
    """What is said to whoever asked; a library may have wrapped what happened."""
    cause = error.__cause__ or error
    return _FULL if isinstance(cause, OSError) and is_full(cause) else SENTENCE


def note(error: BaseException, brief: bool = False) -> None:
    """Log an exception: the end of its traceback, cut, made plain.

    Args:
        brief: only its kind, where nothing has to be mended here.
    """
    if brief:
        print(f"could not be served: {type(error).__name__}", file=sys.stderr)
        return
    lines = "".join(traceback.format_exception(error, limit=-_FRAMES, chain=False)).splitlines()
    print("\n".join(plain(line, _LINE) for line in lines)[-_ALL:], file=sys.stderr)
