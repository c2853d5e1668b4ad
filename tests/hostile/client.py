"""A visitor who speaks HTTP to the page, without a browser and without Gradio's own client."""

import itertools
import json
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
        self.http = httpx2.Client(base_url=url, timeout=timeout)
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def config(self) -> dict[str, Any]:
        """The page's components and handlers, as the browser learns them."""
        found: dict[str, Any] = self.http.get("/config").raise_for_status().json()
        return found

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

    def call(self, fn_index: Any, data: Sequence[Any], whole: bool = True) -> Answer:
        """Call a handler and wait for its answer.

        Args:
            whole: wait for the last of several results; else the first is enough.
        """
        started = time.monotonic()

        def answer(kind: str, content: Any) -> Answer:
            return Answer(kind, content, time.monotonic() - started)

        try:
            joined = self.join(fn_index, data)
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

    def messages(self, until: float) -> Iterator[dict[str, Any]]:
        """What the server tells this session, up to a time of `time.monotonic`."""
        where = f"{_API}/queue/data"
        with self.http.stream("GET", where, params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))
                if time.monotonic() > until:
                    return


def file_data(path: str) -> dict[str, Any]:
    """How Gradio's own clients name an uploaded file."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@dataclass(frozen=True)
class Handler:
    """A handler of the page, as its configuration tells it."""

    index: int
    name: str
    #: The kinds of the components that it takes, and what they hold at first.
    kinds: tuple[str, ...]
    defaults: tuple[Any, ...]

    @property
    def files(self) -> list[int]:
        """Which arguments are files."""
        return [i for i, kind in enumerate(self.kinds) if kind in ("image", "file", "rawimage")]


def handlers(config: dict[str, Any]) -> list[Handler]:
    """All that run on the server."""
    components = {one["id"]: one for one in config["components"]}
    found = []
    for dependency in config["dependencies"]:
        if not dependency.get("backend_fn"):
            continue
        taken = [components[i] for i in dependency["inputs"]]
        name = dependency.get("api_name") or f"handler {dependency['id']}"
        kinds = tuple(one["type"] for one in taken)
        defaults = tuple(one.get("props", {}).get("value") for one in taken)
        found.append(Handler(dependency["id"], str(name), kinds, defaults))
    return found


def named(config: dict[str, Any], name: str) -> Handler:
    """The handler of a name, such as ``heatmap``."""
    return next(one for one in handlers(config) if one.name == name)
