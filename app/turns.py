"""Who computes: one visitor at a time, in the order in which they came, and none for ever."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import gradio as gr

from sima_core.errors import SimaLensError
from sima_core.time_limit import time_limit

T = TypeVar("T")

#: Seconds that one turn may take, and that a visitor waits for one.
TURN_SECONDS, WAIT_SECONDS = 60.0, 120.0
#: Seconds past its end after which a turn is over for the others, even where one operation of
#: torch still runs on.
GRACE_SECONDS = 10.0
#: Seconds between two looks at the line.
_LOOK_SECONDS = 0.5


class BusyError(SimaLensError):
    """Nobody's turn came in time."""

    def __init__(self) -> None:
        super().__init__("too many visitors are waiting for this machine: try again in a minute.")


@dataclass(eq=False)  # a ticket is itself, whatever it says
class _Ticket:
    """A place in the line; at its head, when the turn ends."""

    end: float | None = None


def show_place(before: int) -> None:
    """Tell the waiting visitor on the page how many come first."""
    gr.Progress()(None, desc=f"{before} before you")


class Turns:
    """A line in which each waits for a turn, so that visitors never slow or time each other.

    What a visitor's files may make slow, such as decoding a picture, belongs before the turn.

    Args:
        seconds: that a turn may take; afterwards `check_time` ends what is computed in it.
        wait: seconds after which those who wait are sent away.
        tell: called with the number of those who come first, whenever it changes.
    """

    def __init__(
        self,
        seconds: float = TURN_SECONDS,
        wait: float = WAIT_SECONDS,
        tell: Callable[[int], None] = show_place,
    ) -> None:
        self._seconds = seconds
        self._wait = wait
        self._tell = tell
        self._line: deque[_Ticket] = deque()
        self._moved = threading.Condition()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and have it during the block.

        Raises:
            BusyError: it did not come in time.
            OutOfTimeError: out of what is computed in the block, when the turn is over.
        """
        with self._place() as end, time_limit(end):
            yield

    def each(self, items: Iterator[T]) -> Iterator[T]:
        """Have one turn for a whole iterator, whose steps may run in different threads.

        Raises:
            BusyError, OutOfTimeError: as `turn`.
        """
        nothing = object()
        with self._place() as end:
            while True:
                with time_limit(end):
                    item = next(items, nothing)
                if item is nothing:
                    return
                yield item  # type: ignore[misc]  # it is no longer `nothing`

    @contextlib.contextmanager
    def _place(self) -> Iterator[float]:
        """Stand in the line until it is this one's turn; gives its end, by `time.monotonic`."""
        ticket = _Ticket()
        with self._moved:
            self._line.append(ticket)
        try:
            self._advance_to(ticket)
            ticket.end = time.monotonic() + self._seconds
            yield ticket.end
        finally:
            with self._moved:
                if ticket in self._line:
                    self._line.remove(ticket)
                self._moved.notify_all()

    def _advance_to(self, ticket: _Ticket) -> None:
        give_up = time.monotonic() + self._wait
        told = 0
        while True:
            with self._moved:
                self._send_away_who_overstays()
                before = self._line.index(ticket)
                if not before:
                    return
                if time.monotonic() > give_up:
                    raise BusyError
                if before == told:
                    self._moved.wait(_LOOK_SECONDS)
                    continue
            told = before
            self._tell(before)  # not while the others are kept from moving

    def _send_away_who_overstays(self) -> None:
        head = self._line[0]
        if head.end is not None and time.monotonic() > head.end + GRACE_SECONDS:
            self._line.popleft()


#: The line of this app.
TURNS = Turns()
