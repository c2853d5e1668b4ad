"""What several tests do with the page."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Locator, Page, expect

from app.tabs.explore import explore
from app.visit import Look


class Client:
    """A page or a program that speaks HTTP with the app, under a name of its own."""

    def __init__(self, url: str) -> None:
        self.api, self.name = f"{url}/gradio_api", uuid.uuid4().hex
        self.handlers = httpx2.get(f"{url}/config", timeout=30).json()["dependencies"]

    def number(self, handler: str) -> int:
        """The number of a handler of the page."""
        return next(h["id"] for h in self.handlers if h["api_name"] == handler)

    def begin(self) -> None:
        """What a page does when it is opened."""
        opened = [h["id"] for h in self.handlers if any(t[1] == "load" for t in h["targets"])]
        for number in opened:
            self.ask(number)

    def upload(self, path: Path) -> dict[str, object]:
        """Upload a file; gives what a handler takes for it."""
        with path.open("rb") as file:
            answer = httpx2.post(f"{self.api}/upload", files={"files": file}, timeout=30)
        return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}

    def join(self, handler: str | int, *data: object) -> bool:
        """Have a handler run; returns whether there was room in the queue."""
        number = self.number(handler) if isinstance(handler, str) else handler
        body = {"fn_index": number, "data": data, "session_hash": self.name}
        return httpx2.post(f"{self.api}/queue/join", json=body, timeout=30).status_code == 200

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the app says to this client, as it comes."""
        address = f"{self.api}/queue/data?session_hash={self.name}"
        with httpx2.stream("GET", address, timeout=60) as stream:
            for line in filter(None, stream.iter_lines()):
                yield json.loads(line.removeprefix("data: "))

    def ask(self, handler: str | int, *data: object) -> dict[str, Any]:
        """Have a handler run; gives the message with its answer."""
        assert self.join(handler, *data)
        return next(m for m in self.messages() if m["msg"] == "process_completed")


def look(path: str | None, model_key: str | None, resolution: float) -> Look:
    """What Explore keeps of a photo."""
    return explore(path, None, model_key, resolution)[0]


def norms(page: Page) -> list[str]:
    """The values that the pictures hold."""
    return page.locator(".sl-figure").evaluate_all("figures => figures.map(f => f.dataset.norms)")


def heat(page: Page) -> list[str]:
    """The heatmaps' addresses, which change with their pixels."""
    return page.locator(".sl-heat").evaluate_all("images => images.map(i => i.src)")


def wait_for_change(page: Page, read: Callable[[Page], list[str]], before: list[str]) -> list[str]:
    """Both of what `read` gives must change."""
    for _ in range(300):
        now = read(page)
        if len(now) == 2 and all(a != b for a, b in zip(now, before, strict=True)):
            return now
        page.wait_for_timeout(50)
    raise AssertionError("the pictures did not both change within 15 s")


def wait_for_rest(page: Page) -> None:
    """The page must have stopped scrolling by itself: it would take what is pressed away."""
    still, before = 0, -1.0
    for _ in range(100):
        now = page.evaluate("window.scrollY")
        still = still + 1 if now == before else 0
        if still >= 6:
            return
        before = now
        page.wait_for_timeout(100)
    raise AssertionError("the page still scrolls after 10 s")


def compare(page: Page, columns: int) -> Locator:
    """Press Compare; returns the grid once it has so many columns."""
    page.locator("#compare-start").click()
    grid = page.locator("#compare-grid")
    expect(grid.locator(".sl-column")).to_have_count(columns, timeout=60_000)
    return grid
