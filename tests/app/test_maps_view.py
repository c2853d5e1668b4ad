"""Explore's map selector: the paper's two, and every other map of the registry."""

import html
import io
import json
import re
import zipfile

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from app import page as the_page
from app.tabs.explore import look as paper
from app.tabs.explore.named_map import PAPER, download, draw, draw_named
from app.visitors import FORGOTTEN, MODELS, bundled
from sima_core import load_image
from sima_core.errors import InputError
from sima_core.lens.heatmaps import heatmap, overlay
from sima_core.lens.lens import Lens
from sima_core.lens.maps import MAPS
from tests.app.driving import look, norms, wait_for_change

SIDE = 112


@pytest.fixture
def seen(photo_file):
    return look(str(photo_file), None, SIDE)


@pytest.fixture(scope="module")
def xcit() -> str:
    """The key of a visitor's model in which no token hears another."""
    return MODELS.add(Lens.load("xcit_nano_12_p16_224"))


def values_in(markup: str) -> list[np.ndarray]:
    """What the figures of some markup hold."""
    return [
        np.array(json.loads(found)).reshape(int(rows), int(cols))
        for rows, cols, found in re.findall(
            r'data-rows="(\d+)" data-cols="(\d+)".*?data-norms="([^"]*)"', markup, re.DOTALL
        )
    ]


def expected(photo_file, name: str, layer: int, head: int | None) -> np.ndarray:
    pixels = bundled().preprocess(load_image(photo_file), SIDE)
    return bundled().maps(pixels, layer, [name]).of(name, head)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("layer", "head"), [(12, 0), (5, 2)])
def test_each_map_is_drawn_with_its_words(seen, photo_file, name, layer, head):
    markup = draw_named(seen, layer, head, "inferno", name, None)
    [shown] = values_in(markup)
    np.testing.assert_allclose(shown, expected(photo_file, name, layer, head or None), rtol=1e-4)
    words = html.unescape(markup)
    for said in (MAPS[name].title, MAPS[name].formula, MAPS[name].says):
        assert said in words
    of_class = MAPS[name].needs == "class"
    assert (
        f"Taken in {'class-attention layer 1' if of_class else f'layer {layer}'}, "
        f"{f'head {head}' if head else 'all heads'}"
    ) in words
    assert ("whatever layer is chosen" in words) == of_class


def test_what_flows_is_said_in_numbers(seen, photo_file):
    pixels = bundled().preprocess(load_image(photo_file), SIDE)
    totals = bundled().flow(pixels, 12).totals()
    words = draw_named(seen, 12, 0, "inferno", "received", None)
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", words))
    assert "negative" in facts[f"{100 * totals.negative_share:.0f} %"]
    assert "cancel" in facts[f"{100 * totals.cancelled:.0f} %"]
    [error] = [float(number) for number in facts if "e-" in number]
    assert error < 1e-5
    of_a_head = draw_named(seen, 12, 1, "inferno", "received", None)
    assert len(re.findall("<dt>", of_a_head)) == 2  # no layer gives one head's output
    assert "<dt>" not in draw_named(seen, 12, 0, "inferno", "query_key", None)


def test_the_papers_two_are_drawn_as_ever_and_run_no_model(seen, monkeypatch):
    for gone in ("analyze", "maps", "flow", "norms"):
        monkeypatch.setattr(Lens, gone, None)
    pictures, facts = paper.draw(seen, 7, 1, "viridis")
    assert draw(seen, 7, 1, "viridis", PAPER) == (pictures, facts, "")
    assert draw_named(seen, 7, 1, "viridis", PAPER, None) == pictures
    to_come = [draw(seen, 7, 1, "viridis", "sent") for _ in range(2)]
    assert [found[:2] for found in to_come] == 2 * [(gr.skip(), facts)]
    assert to_come[0][2] != to_come[1][2]


def test_a_map_that_the_model_lacks_gives_a_sentence(photo_file, xcit):
    seen = look(str(photo_file), xcit, 64)
    words = html.unescape(draw_named(seen, 12, 0, "inferno", "sent", xcit))
    assert "Layer 12 (XCA) has no map “Sent”" in words
    assert "choose Query, Key, Query × key" in words
    assert not values_in(words)
    with pytest.raises(InputError, match="has no map"):
        download(seen, 12, 0, "inferno", "sent", 0.5, xcit)
    there = html.unescape(draw_named(seen, 12, 0, "inferno", "class_contribution", xcit))
    assert "Untrained weights" in there


def test_what_is_shown_is_what_is_packed(seen, photo, photo_file):
    with zipfile.ZipFile(download(seen, 12, 2, "viridis", "sent", 0.3, None)) as archive:
        names = archive.namelist()
        ends = ("npz", "png", "json")
        assert names == [f"photo_layer12_sent.{end}" for end in ends]
        [npz, png, about] = [archive.read(name) for name in names]
    found = np.load(io.BytesIO(npz))["sent"]
    np.testing.assert_allclose(found, expected(photo_file, "sent", 12, 2), rtol=1e-5)
    picture = overlay(photo, heatmap(found), "viridis", 0.3)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), picture)
    described = json.loads(about)
    assert (described["layer"], described["head"]) == (12, 2)
    assert described["sent_range"] == [found.min(), found.max()]


def test_bad_calls_get_a_sentence(seen, photo_file, xcit):
    with pytest.raises(InputError, match="a map is one of"):
        draw_named(seen, 12, 0, "inferno", "nope", None)
    with pytest.raises(InputError, match="another model made what is shown"):
        draw_named(seen, 12, 0, "inferno", "sent", xcit)
    with pytest.raises(InputError, match="visit was forgotten"):
        draw_named(seen, 12, 0, "inferno", "sent", FORGOTTEN)
    for handler in (draw, draw_named, download):
        more = {draw: (), draw_named: (None,), download: (0.5, None)}[handler]
        for name in (PAPER, "sent"):
            with pytest.raises(InputError, match="visit was forgotten"):
                handler(None, 12, 0, "inferno", name, *more)
    photo_file.unlink()
    with pytest.raises(InputError, match="no longer here"):
        draw_named(seen, 12, 0, "inferno", "sent", None)


def test_a_visit_keeps_nothing_of_what_is_computed_when_asked():
    demo = the_page.build()
    handlers = {fn.name: fn for fn in demo.fns.values()}
    for name in ("draw_named", "knock_out", "explain"):
        assert not any(isinstance(one, gr.State) for one in handlers[name].outputs)


def choose(page, title: str) -> None:
    page.locator("#map-choice input").click()
    page.get_by_role("option", name=title).first.click()


@pytest.mark.browser
def test_choosing_a_map_in_the_browser(explore):
    maps = explore.locator("#maps")
    choose(explore, MAPS["sent"].title + ":")
    expect(maps.locator(".sl-named-map")).to_contain_text(MAPS["sent"].says)
    expect(maps.locator(".sl-figure")).to_have_count(1)
    before = norms(explore)
    slider = explore.get_by_label("range slider for Layer")
    slider.focus()
    for _ in range(4):  # faster than they are computed
        explore.keyboard.press("ArrowLeft")
    expect(maps.locator(".sl-named-map")).to_contain_text("layer 8", timeout=20_000)
    expect(explore.locator("#explore .sl-summary")).to_contain_text("layer 8 of 12")
    assert norms(explore) != before
    choose(explore, "Q̂ and K̂")
    expect(maps.locator(".sl-figure")).to_have_count(2)
    expect(maps.locator(".sl-named-map")).to_have_count(0)


@pytest.mark.browser
def test_a_new_photo_is_shown_in_the_chosen_map(explore):
    choose(explore, MAPS["query_key"].title + ":")
    expect(explore.locator("#maps .sl-named-map")).to_be_visible()
    before = norms(explore)
    explore.locator("#samples button").nth(1).click()
    expect(explore.locator("#explore .sl-summary")).to_contain_text("lion")
    explore.wait_for_function(
        "before => document.querySelector('#maps .sl-figure')?.dataset.norms !== before",
        arg=before[0],
    )
    expect(explore.locator("#maps .sl-figure")).to_have_count(1)


@pytest.mark.browser
def test_a_slow_map_is_not_drawn_over_the_next_one(explore):
    before = norms(explore)
    explore.get_by_label("Resolution").click()
    explore.get_by_role("option", name="640 px").click()
    wait_for_change(explore, norms, before)
    choose(explore, MAPS["sent"].title + ":")
    explore.wait_for_timeout(300)  # it is computed for a second or two
    choose(explore, "Q̂ and K̂")
    explore.wait_for_timeout(3000)
    expect(explore.locator("#maps .sl-figure")).to_have_count(2)
    choose(explore, MAPS["query_key"].title + ":")
    expect(explore.locator("#maps .sl-named-map")).to_contain_text(MAPS["query_key"].says)
