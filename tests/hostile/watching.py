"""Another visitor, who asks for the page and for an ordinary picture while the app is attacked."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx2

from tests.app.running import Running
from tests.hostile.client import Visitor, file_data, named
from tests.hostile.encoding import encoded
from tests.hostile.measuring import descendants, tree_mib

#: Seconds between two looks, and the side of the ordinary picture's network input.
EVERY_SECONDS, RESOLUTION = 0.5, 64


@dataclass
class Waits:
    """The longest that the other visitor had to wait, in seconds, and what the app held, in MiB."""

    page: float = 0.0
    picture: float = 0.0
    unanswered: int = 0
    before: float = 0.0
    peak: float = 0.0
    after: float = 0.0

    def in_words(self) -> str:
        """For the one line at the end."""
        return (
            f"others waited at most {self.page:.2f} s for the page and {self.picture:.2f} s for a "
            f"picture, {self.unanswered} times in vain; memory {self.before:,.0f} MiB before, "
            f"{self.peak:,.0f} at most, {self.after:,.0f} after"
        )


class Watcher:
    """Looks until it is left; several may follow each other and share their `Waits`."""

    def __init__(self, url: str, pid: int | None, scratch: Path, waits: Waits) -> None:
        self._url, self._pid, self.waits = url, pid, waits
        self._photo = scratch / "ordinary.jpg"
        self._photo.write_bytes(encoded("JPEG"))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._look, self._weigh)]

    def __enter__(self) -> Self:
        with Visitor(self._url, timeout=60) as visitor:
            self._handler = named(visitor.config(), "heatmap")
            assert self._ask(visitor) is not None, "an ordinary picture was refused"
        if self._pid and not self.waits.before:
            self.waits.before = tree_mib(self._pid)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self._pid:
            self.waits.after = tree_mib(self._pid)

    def answers(self, seconds: float = 20.0) -> bool:
        """Whether an ordinary picture is answered now."""
        with suppress(httpx2.HTTPError), Visitor(self._url, timeout=seconds) as visitor:
            return self._ask(visitor) is not None
        return False

    def _ask(self, visitor: Visitor) -> float | None:
        """Seconds until an ordinary picture was answered; None if it was not."""
        data = list(self._handler.defaults)
        data[0], data[4] = file_data(visitor.upload(self._photo)), RESOLUTION
        answered = visitor.call(self._handler.index, data)
        return answered.seconds if answered.kind == "complete" else None

    def _look(self) -> None:
        while not self._stop.is_set():
            with Visitor(self._url) as visitor:
                started = time.monotonic()
                try:
                    visitor.http.get("/").raise_for_status()
                    self.waits.page = max(self.waits.page, time.monotonic() - started)
                    took = self._ask(visitor)
                except httpx2.HTTPError:
                    took = None
                if took is None:
                    self.waits.unanswered += not self._stop.is_set()
                else:
                    self.waits.picture = max(self.waits.picture, took)
            self._stop.wait(EVERY_SECONDS)

    def _weigh(self) -> None:
        while self._pid and not self._stop.wait(EVERY_SECONDS / 2):
            self.waits.peak = max(self.waits.peak, tree_mib(self._pid))


@dataclass(frozen=True)
class Level:
    """What an app holds at one moment."""

    mib: float
    open_files: int
    children: int
    uploads: int

    @classmethod
    def of(cls, running: Running, uploads: Path) -> "Level":
        """As it is now; `uploads` is its upload folder."""
        pid = running.process.pid
        return cls(
            tree_mib(pid),
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            len(descendants(pid)),
            sum(path.is_file() for path in uploads.rglob("*")),
        )
