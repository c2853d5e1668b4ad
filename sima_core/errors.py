"""What this program says to people when something cannot be done.

Everything that is raised for people derives from `SimaLensError`: the command line and the page
catch that one class, each in one place, so that a stranger's `ValueError` is never shown as if it
were a sentence of ours.
"""


class SimaLensError(Exception):
    """Something cannot be done; the message is a sentence for people that says what to do."""


class InputError(SimaLensError, ValueError):
    """An argument cannot be used: a layer that does not exist, a resolution below a patch, …"""


class DiskError(SimaLensError, OSError):
    """A file cannot be written, or not whole; the message says why, without a path."""


class UnreadableError(SimaLensError, OSError):
    """A file cannot be opened; the message says why in a sentence, without a path."""


class MissingExtraError(SimaLensError, ImportError):
    """Packages are not installed that only a part of this program needs."""

    def __init__(self, extra: str) -> None:
        super().__init__(
            f"this needs packages that are not installed here: pip install 'sima-lens[{extra}]'"
        )
