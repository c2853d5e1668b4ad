"""A limit of time on what is computed for somebody else; nothing is limited until somebody asks.

Python cannot end a thread, so what computes for long looks at the clock itself: the timing loop
before each call, a model that is looked through before each of its blocks, curves before each
batch. Between two such looks lies a block of a model at most.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sima_core.errors import SimaLensError

_END: ContextVar[float] = ContextVar("end of the time limit", default=math.inf)


class OutOfTimeError(SimaLensError):
    """What was computed took longer than it may."""

    def __init__(self) -> None:
        super().__init__(
            "this took too long for a shared machine: choose a lower resolution or a smaller model."
        )


@contextmanager
def time_limit(end: float) -> Iterator[None]:
    """Have `check_time` refuse to go on after `end`, as `time.monotonic` tells it.

    It holds in this thread only. A generator must set it anew in each of its steps, which may run
    in different threads.
    """
    before = _END.set(end)
    try:
        yield
    finally:
        _END.reset(before)


def is_limited() -> bool:
    """Whether there is a limit in this thread."""
    return _END.get() < math.inf


def check_time() -> None:
    """Go on if there is time.

    Raises:
        OutOfTimeError: the limit has passed.
    """
    if time.monotonic() > _END.get():
        raise OutOfTimeError
