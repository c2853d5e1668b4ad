"""Explore's map of why one label and not the other."""

import html
import json
import re

import numpy as np
import pytest
from playwright.sync_api import expect

from app.tabs.explore import why
from app.tabs.explore.why import NO_LABEL, begin, explain
from app.visitors import FORGOTTEN, MODELS, bundled
from sima_core import load_image
from sima_core.errors import InputError
from sima_core.lens.lens import Lens
from tests.app.driving import look

SIDE = 112


@pytest.fixture
def seen(photo_file):
    return look(str(photo_file), None, SIDE)


def labels(seen) -> list[int]:
    return [one.index for one in seen.analysis.predictions]


def values_in(markup: str) -> np.ndarray:
    found = re.search(r'data-norms="([^"]*)"', markup)
    return np.array(json.loads(html.unescape(found[1])))


@pytest.mark.parametrize("second", [1, None])
def test_the_map_and_its_sentence_are_the_librarys(seen, photo_file, second):
    label, other = labels(seen)[0], None if second is None else labels(seen)[second]
    markup = explain(seen, None, label, NO_LABEL if other is None else other)
    lens = bundled()
    along = lens.why(lens.preprocess(load_image(photo_file), SIDE), label, other).on_grid("along")
    np.testing.assert_allclose(values_in(markup), along.ravel(), rtol=1e-4, atol=1e-7)
    low, high = (float(re.search(rf'data-{end}="([^"]*)"', markup)[1]) for end in ("min", "max"))
    assert high == pytest.approx(np.abs(along).max(), rel=1e-5)
    assert low == -high

    words = " ".join(html.unescape(markup).split())
    row, col = np.unravel_index(along.argmax(), along.shape)
    names = lens.provenance.labels
    told = f"<b>{names[label]}</b>" + (
        f" and not <b>{names[other]}</b>" if other is not None else ""
    )
    assert f"The token at row {row + 1}, column {col + 1} speaks most for {told};" in words
    share = -along.clip(max=0).sum() / np.abs(along).sum()
    assert f"{100 * share:.0f} % of all that is said, by size, speaks against it" in words
    assert "first order only" in words
    assert "in class-attention layer 1, along the gradient" in words


def test_where_the_class_token_is_among_the_patches_it_is_that_layer(photo_file):
    key = MODELS.add(Lens.load("deit_nano_patch16_224"))
    seen = look(str(photo_file), key, 64)
    words = explain(seen, key, labels(seen)[0], labels(seen)[1])
    assert "Untrained weights" in words
    assert "in layer 12, along" in words
    MODELS.drop(key)


def test_a_model_without_class_token_gets_a_sentence(seen, monkeypatch):
    def none(*_: object) -> None:
        raise InputError("no class token takes part")

    monkeypatch.setattr(why, "class_layer", none)
    assert "no class token" in explain(seen, None, *labels(seen)[:2])


def test_bad_calls_get_a_sentence(seen, photo_file):
    first, second, *_ = labels(seen)
    stranger = next(i for i in range(1000) if i not in labels(seen))
    for label, over in ((None, first), (stranger, first), (first, stranger), (NO_LABEL, first)):
        with pytest.raises(InputError, match="choose labels among those"):
            explain(seen, None, label, over)
    with pytest.raises(InputError, match="two labels that differ"):
        explain(seen, None, first, first)
    for gone, key in ((None, None), (seen, FORGOTTEN)):
        with pytest.raises(InputError, match="visit was forgotten"):
            explain(gone, key, first, second)
    with pytest.raises(InputError, match="visit was forgotten"):
        begin(None)
    photo_file.unlink()
    with pytest.raises(InputError, match="no longer here"):
        explain(seen, None, first, second)


@pytest.mark.browser
def test_asking_why_in_the_browser(explore):
    part, figure = explore.locator("#why"), explore.locator("#why .sl-figure")
    first, second = explore.locator(".sl-predictions .sl-label").all_inner_texts()[:2]
    part.get_by_role("button", name="Show why").click()
    expect(figure).to_contain_text(f"Why {first} and not {second}", timeout=20_000)
    values = np.array(json.loads(figure.get_attribute("data-norms")))
    at = int(values.argmin())
    stage = figure.locator(".sl-stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    row, col = divmod(at, 14)
    stage.hover(
        position={"x": box["width"] * (col + 0.5) / 14, "y": box["height"] * (row + 0.5) / 14}
    )
    share = round(100 * abs(values[at]) / np.abs(values).max())
    expect(figure.locator(".sl-readout")).to_have_text(
        re.compile(rf"^Row {row + 1}, column {col + 1}: -.* \(against, {share} % of the largest\)$")
    )
    part.get_by_label("and not", exact=True).click()
    explore.get_by_role("option", name="(none)").click()
    part.get_by_role("button", name="Show why").click()
    expect(figure).to_contain_text(re.compile(rf"Why {re.escape(first)}\s+red"), timeout=20_000)

    explore.locator("#samples button").nth(1).click()
    expect(explore.locator("#explore .sl-summary")).to_contain_text("lion")
    expect(figure).to_have_count(0)
    names = explore.locator(".sl-predictions .sl-label").all_inner_texts()
    expect(part.get_by_label("Why", exact=True)).to_have_value(names[0])
    part.get_by_label("and not", exact=True).click()
    options = explore.get_by_role("option").all_inner_texts()
    assert [text.strip(" \n✓") for text in options] == [*names, "(none)"]
