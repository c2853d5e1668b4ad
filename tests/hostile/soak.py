"""Visitors for a while: ``python -m tests.hostile.soak --visits 300``.

Each opens the page, uploads a photo and looks at it; some vanish in the middle, some cancel. Then
the app must be back where it was: memory, open files, children; then eight clients look at pictures
all at once, none of which may fail; then it must end soon after SIGTERM. Prints one line.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.app.client import Handler, Visitor, file_data
from tests.app.running import Running
from tests.hostile.encoding import photo, saved
from tests.hostile.page import own_app
from tests.hostile.watching import Level

#: What a soak may add: MiB after the warm-up, open files, and seconds until SIGTERM has ended it.
MORE_MIB, MORE_FILES, END_SECONDS = 200.0, 12, 5.0
#: Visits before the level is taken, and seconds in which it comes to rest.
WARM_UP, REST_SECONDS = 12, 4.0
#: One visitor in so many vanishes while the answer is on its way, or cancels.
VANISH_EVERY, CANCEL_EVERY = 10, 11
#: One of the drop-down's choices, the smallest.
RESOLUTION = 112


@dataclass
class Soak:
    """What visitors met, and what is wrong with the app after them."""

    running: Running
    scratch: Path
    met: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def run(self, visits: int, clients: int, pictures: int) -> None:
        """All of it but the end."""
        self._visit_all(range(WARM_UP))
        before = self._rested()
        self._visit_all(range(WARM_UP, WARM_UP + visits))
        self._compare(before, self._rested(), visits)
        self._crowd(clients, pictures)

    def _visit_all(self, numbers: Sequence[int]) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._visit, numbers))

    def _rested(self) -> Level:
        time.sleep(REST_SECONDS)
        return Level.of(self.running, self.scratch / "uploads")

    def _compare(self, before: Level, after: Level, visits: int) -> None:
        if after.mib - before.mib > MORE_MIB:
            self.wrong.append(f"{after.mib - before.mib:,.0f} MiB more than after the warm-up")
        if after.open_files - before.open_files > MORE_FILES:
            self.wrong.append(f"{after.open_files - before.open_files} more open files")
        if after.children > before.children:
            self.wrong.append(f"{after.children - before.children} more processes")
        if after.uploads - before.uploads > 4 * visits:
            self.wrong.append(f"{after.uploads - before.uploads} files more among the uploads")
        self.met.update({"MiB": round(after.mib - before.mib)})

    def _visit(self, number: int) -> None:
        """One visit; what it met is counted."""
        try:
            with Visitor(self.running.url, timeout=60) as visitor:
                self.met[self._look(visitor, number)] += 1
        except httpx2.HTTPError as error:
            self.met["failed"] += 1
            self.wrong.append(f"visit {number}: {type(error).__name__}")

    def _look(self, visitor: Visitor, number: int) -> str:
        visitor.begin()
        looking, drawing = visitor.handler("explore"), visitor.handler("draw")
        uploaded = file_data(visitor.upload(self._photo(number)))
        data = looking.given(photo=uploaded, resolution=RESOLUTION)
        if number % VANISH_EVERY == 3:
            return self._vanish(visitor, looking, data)
        if number % CANCEL_EVERY == 4:
            return self._cancel(visitor, looking, data)
        for handler, given in ((looking, data), (drawing, drawing.given())):
            answer = visitor.call(handler.index, given)
            if answer.kind != "complete":
                self.wrong.append(f"visit {number}: {answer.kind} {answer.content!r:.120}")
                return "failed"
        return "looked"

    def _vanish(self, visitor: Visitor, handler: Handler, data: list[object]) -> str:
        """Leave once the queue has begun to tell."""
        visitor.join(handler.index, data).raise_for_status()
        for _ in visitor.messages(time.monotonic() + 10):
            break
        return "vanished"

    def _cancel(self, visitor: Visitor, handler: Handler, data: list[object]) -> str:
        joined = visitor.join(handler.index, data).raise_for_status()
        body = {
            "session_hash": visitor.session,
            "fn_index": handler.index,
            "event_id": joined.json()["event_id"],
        }
        visitor.http.post("/gradio_api/cancel", json=body).raise_for_status()
        return "cancelled"

    def _photo(self, number: int) -> Path:
        """One of a few photos, no two of a moment the same."""
        path = self.scratch / f"visit{number % 16}.jpg"
        if not path.exists():
            turned = photo("RGB", 320, 240).rotate(20 * (number % 16))
            path.write_bytes(saved(turned, "JPEG"))
        return path

    def _crowd(self, clients: int, pictures: int) -> None:
        """Many clients at once, each with a session and pictures of its own."""

        def look(client: int) -> int:
            with Visitor(self.running.url, timeout=120) as visitor:
                handler = visitor.handler("heatmap")
                done = 0
                for number in range(pictures):
                    photo = file_data(visitor.upload(self._photo(client * pictures + number)))
                    data = handler.given(picture=photo, resolution=RESOLUTION)
                    done += visitor.call(handler.index, data).kind == "complete"
                return done

        for number in range(16):
            self._photo(number)  # before several threads would write the same
        with ThreadPoolExecutor(clients) as pool:
            done = sum(pool.map(look, range(clients)))
        if done != clients * pictures:
            self.wrong.append(
                f"{clients * pictures - done} of {clients * pictures} pictures failed"
            )
        self.met["pictures"] = done

    def end(self) -> None:
        """SIGTERM: it must be gone soon, in spite of visitors who hold their streams."""
        with Visitor(self.running.url) as visitor:
            where = f"/gradio_api/heartbeat/{visitor.session}"
            with suppress(httpx2.HTTPError), visitor.http.stream("GET", where) as stream:
                next(stream.iter_bytes(1), b"")
                started = time.monotonic()
                self.running.process.terminate()
                with suppress(Exception):
                    self.running.process.wait(20)
                took = time.monotonic() - started
                if took > END_SECONDS:
                    self.wrong.append(f"SIGTERM took {took:.1f} s")


def soak(visits: int, clients: int, pictures: int) -> int:
    """Soak an app of its own, and tell; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, own_app(Path(folder)) as running:
        found = Soak(running, Path(folder))
        found.run(visits, clients, pictures)
        found.end()
        if "Traceback" in running.log.read_text():
            found.wrong.append("a traceback in the log")
    counted = ", ".join(f"{count} {what}" for what, count in sorted(found.met.items()))
    for one in found.wrong[:20]:
        print(one)
    print(f"{counted}; {len(found.wrong)} things wrong")
    return 1 if found.wrong else 0


def main() -> int:
    """Soak as the options say; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=300)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=25)
    asked = parser.parse_args()
    return soak(asked.visits, asked.clients, asked.pictures)


if __name__ == "__main__":
    sys.exit(main())
