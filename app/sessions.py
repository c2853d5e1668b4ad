"""Which visits the app remembers: Gradio's store of sessions, with places that no stranger takes.

Whoever names a session, any session, gets one: a page that was opened, a program that calls an
endpoint, a made-up name. Gradio keeps the last so many, whoever they are. Here only visits, whose
page has put something into a store, push out visits; all others pass by and push out each other.
"""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from gradio.blocks import Blocks
from gradio.components import State
from gradio.state_holder import SessionState, StateHolder

#: Visits that are remembered, and the bytes of all that they keep (`Visit`'s stores).
MAX_VISITS, MAX_BYTES = 1000, 256 * 2**20
#: Sessions that pass by; more than may wait and run at once.
MAX_PASSING = 128
#: Seconds without a request after which a visit whose page was closed makes room, and is forgotten.
CLOSED_SECONDS, FORGET_SECONDS = 60.0, 3600.0


def bytes_of(value: object) -> int:
    """The memory that a store's value takes, as it says itself; a model's key takes its letters."""
    return len(value) if isinstance(value, str) else int(getattr(value, "num_bytes", 0))


class Session(SessionState):
    """One session's stores and controls.

    Gradio's own writes out the configuration of every component for every session, and keeps each
    result that was shown, all for its deep links, which this page does not offer: 24 ms and 200 KiB
    for a request under a new name, and megabytes later.

    Args:
        changed: called with this session whenever a store was set.
    """

    def __init__(self, blocks: Blocks, changed: Callable[["Session"], None]) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, dict[str, Any]] = {}  # for deep links
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = int(FORGET_SECONDS)
        #: Whether a store was set, so that there is something to forget.
        self.is_visit = False
        self.num_bytes = 0
        self.last_used = time.monotonic()
        self._changed = changed

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()
        if isinstance(self.blocks_config.blocks.get(key), State):
            self.is_visit = True
            self.num_bytes = sum(map(bytes_of, self.state_data.values()))
            self._changed(self)

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass

    @property
    def components(self) -> Iterator[dict[str, Any]]:
        return iter(())

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last request."""
        return time.monotonic() - self.last_used

    @property
    def loss(self) -> int:
        """What forgetting it would mean: 0, its page is closed; 1, it has nothing of its own; 2."""
        if self.is_closed and self.idle_seconds > CLOSED_SECONDS:
            return 0
        return 2 if self.num_bytes else 1


class Sessions(StateHolder):
    """Gradio's store of sessions, in which only visits push out visits.

    Where there are too many, or they keep too much, those go first that lose least
    (`Session.loss`), and among them the one that was used least recently. What goes is told to
    `gr.State`'s ``delete_callback``. A forgotten visit's stores hold their initial values again.
    """

    session_data: dict[str, Session]  # type: ignore[assignment]

    def __init__(
        self,
        max_visits: int = MAX_VISITS,
        max_bytes: int = MAX_BYTES,
        max_passing: int = MAX_PASSING,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.max_visits = max_visits
        self.max_bytes = max_bytes
        self.max_passing = max_passing
        self.session_data = {}  # the one used least recently first
        self.lock = threading.RLock()  # type: ignore[assignment]

    def __getitem__(self, session_id: str) -> Session:
        with self.lock:
            session = self.session_data.pop(session_id, None)
            if session is not None:
                session.last_used = time.monotonic()
                session.is_closed = False  # its page has come back, as a phone's does
                self.session_data[session_id] = session  # now the last
                return session
            session = Session(self.blocks, functools.partial(self._changed, session_id))
            self.session_data[session_id] = session
            self._make_room(session)
            return session

    def delete_all_expired_state(self) -> None:
        """Forget visits whose page was closed an hour ago; Gradio asks for it every second."""
        with self.lock:
            for session_id, session in list(self.session_data.items()):
                if session.is_closed and session.idle_seconds > FORGET_SECONDS:
                    self._forget(session_id)

    def _changed(self, session_id: str, session: Session) -> None:
        """A store was set, perhaps by a handler that ran while its session was pushed out.

        Then the session is remembered again; but for where another has begun under its name, which
        must not fall back to what was true before.
        """
        with self.lock:
            if self.session_data.setdefault(session_id, session) is session:
                self._make_room(session)

    def _make_room(self, newest: Session) -> None:
        """Forget what is too much, never the newest."""
        others = [(i, s) for i, s in self.session_data.items() if s is not newest]
        passing = [i for i, s in others if not s.is_visit]
        for session_id in passing[
            : max(0, len(passing) + (not newest.is_visit) - self.max_passing)
        ]:
            self._forget(session_id)
        visits = [(i, s) for i, s in others if s.is_visit]
        count = len(visits) + newest.is_visit
        held = newest.num_bytes + sum(s.num_bytes for _, s in visits)
        if count <= self.max_visits and held <= self.max_bytes:
            return
        for session_id, session in sorted(visits, key=lambda visit: visit[1].loss):
            # Of bytes, those who keep none give none.
            if count > self.max_visits or (held > self.max_bytes and session.num_bytes):
                self._forget(session_id)
                count, held = count - 1, held - session.num_bytes

    def _forget(self, session_id: str) -> None:
        self.delete_state(session_id)  # tells the stores' delete callbacks
        del self.session_data[session_id]
