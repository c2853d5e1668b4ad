"""What the tests have a sandbox do."""

import ctypes
import os
import time
from typing import Any, BinaryIO

from sima_core.sandbox.child import be_done_within


def echo(source: BinaryIO, out: BinaryIO, **arguments: Any) -> dict[str, Any]:
    out.write(source.read())
    return arguments


def spin(source: BinaryIO, out: BinaryIO) -> None:
    while True:
        pass


def spin_briefly(source: BinaryIO, out: BinaryIO) -> None:
    be_done_within(0.3)
    be_done_within(60)  # an earlier end stays
    spin(source, out)


def cut_later(source: BinaryIO, out: BinaryIO) -> None:
    """As if it were somebody else's: goes on after its answer, and cuts what was handed over."""
    out.write(source.read())
    kept = os.dup(out.fileno())
    if os.fork() == 0:
        time.sleep(0.2)
        os.ftruncate(kept, 0)
        os._exit(0)


def eat(source: BinaryIO, out: BinaryIO) -> int:
    return len([bytes([i]) * 10**7 for i in range(100)])


def crash(source: BinaryIO, out: BinaryIO) -> None:
    ctypes.string_at(0)


def fail(source: BinaryIO, out: BinaryIO) -> None:
    raise KeyError


def flood(source: BinaryIO, out: BinaryIO) -> None:
    for _ in range(10):
        out.write(b"x" * 10**6)


def chatter(source: BinaryIO, out: BinaryIO) -> str:
    return "x" * 10**6
