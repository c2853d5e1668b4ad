"""A visitor who speaks HTTP to the page, without a browser and without Gradio's own client."""

import itertools
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2

_API = "/gradio_api"
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Answer:
    """What came back from a handler."""

    #: "complete", "generating" (more would have come), "error", "status" (refused at the door),
    #: or "silence".
    kind: str
    #: The results; the error's sentence or what stands in its place; the refusal's body.
    content: Any
    seconds: float

    @property
    def done(self) -> bool:
        """Whether the handler did its work."""
        return self.kind in ("complete", "generating")


class Visitor:
    """One visit: a session of its own."""

    def __init__(self, url: str, timeout: float = 20.0) -> None:
        self.session = f"visitor{next(_NUMBERS)}"
        self.http = httpx2.Client(base_url=url.rstrip("/"), timeout=timeout)
        self._timeout = timeout
        self._handlers: list[Handler] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def handlers(self) -> list["Handler"]:
        """The page's handlers, as the browser learns them."""
        if not self._handlers:
            self._handlers = _handlers(self.http.get("/config").raise_for_status().json())
        return self._handlers

    def handler(self, name: str) -> "Handler":
        """The handler of a name, such as ``heatmap``."""
        return next(one for one in self.handlers() if one.name == name)

    def begin(self) -> None:
        """Do what a page does when it is opened, with which a visit begins.

        Raises:
            httpx2.HTTPError: the page did not answer.
        """
        self.http.get("/").raise_for_status()
        for handler in self.handlers():
            if handler.on_load:
                answer = self.call(handler.index, [])
                if not answer.done:
                    raise httpx2.HTTPError(f"{handler.name}: {answer.kind} {answer.content!r:.120}")

    def upload(self, file: Path, name: str | None = None) -> str:
        """Upload a file; returns its path on the server.

        Raises:
            httpx2.HTTPError: it was refused.
        """
        with file.open("rb") as content:
            posted = self.http.post(f"{_API}/upload", files={"files": (name or file.name, content)})
        [path] = posted.raise_for_status().json()
        return str(path)

    def join(self, fn_index: Any, data: Any, **more: Any) -> httpx2.Response:
        """Ask for a handler's turn."""
        body = {"data": data, "fn_index": fn_index, "session_hash": self.session, **more}
        return self.http.post(
            f"{_API}/queue/join",
            content=json.dumps(body).encode("utf-8", "surrogatepass"),
            headers={"Content-Type": "application/json"},
        )

    def call(self, fn_index: Any, data: Sequence[Any], whole: bool = True, **more: Any) -> Answer:
        """Call a handler and wait for its answer.

        Args:
            whole: wait for the last of several results; else the first is enough.
            more: what else a request may carry, such as ``event_data``.
        """
        started = time.monotonic()

        def answer(kind: str, content: Any) -> Answer:
            return Answer(kind, content, time.monotonic() - started)

        try:
            joined = self.join(fn_index, data, **more)
            if joined.status_code != 200:
                return answer("status", (joined.status_code, joined.text[:500]))
            event = joined.json()["event_id"]
            for message in self.messages(started + self._timeout):
                if message.get("event_id") not in (None, event):
                    continue
                output = message.get("output") or {}
                if message["msg"] == "process_generating" and not whole and message["success"]:
                    return answer("generating", output.get("data"))
                if message["msg"] == "process_completed":
                    if message["success"]:
                        return answer("complete", output.get("data"))
                    return answer("error", output.get("error"))
                if message["msg"] == "unexpected_error":
                    return answer("error", message.get("message"))
        except httpx2.HTTPError as error:
            return answer("silence", type(error).__name__)
        return answer("silence", "nothing came")

    def messages(self, until: float = math.inf) -> Iterator[dict[str, Any]]:
        """What the server tells this session, up to a time of `time.monotonic`."""
        where = f"{_API}/queue/data"
        with self.http.stream("GET", where, params={"session_hash": self.session}) as stream:
            for line in _lines(stream):
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))
                if time.monotonic() > until:
                    return


def _lines(stream: httpx2.Response) -> Iterator[bytes]:
    """An event stream's lines; httpx's own end at what JSON may hold, such as U+2028, too."""
    rest = b""
    for block in stream.iter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        yield from lines


def file_data(path: str) -> dict[str, Any]:
    """How Gradio's own clients name an uploaded file."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@dataclass(frozen=True)
class Handler:
    """A handler of the page, as its configuration tells it."""

    index: int
    name: str
    #: The kinds of the components that it takes, their labels, and what they hold at first.
    kinds: tuple[str, ...]
    labels: tuple[str, ...]
    defaults: tuple[Any, ...]
    #: Whether it runs when the page is opened, and whether programs may call it.
    on_load: bool
    public: bool

    def given(self, **values: Any) -> list[Any]:
        """The arguments: what is given by the first word of its label, else what they hold."""
        data, words = list(self.defaults), [re.split(r"\W+", one.lower())[0] for one in self.labels]
        for word, value in values.items():
            data[words.index(word)] = value
        return data


def _handlers(config: dict[str, Any]) -> list[Handler]:
    """All that run on the server."""
    components = {
        one["id"]: one.get("props", {}) | {"type": one["type"]} for one in config["components"]
    }
    found = []
    for dependency in config["dependencies"]:
        if not dependency.get("backend_fn"):
            continue
        taken = [components[i] for i in dependency["inputs"]]
        found.append(
            Handler(
                dependency["id"],
                str(dependency.get("api_name") or f"handler {dependency['id']}"),
                tuple(one["type"] for one in taken),
                tuple(str(one.get("label") or "") for one in taken),
                tuple(one.get("value") for one in taken),
                any(event == "load" for _, event in dependency["targets"]),
                dependency.get("api_visibility") == "public",
            )
        )
    return found
