"""Messages that wait for pages to fetch them, within bounds: not every page comes back for them.

Gradio keeps them by session until the page reads its stream, however many they are. A program that
never reads would fill the memory, with results of half a megabyte each; and whoever names enough
sessions would push out those of pages that read.
"""

import asyncio
import time
from collections import deque
from typing import Any

from gradio.queueing import Queue
from gradio.server_messages import EventMessage
from gradio.utils import LRUCache

#: What all unread messages may take.
MAX_BYTES = 128 * 2**20
#: Seconds without reading or writing after which nobody is thought to come; pages read every ten.
ABANDONED_SECONDS = 60.0
#: What a message takes beside its texts.
_OVERHEAD = 1024


def bytes_of(message: EventMessage) -> int:
    """Roughly the memory that a message takes: that of the texts in its result."""
    output: Any = getattr(message, "output", None) or {}
    data = output.get("data") or ()
    return _OVERHEAD + sum(len(value) for value in data if isinstance(value, str))


class Mailbox(asyncio.Queue[EventMessage]):
    """One session's unread messages."""

    def __init__(self, boxes: "Mailboxes") -> None:
        super().__init__()
        self.num_bytes = 0
        self.last_used = time.monotonic()
        self._sizes: deque[int] = deque()
        self._boxes = boxes

    async def get(self) -> EventMessage:
        self.last_used = time.monotonic()
        return await super().get()

    def discard(self) -> None:
        """Throw all messages away."""
        while not self.empty():
            self.get_nowait()

    def _put(self, item: EventMessage) -> None:
        super()._put(item)
        self.last_used = time.monotonic()
        self._sizes.append(bytes_of(item))
        self._count(self._sizes[-1])

    def _get(self) -> EventMessage:
        self._count(-self._sizes.popleft())
        return super()._get()

    def _count(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self._boxes.count(num_bytes)


class Mailboxes(LRUCache[str, "asyncio.Queue[EventMessage]"]):
    """Gradio's unread messages by session, put in place of its own by `replace_in`.

    Where they take too much, those of the session go that has left most unread.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_size=2**31)  # none is pushed out; `clean` takes those that are left
        self.max_bytes = max_bytes
        self.num_bytes = 0

    @classmethod
    def replace_in(cls, queue: Queue) -> "Mailboxes":
        """Have `queue`, which has not begun, keep its messages in new mailboxes."""
        queue.pending_messages_per_session = boxes = cls()
        return boxes

    def __setitem__(self, session: str, box: asyncio.Queue[EventMessage]) -> None:
        super().__setitem__(session, Mailbox(self))  # whatever Gradio made, which is empty

    def __delitem__(self, session: str) -> None:
        box: Any = self[session]
        box.discard()
        super().__delitem__(session)

    def count(self, num_bytes: int) -> None:
        """Note that so many bytes came, or went where negative; make room where it is too much."""
        self.num_bytes += num_bytes
        if self.num_bytes > self.max_bytes:
            boxes: list[Any] = list(self.values())
            max(boxes, key=lambda box: box.num_bytes).discard()

    def clean(self, queue: Queue) -> None:
        """Forget mailboxes and events of pages and programs that are gone."""
        living = queue.event_ids_to_events.keys()
        waiting = queue.pending_event_ids_session
        box: Any
        for session, box in list(self.items()):
            idle = time.monotonic() - box.last_used
            if idle > ABANDONED_SECONDS and not waiting.get(session, set()) & living:
                del self[session]
        for session, events in list(waiting.items()):
            if session not in self and not events & living:
                del waiting[session]
