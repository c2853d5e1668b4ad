"""Another visitor, who asks for the page and for an ordinary picture while the app is attacked."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx2

from tests.app.client import Visitor, file_data
from tests.app.running import Running
from tests.hostile.encoding import encoded
from tests.hostile.measuring import descendants, tree_mib

#: Seconds between two looks of the other visitor, and between two looks at the memory.
EVERY_SECONDS, WEIGH_SECONDS = 0.5, 0.2
#: The side of the ordinary picture's network input.
RESOLUTION = 64


@dataclass
class Waits:
    """How long the other visitor had to wait, in seconds, and what the app held, in MiB."""

    #: The name of what the app is attacked with now.
    during: str = "the start"
    pages: list[tuple[float, str]] = field(default_factory=list)
    pictures: list[tuple[float, str]] = field(default_factory=list)
    in_vain: list[str] = field(default_factory=list)
    before: float = 0.0
    #: The most since `above_start` was asked.
    peak: float = 0.0
    after: float = 0.0

    def above_start(self) -> float:
        """MiB that the app held at most, beyond those of its start, since this was asked last."""
        peak, self.peak = self.peak, 0.0
        return max(0.0, peak - self.before)

    def wrong(self, most_page: float) -> dict[str, str]:
        """What the other visitor met that must not be, by what the app was attacked with then."""
        found = dict.fromkeys(self.in_vain, "an ordinary picture of another visitor failed")
        for took, name in self.pages:
            if took > most_page:
                found[name] = f"another visitor waited {took:.1f} s for the page"
        return found

    def in_words(self) -> str:
        """For the one line at the end."""
        if not self.pictures:
            return "nobody else looked"
        took = sorted(self.pictures)
        late = sum(seconds > 1 for seconds, _ in took)
        return (
            f"others waited at most {max(self.pages)[0]:.2f} s for the page and for {len(took)} "
            f"pictures {took[len(took) // 2][0]:.2f} s (median) to {took[-1][0]:.2f} s "
            f"({took[-1][1]}), {late} times more than 1 s, {len(self.in_vain)} times in vain; "
            f"memory {self.before:,.0f} MiB before, {self.after:,.0f} after"
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
            self._handler = visitor.handler("heatmap")
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
        uploaded = file_data(visitor.upload(self._photo))
        data = self._handler.given(picture=uploaded, resolution=RESOLUTION)
        answered = visitor.call(self._handler.index, data)
        return answered.seconds if answered.kind == "complete" else None

    def _look(self) -> None:
        while not self._stop.is_set():
            during, started = self.waits.during, time.monotonic()
            took = None
            with suppress(httpx2.HTTPError), Visitor(self._url) as visitor:
                visitor.http.get("/").raise_for_status()
                self.waits.pages.append((time.monotonic() - started, during))
                took = self._ask(visitor)
            if took is not None:
                self.waits.pictures.append((took, during))
            elif not self._stop.is_set():
                self.waits.in_vain.append(during)
            self._stop.wait(EVERY_SECONDS)

    def _weigh(self) -> None:
        while self._pid and not self._stop.wait(WEIGH_SECONDS):
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
