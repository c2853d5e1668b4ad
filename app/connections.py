"""Connections: whoever sends nothing keeps none, so that there are some left for others.

The server waits for ever for a request that never comes or never ends, and each wait takes one of
the process's open files. Without any left nobody is answered, and asyncio fills the log.
"""

import asyncio
import errno
import sys
import time
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

if sys.platform != "win32":
    import resource

#: Seconds between two looks, and for which a connection may be without a request; the server itself
#: closes those that had one after five.
LOOK_EVERY, SILENT_SECONDS = 5.0, 15.0
#: Connections from which on those without a request have no time at all; a page has three or four.
MANY = 4000
#: Open files that are asked of the system, as far as it gives them.
_OPEN_FILES = 2**16
#: Seconds between two lines in the log about too many open files.
_SAY_EVERY = 60.0


def allow_many() -> None:
    """Ask the system for as many open files as it gives."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Watch:
    """Closes connections on which nothing is asked, and nothing being answered."""

    def __init__(self) -> None:
        self._silent_since: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    async def keep(self, blocks: gr.Blocks) -> None:
        """Look again and again."""
        asyncio.get_running_loop().set_exception_handler(_Complaints())
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if server := getattr(blocks, "server", None):
                self.look(server.server_state.connections)

    def look(self, connections: set[Any]) -> None:
        """Close which were silent for too long; each is a protocol of uvicorn's."""
        now = time.monotonic()
        patience = SILENT_SECONDS if len(connections) <= MANY else 0.0
        for one in list(connections):
            if one.cycle is not None and not one.cycle.response_complete:
                self._silent_since.pop(one, None)
            elif now - self._silent_since.setdefault(one, now) >= patience:
                one.transport.close()


class _Complaints:
    """What asyncio says of its own errors; of too many open files seldom, for it says so often."""

    def __init__(self) -> None:
        self._said = -_SAY_EVERY

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if getattr(context.get("exception"), "errno", None) not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._said >= _SAY_EVERY:
            self._said = time.monotonic()
            print("too many connections: some wait until others are closed", file=sys.stderr)
