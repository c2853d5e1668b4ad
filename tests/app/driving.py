"""What several tests do with the page."""

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from app.tabs.explore.look import explore
from app.visit import Look


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
