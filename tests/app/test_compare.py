"""The Compare tab: in the browser, and its handlers."""

import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from app import visitors
from app.tabs import compare as tab
from app.tabs.explore.samples import sample_photos
from sima_core import load_image
from sima_core.errors import InputError
from sima_core.lens.lens import Lens
from sima_core.models.architectures import create_model
from tests.app.driving import compare, look


@pytest.mark.browser
def test_compare_models_layers_and_heads(explore):
    explore.get_by_role("tab", name="Compare").click()
    grid = compare(explore, 3)
    expect(grid.locator(".sl-figure")).to_have_count(6)
    expect(grid.locator(".sl-head").first).to_contain_text("sima_nano_12_p16.safetensors")
    expect(grid.locator(".sl-head mark")).to_have_text(["untrained weights"] * 2)
    expect(grid.locator(".sl-head").last).to_contain_text(
        re.compile(r"forward [\d.]+ ms, attention")
    )

    stages = grid.locator(".sl-stage")
    stages.first.hover(position={"x": 40, "y": 40})
    read = {r.inner_text().partition(":")[0] for r in grid.locator(".sl-readout").all()}
    assert len(read) == 1  # all of the same token
    assert read.pop().startswith("Row ")
    before = [z.bounding_box()["width"] for z in grid.locator(".sl-zoomed").all()]
    grid.get_by_role("button", name="Zoom in").click()
    after = [z.bounding_box()["width"] for z in grid.locator(".sl-zoomed").all()]
    assert all(b == pytest.approx(1.6 * a, rel=0.01) for a, b in zip(before, after, strict=True))
    stages.first.dblclick()
    assert grid.locator(".sl-zoomed").last.bounding_box()["width"] == pytest.approx(before[-1])

    explore.get_by_label("Layers", exact=True).check()
    expect(compare(explore, 3).locator(".sl-head b").nth(1)).to_contain_text("layer 6")
    explore.get_by_label("Heads", exact=True).check()
    expect(compare(explore, 4).locator(".sl-head b").last).to_contain_text("layer 12, head 4")


@pytest.mark.browser
def test_compare_explains_what_cannot_be_shown(explore):
    explore.get_by_role("tab", name="Compare").click()
    explore.get_by_label("Map", exact=True).locator("visible=true").click()
    expect(explore.get_by_label("number input for Layer").locator("visible=true")).to_have_count(1)
    explore.get_by_role("option", name="Rollout").click()
    expect(explore.get_by_label("number input for Layer").locator("visible=true")).to_have_count(0)
    explore.locator("#compare-start").click()
    toast = explore.locator(".toast-body").last  # the model's name as it is written
    expect(toast).to_contain_text("sima_nano_12_p16: rollout needs softmax attention")


@pytest.mark.parametrize("name", ["sima_large_24_p8", "xcit_large_24_p8_384"])
def test_two_of_the_largest_models_can_be_compared(name):
    wide, largest = Image.new("RGB", (640, 427)), Lens(create_model(name, device="meta"))
    assert 2 * visitors.require_affordable(largest, wide, 224) <= visitors.MAX_COST


def test_models_that_take_too_long_together_are_refused(monkeypatch):
    sample = look(sample_photos()[0][0], None, 112)
    alone = visitors.require_affordable(visitors.bundled(), load_image(sample.path), 112)
    monkeypatch.setattr(tab, "MAX_COST", 1.5 * alone)
    models = [tab.MINE, "xcit_nano_12_p16_224"]
    with pytest.raises(InputError, match="together these models take too long"):
        tab.run(sample, None, tab.OF_MODELS, models, [], [], 12, "Token norms", 112)


def test_untrained_weights_are_looked_for_again(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shelf = tab._Shelf()
    first = shelf.get("xcit_nano_12_p16_224")
    assert shelf.get("xcit_nano_12_p16_224") is first
    monkeypatch.setattr(tab, "RETRY_SECONDS", 0.0)
    assert shelf.get("xcit_nano_12_p16_224") is not first  # the Hub may be back
    trained = shelf.get("sima_nano_12_p16")
    assert shelf.get("sima_nano_12_p16") is trained
