"""What a command says, and how it is told to end, whatever it was started with."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


def harmless_streams() -> None:
    """See to it that printing never raises for what is printed, nor for want of a stream.

    A character that the terminal's encoding lacks, half a character included, is written as its
    number. Streams that were closed before the start are taken by the null device; else the next
    file that is opened would get their number, and all that is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        elif mode == "w":
            with suppress(AttributeError, ValueError):  # a test's own, or closed
                stream.reconfigure(errors="backslashreplace")


def discard(stream: TextIO) -> None:
    """Let all that is still to be written to a stream go nowhere, and without a word."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def settle(*streams: TextIO) -> None:
    """Write out what is still to be written, or let it go: what fails now would fail at the end."""
    for stream in streams:
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)


@contextmanager
def terminations_interrupt() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: half-written files are removed, a run is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
