"""Explore's brush: tokens marked over the pictures, and what the model says without them."""

import html
import re
from collections.abc import Sequence
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from app import page
from app.arguments import read
from app.tabs.explore import brush
from app.tabs.explore.brush import (
    MAX_MARKS,
    begin,
    changes_html,
    knock_out,
    read_marks,
    write_marks,
)
from app.tabs.explore.samples import sample_photos
from app.visit import CocoLook
from app.visitors import FORGOTTEN, MAX_TOKENS, MODELS, bundled
from sima_core import load_image
from sima_core.coco.split import CocoSplit
from sima_core.errors import InputError
from sima_core.lens.knockout import KnockOut
from sima_core.lens.lens import Lens
from tests.app.driving import look, norms, wait_for_change

SIDE = 112  # 7 × 7 tokens for a square photo
SAMPLE = sample_photos()[0][0]


@pytest.fixture
def seen(photo_file):
    return look(str(photo_file), None, SIDE)


def square(grid: tuple[int, int], rows: slice, cols: slice) -> np.ndarray:
    gone = np.zeros(grid, dtype=bool)
    gone[rows, cols] = True
    return gone


def tokens(gone: np.ndarray) -> list[tuple[int, int]]:
    return [(int(r) + 1, int(c) + 1) for r, c in np.argwhere(gone)]


def cells(markup: str) -> dict[str, list[float]]:
    """Each label's bars, in percent: before, without, predicted."""
    rows = re.findall(r'<tr><th><span class="sl-label">(.*?)</span>(.*?)</tr>', markup, re.DOTALL)
    return {
        html.unescape(label): [float(n) for n in re.findall(r"--sl-to:([\d.]+)%", bars)]
        for label, bars in rows
    }


@pytest.mark.parametrize("grid", [(1, 1), (1, 3), (7, 7), (14, 14), (5, 23)])
def test_marks_come_back_as_they_were_written(grid):
    gone = np.random.default_rng(3).random(grid) < 0.4
    text = write_marks(gone)
    assert re.fullmatch(rf"{grid[0]}x{grid[1]}:[0-9a-f]{{{-(-gone.size // 4)}}}", text)
    np.testing.assert_array_equal(read_marks(text, grid), gone)


def test_the_longest_marks_fit_and_no_longer_ones_are_read():
    longest = write_marks(np.ones((MAX_TOKENS // 2, 2), dtype=bool))
    box = next(fn for fn in page.build().fns.values() if fn.name == "knock_out").inputs[-1]
    assert read(box, longest, "Marked tokens") == longest
    with pytest.raises(gr.Error, match="at most"):
        read(box, "9" * (MAX_MARKS + 1), "Marked tokens")


@pytest.mark.parametrize(
    "text",
    [
        *("nonsense", "7x7", "7x7:", "7x7:zz", "7x7:" + "0" * 12, "7x7:" + "0" * 14),
        *("7x7:" + "0" * 12 + "1", "7x7:" + "F" * 13, "07x7:0", "-7x7:0", "٧x7:0"),
        *("5x9:000000000000", "99999x99999:ff", "7x7:" + "0" * 13 + "\n"),
    ],
)
def test_what_marks_no_tokens_of_this_grid_gets_a_sentence(text, seen):
    with pytest.raises(InputError) as caught:
        read_marks(text, (7, 7))
    assert len(str(caught.value)) <= 200
    with pytest.raises(InputError):
        knock_out(seen, None, text)


def test_the_bars_are_those_of_the_library(seen, photo_file):
    grid = seen.analysis.grid
    gone = square(grid, slice(2, 5), slice(3, 8))
    markup = knock_out(seen, None, write_marks(gone))
    lens = bundled()
    pixels = lens.preprocess(load_image(photo_file), SIDE)
    found = lens.without(pixels, tokens(gone))
    shown = cells(markup)
    best = np.argsort(-found.before)[:5]
    assert list(shown)[:5] == [lens.provenance.labels[i] for i in best]
    for index in best:
        expected = [100 * p[index] for p in (found.before, found.real, found.predicted)]
        assert shown[lens.provenance.labels[index]] == pytest.approx(expected, abs=0.006)
    words = html.unescape(markup).replace("\N{NO-BREAK SPACE}", " ")
    assert f"Without 15 of {grid[0] * grid[1]} tokens:" in words
    first = best[0]
    told = re.search(r"</b> (\S+) % →\s*<b>(\S+) %</b>; predicted (\S+) %", words)
    assert [float(n) for n in told.groups()] == pytest.approx(
        [100 * p[first] for p in (found.before, found.real, found.predicted)], abs=0.51
    )


def test_nothing_marked_is_nothing_said_and_one_token_must_be_left(seen, monkeypatch):
    monkeypatch.setattr(Lens, "without", None)  # no model is run
    grid = seen.analysis.grid
    for nothing in (None, "", write_marks(np.zeros(grid, dtype=bool))):
        assert knock_out(seen, None, nothing) == ""
    assert "leave at least one" in knock_out(seen, None, write_marks(np.ones(grid, dtype=bool)))


def test_a_label_that_takes_the_lead_gets_bars_too():
    labels = tuple("abcdefgh")
    before = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.08, 0.05, 0.02], np.float32)
    real, predicted = np.roll(before, 6), np.roll(before, 7)  # led by g, and by h
    found = KnockOut(((1, 1),), (2, 2), before, real, predicted)
    origin = bundled().provenance
    markup = changes_html(found, replace(origin, labels=labels, trained=False))
    assert list(cells(markup)) == [*"abcde", "g", "h"]
    words = html.unescape(markup)
    assert "Now <b>g</b> leads" in words
    assert "Untrained weights" in words


@pytest.mark.parametrize(
    ("name", "predicts"),
    [("xcit_nano_12_p16_224", False), ("sima_cvt_13", True), ("deit_nano_patch16_224", True)],
)
def test_other_families(photo_file, name, predicts):
    key = MODELS.add(Lens.load(name))
    seen = look(str(photo_file), key, 64)
    gone = square(seen.analysis.grid, slice(0, 2), slice(0, 2))
    markup = knock_out(seen, key, write_marks(gone))
    assert {len(bars) for bars in cells(markup).values()} == {3 if predicts else 2}
    assert ("No prediction" in markup) == (not predicts)
    assert "Untrained weights" in markup
    MODELS.drop(key)


def test_bad_calls_get_a_sentence(seen, photo_file):
    marks = write_marks(square(seen.analysis.grid, slice(0, 1), slice(0, 1)))
    with pytest.raises(InputError, match="visit was forgotten"):
        knock_out(None, None, marks)
    with pytest.raises(InputError, match="visit was forgotten"):
        begin(None, None)
    with pytest.raises(InputError, match="visit was forgotten"):
        knock_out(seen, FORGOTTEN, marks)
    photo_file.unlink()
    with pytest.raises(InputError, match="no longer here"):
        knock_out(seen, None, marks)


# Only the object


@pytest.fixture
def split(coco_root) -> CocoSplit:
    return CocoSplit(coco_root, "val2017")


def of_coco(split: CocoSplit, number: int) -> CocoLook:
    analysis = bundled().analyze(split.load(number), 64)
    return CocoLook(split.split, split.picture(number), split.path(number), analysis, None)


def test_only_the_object_keeps_the_tokens_that_objects_touch(split):
    shown = of_coco(split, 2)  # one cat, 40 pixels wide, at (40, 30) of 120 × 90
    seen = look(str(shown.path), None, 224)
    outside = brush.outside_objects(seen, shown)
    rows, cols = seen.analysis.grid
    wide, high = 120 / cols, 90 / rows
    for row in range(rows):
        for col in range(cols):
            touched = (col + 1) * wide > 40 and col * wide < 80
            touched &= (row + 1) * high > 30 and row * high < 70
            margin = min(abs((col + 1) * wide - 40), abs(col * wide - 80))
            margin = min(margin, abs((row + 1) * high - 30), abs(row * high - 70))
            if margin > 1:  # a pixel that only its edge touches may go either way
                assert outside[row, col] == (not touched), (row, col)
    bar = begin(seen, shown)[0]
    assert write_marks(outside) in bar
    assert "Only the object" in bar


def test_no_other_photo_is_offered_only_the_object(split, photo_file, tmp_path):
    shown = of_coco(split, 2)
    namesake = tmp_path / "coco-2.jpg"
    namesake.write_bytes(photo_file.read_bytes())
    for path, there in (
        (photo_file, shown),
        (namesake, shown),
        (split.path(1), shown),
        (split.path(2), None),
        (split.path(3), of_coco(split, 3)),  # nothing is annotated
        (split.path(5), of_coco(split, 5)),  # objects cover everything
    ):
        seen = look(str(path), None, 64)
        assert "Only the object" not in begin(seen, there)[0]


def test_coco_that_was_taken_away_takes_only_that_button(split, monkeypatch):
    shown = of_coco(split, 2)
    seen = look(str(shown.path), None, 64)
    assert "Only the object" not in begin(seen, replace(shown, split="train2017"))[0]


# In the browser


class Brushing:
    """Explore with the brush in hand."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.stages = page.locator("#maps .sl-stage")
        self.words = page.locator("#brush output")
        self.result = page.locator("#brush-result .sl-without")

    def press(self, name: str) -> None:
        self.page.locator("#brush").get_by_role("button", name=name, exact=True).click()

    def middle(self, row: float, col: float, stage: int = 0, of: int = 14) -> tuple[float, float]:
        box = self.stages.nth(stage).bounding_box()
        return (
            box["x"] + box["width"] * (col - 0.5) / of,
            box["y"] + box["height"] * (row - 0.5) / of,
        )

    def drag(self, *places: tuple[float, float], stage: int = 0, steps: int = 1) -> None:
        self.stages.nth(stage).scroll_into_view_if_needed()
        first, *rest = [self.middle(*place, stage) for place in places]
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for at in rest:
            self.page.mouse.move(*at, steps=steps)
        self.page.mouse.up()

    def marked(self) -> set[tuple[int, int]]:
        """What is striped, in every picture alike."""
        paths = self.page.locator("#maps .sl-gone path").evaluate_all(
            "all => all.map(one => one.getAttribute('d'))"
        )
        assert len(set(paths)) == 1
        return {
            (int(row) + 1, int(col) + 1)
            for col, row in re.findall(r"M(\d+) (\d+)h1v1h-1z", paths[0])
        }

    def wait_for(self, count: int) -> None:
        expect(self.words).to_have_text(f"{count} of 196 tokens brushed away")
        expect(self.result).to_contain_text(f"Without {count} of 196 tokens", timeout=20_000)


@pytest.fixture
def brushing(explore: Page) -> Brushing:
    found = Brushing(explore)
    found.press("Brush tokens away")
    return found


def row_of(row: int, cols: Sequence[int]) -> set[tuple[int, int]]:
    return {(row, col) for col in cols}


def bars(result: Locator) -> list[list[float]]:
    """Percents of the rows, as the page shows them."""
    rows = result.locator("tbody tr").all()
    return [
        [
            float(text.replace("\N{NO-BREAK SPACE}%", ""))
            for text in row.locator(".sl-percent").all_inner_texts()
        ]
        for row in rows
    ]


@pytest.mark.browser
def test_a_stroke_of_the_mouse_moves_the_bars(brushing):
    brushing.drag((5, 3), (5, 9), (8, 9))  # so quick that the mouse is seen at its corners only
    marked = {*row_of(5, range(3, 10)), (6, 9), (7, 9), (8, 9)}
    assert brushing.marked() == marked
    brushing.wait_for(10)
    lens = bundled()
    found = lens.without(lens.preprocess(load_image(SAMPLE)), sorted(marked))
    best = np.argsort(-found.before)[:5]
    shown = bars(brushing.result)
    for row, index in zip(shown, best, strict=False):
        expected = [100 * p[index] for p in (found.before, found.real, found.predicted)]
        assert row == pytest.approx(expected, abs=0.6)
    expect(brushing.result.locator("thead")).to_contain_text("Predicted")


@pytest.mark.browser
def test_what_is_marked_is_brought_back_by_a_stroke_that_begins_on_it(brushing):
    brushing.drag((5, 3), (5, 9))
    brushing.drag((5, 6), (5, 12), stage=1)
    assert brushing.marked() == row_of(5, (3, 4, 5))


@pytest.mark.browser
def test_undo_invert_and_clear(brushing):
    brushing.drag((1, 1), (1, 4))
    brushing.drag((14, 1), (14, 2))
    both = row_of(1, range(1, 5)) | row_of(14, (1, 2))
    brushing.press("Invert")
    assert brushing.marked() == {(r, c) for r in range(1, 15) for c in range(1, 15)} - both
    brushing.wait_for(190)
    brushing.press("Undo")
    assert brushing.marked() == both
    brushing.press("Undo")
    assert brushing.marked() == row_of(1, range(1, 5))
    brushing.wait_for(4)
    brushing.press("Clear")
    assert brushing.marked() == set()
    expect(brushing.result).to_have_count(0)
    brushing.press("Undo")
    assert brushing.marked() == row_of(1, range(1, 5))
    brushing.press("Clear")
    brushing.press("Invert")
    expect(brushing.result).to_contain_text("leave at least one")


@pytest.mark.browser
def test_shift_and_arrows_mark_from_the_cursor(brushing):
    stage = brushing.stages.first
    stage.focus()
    brushing.page.keyboard.press("ArrowRight")  # the cursor comes, to the middle
    assert brushing.marked() == set()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        brushing.page.keyboard.press(f"Shift+{key}")
    assert brushing.marked() == {(8, 8), (8, 9), (8, 10), (9, 10)}
    brushing.wait_for(4)
    brushing.press("Undo")
    assert brushing.marked() == {(8, 8), (8, 9), (8, 10)}


@pytest.mark.browser
def test_a_finger_brushes_and_does_not_scroll(brushing):
    page = brushing.page
    brushing.stages.first.scroll_into_view_if_needed()
    assert brushing.stages.first.evaluate("e => getComputedStyle(e).touchAction") == "none"
    scrolled = page.evaluate("scrollY")
    touch = page.context.new_cdp_session(page)

    def send(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y} for x, y in places]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", brushing.middle(3, 4))
    for col in (5, 6, 7):
        send("touchMove", brushing.middle(3, col))
    send("touchEnd")
    assert brushing.marked() == row_of(3, range(4, 8))
    brushing.wait_for(4)
    assert page.evaluate("scrollY") == scrolled


@pytest.mark.browser
def test_in_a_zoomed_picture_a_stroke_brushes_and_moves_nothing(brushing):
    page = brushing.page
    page.get_by_role("button", name="Zoom in").first.click()
    page.get_by_role("button", name="Zoom in").first.click()
    where = "document.querySelector('#maps .sl-zoomed').getBoundingClientRect().toJSON()"
    brushing.stages.first.scroll_into_view_if_needed()
    before = page.evaluate(where)
    box = brushing.stages.first.bounding_box()
    at = [(box["x"] + s * box["width"], box["y"] + 0.5 * box["height"]) for s in (0.3, 0.7)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=5)
    page.mouse.up()
    assert page.evaluate(where) == before
    cols = [int(14 * (x - before["x"]) / before["width"]) + 1 for x, _ in at]
    row = int(14 * (at[0][1] - before["y"]) / before["height"]) + 1
    assert brushing.marked() == row_of(row, range(cols[0], cols[1] + 1))

    brushing.press("Brush tokens away")  # put down: now the picture moves, and nothing is marked
    marked = brushing.marked()
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=5)
    page.mouse.up()
    assert brushing.marked() == marked
    assert page.evaluate(where) != before


@pytest.mark.browser
def test_marks_stay_for_another_layer_and_go_with_another_photo(brushing):
    page = brushing.page
    brushing.drag((5, 3), (5, 9))
    brushing.wait_for(7)
    before = norms(page)
    page.get_by_label("number input for Layer").fill("3")
    page.keyboard.press("Enter")
    wait_for_change(page, norms, before)
    assert brushing.marked() == row_of(5, range(3, 10))
    page.locator("#samples button").nth(1).click()
    expect(page.locator("#explore .sl-summary")).to_contain_text("lion")
    expect(brushing.result).to_have_count(0)
    expect(brushing.words).to_have_text(re.compile("^Drag over a picture"))
    assert brushing.marked() == set()
    brushing.drag((5, 3), (5, 9))  # the very same marks are asked about again
    brushing.wait_for(7)


@pytest.mark.browser
def test_without_the_brush_nothing_is_marked(explore):
    found = Brushing(explore)
    found.drag((5, 3), (5, 9))
    found.stages.first.focus()
    explore.keyboard.press("Shift+ArrowRight")
    assert found.marked() == set()
    expect(explore.locator("#brush").get_by_role("button", name="Undo")).to_be_hidden()


@pytest.mark.browser
def test_only_the_object_of_a_picture_of_coco(coco, split):
    coco.locator(".sl-tiles button[data-picture='2']").click()
    expect(coco.locator("#coco-detail .sl-figure")).to_have_count(2, timeout=20_000)
    assert coco.locator("#coco-detail .sl-gone").count() == 0
    coco.get_by_role("button", name="Open in Explore").click()
    only = coco.locator("#brush").get_by_role("button", name="Only the object")
    expect(only).to_be_visible(timeout=20_000)
    only.click()
    seen = look(str(split.path(2)), None, 224)
    outside = brush.outside_objects(seen, of_coco(split, 2))
    found = Brushing(coco)
    expect(found.result).to_contain_text(
        f"Without {outside.sum()} of {outside.size} tokens", timeout=20_000
    )
    assert found.marked() == set(tokens(outside))
    coco.locator("#samples button").first.click()
    expect(only).to_have_count(0, timeout=20_000)
