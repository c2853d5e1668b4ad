"""Explore's panel "When not to believe these maps": in the browser, and its handler."""

import re
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from app.standing import standing_in_words, strip_html, yardstick
from app.tabs.explore import trust
from app.tabs.explore.named_map import PAPER
from app.visit import Look
from app.visitors import MODELS
from sima_core import Lens, load_image, load_model
from sima_core.errors import InputError
from sima_core.files import ASSETS
from sima_core.scoring.sanity import sanity
from sima_core.scoring.standing import Distribution
from tests.app.driving import heat, look, wait_for_change

TWIN = ASSETS / "twins" / "deit_nano_patch16_224.safetensors"


def check(page: Page) -> None:
    page.locator("#trust-check").click()
    expect(page.locator(".sl-trust[data-checked]:not(.sl-outdated)")).to_be_visible(timeout=60_000)


def shown_steps(page: Page) -> list[list[bool]]:
    """Which of the pictures of either map is to be seen."""
    return page.locator(".sl-step").evaluate_all(
        "figures => figures.map(f => [...f.querySelectorAll('img')].map(i => !i.hidden))"
    )


@pytest.mark.browser
def test_checks_when_asked_and_slides_without_a_request(explore):
    panel = explore.locator("#trust")
    expect(panel).to_contain_text("A map can look right for reasons")
    check(explore)
    expect(panel.locator(".sl-advice li")).to_have_count(2)
    expect(panel.locator(".sl-advice li").first).to_contain_text("Fine to read: no check speaks")
    expect(panel.locator(".sl-check")).to_have_count(5)
    expect(panel.locator(".sl-strip")).to_have_count(11)
    expect(panel).to_contain_text("cannot depend on either")
    learnt = panel.locator("[data-check=random] li").first
    expect(learnt).to_contain_text(re.compile(r"−?0\.\d\d"))
    expect(learnt).to_contain_text(re.compile(r"(higher|lower) than \d+\s% of 94 COCO pictures"))

    asked: list[str] = []
    explore.on("request", lambda r: asked.append(r.url) if r.url.startswith("http") else None)
    assert [sum(one) for one in shown_steps(explore)] == [1, 1]
    expect(panel.locator(".sl-steps output")).to_have_text("As trained")
    panel.locator(".sl-steps input").fill("12")
    expect(panel.locator(".sl-steps output")).to_have_text("Layer 12 down to layer 1 random")
    for one in shown_steps(explore):
        assert one == [at == 12 for at in range(14)]
    number = panel.locator("[data-check=random] strong").first.inner_text()
    expect(panel.locator(".sl-step output").first).to_have_text(f"rank correlation {number}")
    expect(panel.locator("circle.sl-here")).to_have_count(2)
    panel.locator(".sl-steps input").press("ArrowRight")
    expect(panel.locator(".sl-steps output")).to_contain_text("nothing that was learnt is left")
    explore.wait_for_timeout(300)
    assert not asked


@pytest.mark.browser
def test_says_when_the_view_is_another(explore):
    check(explore)
    stale = explore.get_by_text("These checks are of another view")
    expect(stale).to_be_hidden()
    explore.get_by_label("number input for Layer").fill("3")
    explore.keyboard.press("Enter")
    expect(stale).to_be_visible()
    check(explore)
    expect(stale).to_be_hidden()
    expect(explore.locator("#trust")).to_contain_text("layer 3, all heads")
    expect(explore.locator("#trust")).to_contain_text(
        "your view is another, so they are a yardstick"
    )
    before = heat(explore)
    explore.locator("#samples button").nth(1).click()
    wait_for_change(explore, heat, before)
    expect(stale).to_be_visible()


@pytest.mark.browser
def test_own_checkpoints_and_attention_without_token_weights(explore, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(load_model("xcit_nano_12_p16_224").state_dict(), path)
    explore.get_by_role("button", name="Use your own checkpoint").click()
    explore.locator("#explore-settings input[type=file]").set_input_files(path)
    expect(explore.locator(".sl-summary")).to_contain_text("xcit_nano", timeout=30_000)
    check(explore)
    expect(explore.locator(".sl-advice li").first).to_contain_text(
        "Do not read: random layers draw"
    )
    expect(explore.locator("[data-check=agreement]")).to_contain_text("Not available: XCA mixes")


@pytest.fixture
def seen(photo_file: Path) -> Look:
    return look(str(photo_file), None, 112)


def test_the_numbers_are_those_of_the_library(seen, model, photo_file):
    panel = str(trust.check(seen, 5, 1, "gray", PAPER, None))
    lens = Lens(model)
    pixels = lens.preprocess(load_image(photo_file), 112)
    for one in sanity(lens, pixels, 5, head=1).values():
        assert one.verdict().advice in panel.lower()
        for value in (one.random, one.mirror, one.centre, one.largest, *one.agreement.values()):
            assert f"<strong>{value:.2f}".replace("-", "−") in panel
        for step in one.steps:
            assert str(step.correlation) in panel
    assert "layer 5, head 1" in panel


def test_the_softmax_twin_is_checked_alike(photo_file):
    key = MODELS.add(Lens.load(TWIN))
    try:
        seen = look(str(photo_file), key, 112)
        panel = str(trust.check(seen, 12, 0, "gray", PAPER, key))
        with pytest.raises(InputError, match="another model made what is shown"):
            trust.check(seen, 12, 0, "gray", PAPER, None)
    finally:
        MODELS.drop(key)
    assert "deit_nano_patch16_224" in panel
    assert "<b>Q</b>" in panel  # no hat where nothing is normalised


def test_what_cannot_be_checked_gets_a_sentence(seen, monkeypatch, photo_file):
    with pytest.raises(InputError, match="choose the photo again"):
        trust.check(None, 12, 0, "gray", PAPER, None)
    with pytest.raises(InputError, match="this visit was forgotten"):
        trust.check(seen, 12, 0, "gray", PAPER, "")
    monkeypatch.setattr(trust, "MAX_CHECKS_COST", 1)
    with pytest.raises(InputError, match="choose a lower resolution"):
        trust.check(seen, 12, 0, "gray", PAPER, None)
    photo_file.unlink()
    with pytest.raises(InputError, match="the photo is no longer here"):
        trust.check(seen, 12, 0, "gray", PAPER, None)


def test_standing_in_words():
    found = Distribution(tuple(n / 10 for n in range(11)))
    said = [standing_in_words(found, value, 94) for value in (-1, 0.2, 0.75, 0.9999, 2)]
    assert [words.replace("\N{NO-BREAK SPACE}", " ") for words in said] == [
        "lower than all 94 COCO pictures",
        "lower than 80 % of 94 COCO pictures",
        "higher than 75 % of 94 COCO pictures",
        "higher than 99 % of 94 COCO pictures",
        "higher than all 94 COCO pictures",
    ]


def test_a_strip_holds_all_and_this_one():
    found = Distribution(tuple(n / 10 for n in range(11)))
    strip = str(strip_html(found, 2, "care"))
    places = [float(n) for n in re.findall(r"left:([\d.]+)%", strip)]
    assert places == [0.0, 5.0, 25.0, 100.0]  # all, from 0.1, the median and 2, on a scale to 2
    assert "width:40.0%" in strip
    assert "sl-level-care" in strip
    assert "2.00; COCO pictures" in strip


def test_both_yardsticks_hold_what_the_panel_shows():
    for folder in ("", "twins"):
        for name in ("query", "key"):
            for figure in ("random", "mirror", "centre", "largest", "output"):
                assert yardstick(folder).of(name, figure)
    assert yardstick().of("query", "loudness") is None


@pytest.mark.parametrize("name", ["sent", "class_contribution"])
def test_maps_that_are_exact_sizes_are_not_held_against_norms(seen, name):
    panel = str(trust.check(seen, 12, 0, "gray", name, None))
    assert "Nothing to compare: this map is an exact size itself." in panel
    assert "may well be lopsided" in panel
    assert "outlier" not in panel.partition('data-check="outliers"')[2].partition("</ul>")[0]
    assert "mixes channels" not in panel
