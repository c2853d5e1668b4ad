"""The real app, run once for all tests of the page, and the browser that drives it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.running import running_app
from tests.install_browser import find_browser

BROWSER = find_browser()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser where there is none."""
    missing = pytest.mark.skip(
        reason="NO BROWSER: neither Chromium nor Chrome is there or could be installed"
    )
    for item in items:
        if BROWSER is None and item.get_closest_marker("browser"):
            item.add_marker(missing)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an app that has no COCO and no Hub."""
    folder = tmp_path_factory.mktemp("app")
    with running_app(
        folder, XDG_CACHE_HOME=str(folder), SIMA_COCO_ROOT="", HF_HUB_OFFLINE="1"
    ) as url:
        yield url


@pytest.fixture(scope="session")
def coco_app(tmp_path_factory: pytest.TempPathFactory, coco_root: Path) -> Iterator[str]:
    """An app on the made-up COCO root."""
    folder = tmp_path_factory.mktemp("coco-app")
    with running_app(folder, XDG_CACHE_HOME=str(folder), SIMA_COCO_ROOT=str(coco_root)) as url:
        yield url


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, object]:
    flags = (
        "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
        "--disable-sync --no-first-run"
    )
    return {"executable_path": BROWSER, "args": flags.split()}


@pytest.fixture
def errors() -> list[str]:
    """What the browser's console complains of."""
    return []


@pytest.fixture
def explore(app: str, page: Page, errors: list[str]) -> Iterator[Page]:
    """The page, open; afterwards: no console error, no request to another host."""
    outside: list[str] = []

    def note_request(request) -> None:
        if not request.url.startswith((app, app.replace("http", "ws"), "data:", "blob:")):
            outside.append(request.url)

    page.on("request", note_request)
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    with page.expect_response(lambda r: "queue/join" in r.url):  # what a visit begins with
        page.goto(app)
    expect(page.locator(".sl-figure")).to_have_count(2, timeout=30_000)
    expect(page.locator("#photo img")).to_be_visible()
    yield page
    assert not outside
    assert not errors


@pytest.fixture
def coco(coco_app: str, page: Page, errors: list[str]) -> Iterator[Page]:
    """The COCO tab, its first page of pictures shown; afterwards: no console error."""
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto(coco_app)
    page.get_by_role("tab", name="COCO").click()
    expect(page.locator(".sl-tiles button").first).to_be_visible(timeout=30_000)
    yield page
    assert not errors
