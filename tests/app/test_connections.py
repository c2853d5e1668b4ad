"""Connections on which nothing is asked, and bodies that do not come."""

import asyncio
import errno
import socket
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from app import bodies, connections
from app.bodies import Bodies, Refused
from app.connections import MANY, SILENT_SECONDS, Watch
from tests.app.asking import send
from tests.support import awaited


class Connection:
    """One of uvicorn's, as far as it is looked at."""

    def __init__(self, *, answering: bool | None) -> None:
        self.cycle = None if answering is None else SimpleNamespace(response_complete=not answering)
        self.transport = self
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    at = SimpleNamespace(now=0.0)
    monkeypatch.setattr(connections.time, "monotonic", lambda: at.now)
    return at


def test_silent_connections_are_closed_and_others_are_not(clock):
    new, kept_alive, busy = (Connection(answering=one) for one in (None, False, True))
    watch = Watch()
    for clock.now in (0.0, SILENT_SECONDS - 1):
        watch.look({new, kept_alive, busy})
        assert not any(one.closed for one in (new, kept_alive, busy))
    clock.now = SILENT_SECONDS
    watch.look({new, kept_alive, busy})
    assert new.closed
    assert kept_alive.closed
    assert not busy.closed


def test_who_asks_again_is_not_silent(clock):
    one, watch = Connection(answering=False), Watch()
    watch.look({one})
    one.cycle.response_complete = False
    clock.now = SILENT_SECONDS
    watch.look({one})
    one.cycle.response_complete = True
    watch.look({one})
    assert not one.closed


def test_of_many_connections_the_silent_are_closed_at_once(clock):
    silent, busy = Connection(answering=None), Connection(answering=True)
    Watch().look({silent, busy, *(Connection(answering=True) for _ in range(MANY))})
    assert silent.closed
    assert not busy.closed


def test_an_app_closes_what_sends_nothing(app):
    """Whole requests, begun ones, and none at all; meanwhile others are answered."""
    address = tuple(urlsplit(app).netloc.split(":"))
    with (
        socket.create_connection(address, timeout=40) as nothing,
        socket.create_connection(address, timeout=40) as half,
    ):
        half.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        assert send(app, "GET", "/gradio_api/app_id")[0] == 200
        assert nothing.recv(1) == b""
        assert half.recv(1) == b""


def test_too_many_open_files_are_a_line_and_not_a_log_full(capfd):
    complaints, loop = connections._Complaints(), asyncio.new_event_loop()
    for _ in range(1000):
        complaints(loop, {"message": "accept", "exception": OSError(errno.EMFILE, "many")})
    loop.close()
    assert capfd.readouterr().err.count("\n") == 1


def test_an_upload_that_pauses_for_long_is_refused(monkeypatch):
    monkeypatch.setattr(bodies, "MAX_PAUSE", 0.05)
    begun = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def receive() -> dict[str, object]:
        return begun.pop() if begun else await asyncio.sleep(30)

    kind = (b"content-type", b"multipart/form-data; boundary=x")
    scope = {"type": "http", "headers": [kind, (b"content-length", b"9")]}

    async def read() -> None:
        counted = await Bodies(None, 100).checked("/gradio_api/upload", scope, receive)
        assert (await counted())["body"] == b"x"
        with pytest.raises(Refused, match="Nothing came"):
            await counted()

    awaited(read())
