"""The Latency tab: in the browser, and its handlers."""

import base64

import pytest
from playwright.sync_api import Locator, Page, expect

from app import visitors
from app.tabs import latency
from sima_core.lens.lens import Lens
from tests.app.driving import look, norms, wait_for_change


def start_measuring(page: Page, seconds: int) -> Locator:
    """Press Measure in the Latency tab; returns the card that shows both orders."""
    page.get_by_role("tab", name="Latency").click()
    page.get_by_label("number input for Time to spend (seconds)").fill(str(seconds))
    page.get_by_role("button", name="Measure").click()
    return page.locator(".sl-orders")


@pytest.mark.browser
def test_latency_tab(explore):
    card = start_measuring(explore, seconds=3)
    expect(card).to_contain_text("times as fast", timeout=20_000)
    expect(card).to_contain_text("196 tokens, 4 heads of 32 channels")
    expect(card).to_contain_text("predicts a ratio of 6.12")
    expect(card.locator("tbody tr")).to_have_count(3, timeout=20_000)
    expect(explore.locator(".sl-chart circle")).to_have_count(2 * 9, timeout=30_000)
    link = card.get_by_role("link", name="Data as CSV").get_attribute("href")
    rows = base64.b64decode(link.split(",")[1]).decode().splitlines()
    assert rows[0] == "level,order,seconds"
    assert sum(row.startswith("attention,qk_first") for row in rows) >= 3


@pytest.mark.browser
def test_latency_stop(explore):
    expect(start_measuring(explore, seconds=20)).to_be_visible(timeout=20_000)
    explore.get_by_role("button", name="Stop").click()
    explore.get_by_role("tab", name="Explore").click()
    before = norms(explore)
    explore.locator("#samples button").nth(1).click()  # the queue is free again
    wait_for_change(explore, norms, before)


def test_the_latency_tab_times_models_with_one_order(photo_file):
    key = visitors.MODELS.add(Lens.load("deit_tiny_patch16_224"))
    try:
        seen = look(str(photo_file), key, 64)
        [page] = latency.measure_orders(seen, key, 12, 64, 1)
        assert "deit_tiny_patch16_224 takes" in page
        assert list(latency.curve(seen, key, 12, 64)) == [""]
    finally:
        visitors.MODELS.drop(key)
