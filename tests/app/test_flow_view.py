"""The flow view of Explore: its numbers, its handlers, and the page that follows the pointer."""

import base64
import gc
import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from app.page import build
from app.tabs.explore import flow as view
from app.tabs.explore.samples import sample_photos
from app.visitors import MODELS
from sima_core import load_image, load_model
from sima_core.errors import InputError
from sima_core.files import ASSETS
from sima_core.lens.flow import Flow
from sima_core.lens.lens import Lens
from sima_core.models.architectures import create_model
from tests.app.client import Visitor
from tests.app.driving import look, norms, wait_for_change

CHEETAH = sample_photos()[0][0]
TWIN = ASSETS / "twins" / "deit_nano_patch16_224.safetensors"
#: How far half precision may lead away, by a map's largest value.
HALF = 2e-3
#: Patches' tokens by row and column, from 1, on a grid of 14 × 14.
TOKENS = [(1, 1), (7, 8), (14, 3)]


class Card(HTMLParser):
    """A card's numbers, read as the page's script reads them, but by other code."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.text = ""
        self.data: dict[str, str] = {}
        self.feed(markup)
        self.about = json.loads(self.data["data-about"])

    def handle_starttag(self, tag, attrs):
        self.data |= dict(attrs) if tag == "section" else {}

    def handle_data(self, data):
        self.text += re.sub(r"\s+", " ", data)

    def array(self, name: str, kind: str = "<f2") -> np.ndarray:
        return np.frombuffer(base64.b64decode(self.data[f"data-{name}"]), kind)

    def halves(self, name: str) -> np.ndarray:
        """(heads, tokens, channels), times the heads' scales."""
        raw = self.array(name).astype(np.float64).reshape(self.about["heads"], -1)
        raw *= np.array(self.about["scales"][name])[:, None]
        return raw if name == "value-norm" else raw.reshape(*raw.shape[:1], -1, self.about["width"])

    def weights(self) -> np.ndarray:
        """(heads, queries, keys)."""
        product = self.halves("query") @ self.halves("key").transpose(0, 2, 1)
        if "data-row-totals" not in self.data:
            return product
        totals = self.array("row-totals", "<f4").reshape(*product.shape[:2], 1)
        return np.exp(product - totals)


def close(found: object, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=HALF * np.abs(expected).max())


def on_keys(token, flow: Flow):
    """The token of the keys' grid that lies where one of the queries' does."""
    return tuple(
        int((n - 0.5) * k / q) + 1
        for n, q, k in zip(token, flow.query_grid, flow.key_grid, strict=True)
    )


@pytest.mark.parametrize(
    ("make", "layer", "untrained"),
    [
        (Lens.load, 12, False),
        (Lens.load, 3, False),
        (lambda: Lens.load(TWIN), 12, False),
        (lambda: Lens.load("sima_tiny_12_p16"), 2, True),
        # Keys on a coarser grid; in the last stage with a class token.
        (lambda: Lens(create_model("sima_cvt_13", depth=1)), 2, False),
        (lambda: Lens(create_model("cvt_13", depth=1)), 3, False),
    ],
    ids=["SimA", "SimA 3", "softmax", "untrained", "CvT of SimA", "CvT"],
)
def test_the_numbers_sent_give_the_librarys_parts(make, layer, untrained):
    lens = make()
    key = MODELS.add(lens)
    seen = look(CHEETAH, key, 224)
    markup = view.of_layer(seen, key, layer)
    MODELS.drop(key)
    card = Card(markup)
    flow = lens.flow(lens.preprocess(load_image(CHEETAH), 224), layer)
    weights, sizes = card.weights(), card.halves("value-norm")
    for token in (*TOKENS, *(["class"] if flow.layer.class_row is not None else [])):
        key_token = token if token == "class" else on_keys(token, flow)
        i = flow._row(token, flow.query_grid, weights.shape[1])
        j = flow._row(key_token, flow.key_grid, weights.shape[2])
        for head in (None, 1):
            heads = slice(None) if head is None else slice(head - 1, head)
            received = (weights[heads, i] * sizes[heads]).sum(0)
            sent = (weights[heads, :, j] * sizes[heads, None, j]).sum(0)
            close(received, flow.received(token, head).signed)
            close(sent, flow.sent(key_token, head).signed)
    assert card.about["grids"] == {"query": list(flow.query_grid), "key": list(flow.key_grid)}
    assert ("untrained" in card.text) == untrained
    assert ("Class token" in card.text) == (flow.layer.class_row is not None)
    totals = flow.totals()
    assert 0 < float(card.about["error"]) < 1e-5
    assert f"{100 * totals.cancelled:.0f} %" in card.text


def test_as_many_tokens_as_a_page_takes_are_less_than_a_megabyte(monkeypatch):
    seen = look(CHEETAH, None, 512)  # 32 × 32 tokens
    markup = view.of_layer(seen, None, 12)
    assert Card(markup).about["tokens"] == {"query": 1024, "key": 1024}
    assert 500_000 < len(markup.encode()) < 1_000_000
    said = sum(map(len, re.findall(r'"([^"]{1000,})"', markup)))
    assert f"{said / 1024:.3g} KiB" in markup
    more = Card(view.of_layer(look(CHEETAH, None, 528), None, 12))
    assert "1,089 tokens are more than the 1,024" in more.text
    monkeypatch.setattr(view, "MAX_BYTES", 100_000)
    wider = Card(view.of_layer(look(CHEETAH, None, 224), None, 12))
    assert "133 KiB of numbers are more than" in wider.text
    assert len(wider.data["data-query"]) < 2000  # one token's


def test_nothing_is_kept_of_a_flow():
    seen = look(CHEETAH, None, 224)
    before = (seen.num_bytes, set(vars(seen)))
    view.of_layer(seen, None, 12)
    view.of_token(gr.EventData(None, {"token": [1, 2]}), seen, None, 12, 0)
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is Flow]
    assert (seen.num_bytes, set(vars(seen))) == before
    # What the handlers give goes to the page, into no store.
    handlers = [fn for fn in build().fns.values() if fn.name in ("of_layer", "of_token")]
    assert len(handlers) == 2
    assert not any(isinstance(c, gr.State) for fn in handlers for c in fn.outputs)


@pytest.mark.parametrize("head", [0, 2])
@pytest.mark.parametrize("token", [[3, 5], "class"])
def test_one_token_is_answered_exactly(token, head):
    lens = Lens.load(TWIN)
    key = MODELS.add(lens)
    seen = look(CHEETAH, key, 224)
    card = Card(view.of_token(gr.EventData(None, {"token": token}), seen, key, 12, head))
    MODELS.drop(key)
    flow = lens.flow(lens.preprocess(load_image(CHEETAH), 224), 12)
    named = token if token == "class" else tuple(token)
    received, sent = flow.received(named, head or None), flow.sent(named, head or None)
    np.testing.assert_array_equal(card.array("query", "<f4"), received.signed)
    np.testing.assert_array_equal(card.array("key", "<f4"), sent.signed)
    assert card.about["answer"]["token"] == token
    assert card.about["answer"]["negative"] == {"query": 0.0, "key": 0.0}


def test_channels_that_mix_are_said_to_have_no_flow():
    key = MODELS.add(Lens.load("xcit_nano_12_p16_224"))
    seen = look(CHEETAH, key, 224)
    card = Card(view.of_layer(seen, key, 12))
    MODELS.drop(key)
    assert "XCA mixes channels and not tokens" in card.text
    assert "grids" not in card.about


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ([15, 1], "no token at row 15, column 1"),
        ([0, 1], "no token at row 0"),
        ([10**5000, 1], "no token at row …"),
        ("class", "no class token takes part"),
        ("other", "click on it"),
        ([1.5, 2], "click on it"),
        ([True, 1], "click on it"),
        ([1], "click on it"),
        ({}, "click on it"),
        (None, "click on it"),
    ],
)
def test_a_token_that_is_none_is_answered_in_a_sentence(named, sentence):
    seen = look(CHEETAH, None, 224)
    with pytest.raises(InputError, match=sentence):
        view.of_token(gr.EventData(None, {"token": named}), seen, None, 12, 0)


def test_what_is_gone_is_explained(tmp_path, photo_file):
    with pytest.raises(InputError, match="choose the photo again"):
        view.of_layer(None, None, 12)
    seen = look(CHEETAH, None, 64)
    other = MODELS.add(Lens.load("sima_nano_12_p16"))
    assert "model was changed" in Card(view.of_layer(seen, other, 12)).text
    MODELS.drop(other)
    gone = tmp_path / "gone.jpg"
    gone.write_bytes(photo_file.read_bytes())
    seen = look(str(gone), None, 64)
    with pytest.raises(InputError, match="this visit was forgotten"):
        view.of_layer(seen, "", 12)
    gone.unlink()
    with pytest.raises(InputError, match="no longer here"):
        view.of_layer(seen, None, 12)


def test_damaged_weights_are_said_to_be_damaged():
    lens = Lens.load("sima_nano_12_p16")
    key = MODELS.add(lens)
    seen = look(CHEETAH, key, 64)
    with torch.no_grad():
        lens.model.blocks[11].attn.qkv.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="not numbers"):
        view.of_layer(seen, key, 12)
    MODELS.drop(key)


def test_strangers_who_call_the_handlers_get_sentences(app):
    with Visitor(app) as visitor:
        visitor.begin()
        of_layer, of_token = visitor.handler("of_layer"), visitor.handler("of_token")
        good = visitor.call(of_layer.index, of_layer.given(layer=12))
        assert good.done
        assert "data-query" in json.dumps(good.content)
        for handler, given, event in (
            (of_layer, [None, None, 1000], None),
            (of_layer, [None, None, "x"], None),
            (of_token, of_token.defaults, {"token": [99, 1]}),
            (of_token, of_token.defaults, {"token": {"a": "b"}}),
            (of_token, of_token.defaults, "token"),
            (of_token, of_token.defaults, None),
            (of_token, [None, None, 12, 99], {"token": [1, 1]}),
        ):
            answer = visitor.call(handler.index, list(given), event_data=event)
            assert answer.kind == "error", answer
            assert 10 < len(answer.content) <= 200
            assert "Traceback" not in answer.content


# --- In the browser ---


def requests_of(page: Page) -> list[str]:
    """The addresses that the page asks from now on, as they come, and what it sends there."""
    asked: list[str] = []
    page.on(
        "request",
        lambda r: asked.append(f"{r.url} {r.post_data}") if not r.url.startswith("data:") else None,
    )
    return asked


def of_flow(asked: list[str]) -> int:
    """How often the flow view's handlers were asked; drawing, which names colours, is another."""
    return sum("queue/join" in one and "inferno" not in one for one in asked)


def turn_on(page: Page, shows: str = "flow") -> None:
    """Choose Flow and wait for it; what it draws is kept as `window.flowed`."""
    page.evaluate(
        "document.getElementById('maps')"
        ".addEventListener('sl-flow', event => {window.flowed = event.detail})"
    )
    page.locator("#view label", has_text="Flow").click()
    wait_for_view(page, shows)


def wait_for_view(page: Page, shows: str) -> None:
    expect(page.locator("#explore-result")).to_have_attribute("data-view", shows, timeout=30_000)


def flowed(page: Page) -> dict[str, np.ndarray]:
    """The parts that were drawn last, of both pictures."""
    found = page.evaluate("({query: [...flowed.query], key: [...flowed.key]})")
    return {side: np.array(values) for side, values in found.items()}


def point_at(page: Page, row: int, col: int, rows: int = 14, cols: int = 14) -> None:
    """Move the mouse to a token of the left picture."""
    stage = page.locator("#maps .sl-stage").first
    box = stage.bounding_box()
    at = {"x": box["width"] * (col - 0.5) / cols, "y": box["height"] * (row - 0.5) / rows}
    stage.hover(position=at)


def lines(page: Page) -> list[str]:
    return page.locator("#maps .sl-flow-line").all_inner_texts()


def set_layer(page: Page, layer: int) -> None:
    page.get_by_label("number input for Layer").fill(str(layer))
    page.keyboard.press("Enter")
    expect(page.locator("#maps .sl-viewer")).to_have_attribute("data-layer", str(layer))


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_label(label).first.click()
    page.get_by_role("option", name=option).click()


def bring(page: Page, path: Path, name: str) -> None:
    """Use a checkpoint of one's own."""
    page.get_by_role("button", name="Use your own checkpoint").click()
    page.locator("#explore-settings input[type=file]").set_input_files(path)
    expect(page.locator(".sl-summary")).to_contain_text(name, timeout=60_000)


@pytest.mark.browser
@pytest.mark.parametrize("source", [None, TWIN, "cvt_13"], ids=["SimA", "softmax", "CvT"])
def test_the_pictures_are_the_librarys(explore, source, tmp_path):
    if source == "cvt_13":
        torch.manual_seed(1)
        source = tmp_path / "mine.pth"
        torch.save(load_model("cvt_13").state_dict(), source)
    lens = Lens.load(source) if source else Lens.load()
    if source:
        bring(explore, source, lens.name)
    turn_on(explore)
    flow = lens.flow(lens.preprocess(load_image(CHEETAH), 224), 12)
    for head in (None, 2):
        if head:
            choose(explore, "Head", f"Head {head}")
            expect(explore.locator("#maps .sl-viewer")).to_have_attribute("data-head", str(head))
        for token in TOKENS:
            point_at(explore, *token)
            expect(explore.locator(".sl-flow-line").nth(2)).to_contain_text(
                f"Row {token[0]}, column {token[1]} hears"
            )
            received = flow.received(token, head)
            sent = flow.sent(on_keys(token, flow), head)
            drawn = flowed(explore)
            close(drawn["query"], received.signed)
            close(drawn["key"], sent.signed)
            for text, parts in zip(lines(explore), (received, sent), strict=True):
                share = round(100 * parts.negative_share)
                assert (f"{share} %" if share else "nothing") in text
    if flow.layer.class_row is None:
        expect(explore.locator(".sl-flow-class")).to_have_count(0)
        return
    explore.locator(".sl-flow-class").click()
    assert lines(explore)[0].startswith("The class token hears most from")
    close(flowed(explore)["query"], flow.received("class", 2).signed)
    close(flowed(explore)["key"], flow.sent("class", 2).signed)


@pytest.mark.browser
def test_colours_and_scale_tell_the_sign(explore):
    turn_on(explore)
    point_at(explore, 7, 8)
    parts = flowed(explore)["query"].reshape(14, 14)
    pixels = explore.evaluate(
        "[...document.querySelector('.sl-flow-map').getContext('2d').getImageData(0,0,14,14).data]"
    )
    red, _, blue, alpha = np.array(pixels).reshape(14, 14, 4).transpose(2, 0, 1)
    strong = np.abs(parts) > 0.1 * np.abs(parts).max()
    assert strong.any()
    assert (((red > blue) == (parts > 0)) | ~strong).all()
    assert alpha.ravel()[np.abs(parts).argmax()] == 255
    most = np.abs(parts).max()
    low, high = (explore.locator(f"#maps .sl-flow-{end}").first for end in ("low", "high"))
    assert low.inner_text() == f"−{most:.3g} subtracts"
    assert high.inner_text() == f"adds +{most:.3g}"
    row, col = np.unravel_index(np.abs(parts).argmax(), parts.shape)
    sign = "adds" if parts[row, col] > 0 else "subtracts"
    assert (
        f"hears most from row {row + 1}, column {col + 1} ({sign} {most:.3g})" in lines(explore)[0]
    )
    assert re.search(r"its parts add up to the output within \de-7\.", lines(explore)[0])


@pytest.mark.browser
def test_a_hover_at_784_tokens_takes_less_than_a_frame(explore, capsys):
    before = norms(explore)
    choose(explore, "Resolution", "448 px")
    wait_for_change(explore, norms, before)
    turn_on(explore)
    point_at(explore, 5, 5, 28, 28)
    asked = requests_of(explore)
    # All that a move does: the viewer's script, the sums, both pictures, both lines.
    took = explore.evaluate("""() => {
      const stage = document.querySelector('#maps .sl-stage');
      const box = stage.getBoundingClientRect();
      return Array.from({ length: 50 }, (_, n) => {
        const [row, col] = [(n * 5) % 28, (n * 11) % 28];
        const move = new PointerEvent('pointermove', {
          bubbles: true,
          clientX: box.left + (box.width * (col + 0.5)) / 28,
          clientY: box.top + (box.height * (row + 0.5)) / 28,
        });
        const start = performance.now();
        stage.dispatchEvent(move);
        const end = performance.now();
        const told = document.querySelector('#maps .sl-flow-line').textContent;
        return [end - start, told.startsWith(`Row ${row + 1}, column ${col + 1} hears`)];
      });
    }""")
    milliseconds = sorted(each for each, _ in took)
    with capsys.disabled():
        print(
            f"\na hover at 784 tokens: {statistics.median(milliseconds):.1f} ms of script (median "
            f"of 50), {milliseconds[-1]:.1f} ms at most"
        )
    assert all(right for _, right in took)
    assert statistics.median(milliseconds) < 16
    explore.mouse.move(700, 500, steps=20)
    explore.wait_for_timeout(300)
    assert not asked


@pytest.mark.browser
def test_norms_alone_ask_for_nothing_more(explore):
    asked = requests_of(explore)
    set_layer(explore, 5)
    point_at(explore, 3, 3)
    explore.wait_for_timeout(500)
    assert sum("queue/join" in url for url in asked) == 1  # `draw`
    expect(explore.locator("#flow")).to_be_hidden()
    assert explore.locator(".sl-flow-part").count() == 0


@pytest.mark.browser
def test_flow_follows_layer_head_and_photo(explore, photo_file):
    turn_on(explore)
    rest = lines(explore)[0]
    assert rest.startswith("Row ")  # nobody meets an empty picture
    asked = requests_of(explore)
    set_layer(explore, 7)
    wait_for_view(explore, "flow")
    expect(explore.locator("#maps .sl-flow-line").first).not_to_have_text(rest)
    assert of_flow(asked) == 1
    choose(explore, "Head", "Head 3")
    expect(explore.locator("#maps .sl-flow-line").first).to_contain_text("over all heads")
    assert of_flow(asked) == 1  # no more: only `draw` was asked
    before = norms(explore)
    explore.set_input_files("#photo input[type=file]", photo_file)
    wait_for_change(explore, norms, before)
    wait_for_view(explore, "flow")
    parts = flowed(explore)["query"]
    lens = Lens.load()
    flow = lens.flow(lens.preprocess(load_image(photo_file)), 7)
    row, col = np.unravel_index(
        np.linalg.norm(flow.key.numpy(), axis=(0, 2)).argmax(), flow.key_grid
    )
    close(parts, flow.received((int(row) + 1, int(col) + 1), 3).signed)


@pytest.mark.browser
def test_click_keys_and_escape(explore):
    turn_on(explore)
    line, stage = explore.locator("#maps .sl-flow-line").first, explore.locator(".sl-stage").first
    rest = lines(explore)[0]
    point_at(explore, 4, 6)
    explore.mouse.down()
    explore.mouse.up()
    expect(line).to_contain_text("Row 4, column 6 hears")
    expect(line).to_contain_text("Pinned")
    explore.mouse.move(2, 2)
    point_at(explore, 9, 9)
    expect(line).to_contain_text("Row 4, column 6 hears")  # pinned
    explore.keyboard.press("ArrowRight")
    expect(line).to_contain_text("Row 4, column 7 hears")
    explore.keyboard.press("ArrowUp")
    expect(line).to_contain_text("Row 3, column 7 hears")
    for view_name in ("Maps", "Flow"):
        explore.locator("#view label", has_text=view_name).click()
        readout = ".sl-readout" if view_name == "Maps" else ".sl-flow-line"
        shown = explore.locator(f"#maps {readout}").first
        expect(shown).to_be_visible()
        expect(shown).to_contain_text("Row 3, column 7")
        expect(shown).to_contain_text(re.compile("pinned", re.IGNORECASE))
    stage.focus()
    explore.mouse.move(2, 2)
    explore.keyboard.press("Escape")
    expect(line).to_have_text(rest)
    explore.keyboard.press("Enter")  # pins what is at rest
    expect(line).to_have_text(rest + " Pinned: Escape, or the same token again, lets go.")
    row, col = map(int, re.search(r"Row (\d+), column (\d+)", rest).groups())
    explore.keyboard.press("ArrowLeft")
    expect(line).to_contain_text(f"Row {row}, column {col - 1} hears")


@pytest.mark.browser
def test_a_tap_pins(app, browser):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(app)
    expect(page.locator(".sl-figure")).to_have_count(2, timeout=30_000)
    page.locator("#view label", has_text="Flow").tap()
    wait_for_view(page, "flow")
    stage = page.locator("#maps .sl-stage").last
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    stage.tap(position={"x": box["width"] * 4.5 / 14, "y": box["height"] * 2.5 / 14})
    for line, does in zip(
        page.locator("#maps .sl-flow-line").all(), ("hears", "is heard"), strict=True
    ):
        expect(line).to_contain_text(f"Row 3, column 5 {does}")
        expect(line).to_contain_text("Pinned")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


@pytest.mark.browser
def test_opacity_wipe_and_zoom_work_on_flow(explore):
    turn_on(explore)
    canvas = explore.locator(".sl-flow-map").first
    explore.get_by_label("number input for Heatmap opacity").fill("0.25")
    explore.keyboard.press("Enter")
    expect(canvas).to_have_css("opacity", "0.25")
    explore.locator("#maps .sl-compare input").fill("40")
    assert "60%" in canvas.evaluate("e => getComputedStyle(e).clipPath")
    width = canvas.bounding_box()["width"]
    explore.locator("#maps [data-zoom=in]").click()
    assert canvas.bounding_box()["width"] > 1.5 * width
    expect(explore.locator("#maps img.sl-heat").first).to_be_hidden()


@pytest.mark.browser
def test_too_many_tokens_are_asked_for_one_at_a_time(explore):
    before = norms(explore)
    choose(explore, "Resolution", "640 px")
    wait_for_change(explore, norms, before)
    turn_on(explore)
    expect(explore.locator(".sl-flow")).to_contain_text("1,600 tokens are more than the 1,024")
    rest = lines(explore)
    asked = requests_of(explore)
    point_at(explore, 10, 12, 40, 40)
    explore.wait_for_timeout(300)
    assert not asked
    assert lines(explore) == rest
    explore.mouse.down()
    explore.mouse.up()
    line = explore.locator("#maps .sl-flow-line").first
    expect(line).to_contain_text("Row 10, column 12 hears", timeout=30_000)
    assert of_flow(asked) == 1
    lens = Lens.load()
    flow = lens.flow(lens.preprocess(load_image(CHEETAH), 640), 12)
    close(flowed(explore)["query"], flow.received((10, 12)).signed)
    close(flowed(explore)["key"], flow.sent((10, 12)).signed)
    choose(explore, "Head", "Head 2")
    head = flow.received((10, 12), 2)
    expect(line).to_contain_text(f"{100 * head.negative_share:.0f} % subtracts", timeout=30_000)
    close(flowed(explore)["query"], head.signed)


@pytest.mark.browser
def test_a_layer_without_flow_is_told_once(explore, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(load_model("xcit_nano_12_p16_224").state_dict(), path)
    bring(explore, path, "xcit_nano_12_p16")
    turn_on(explore, "no-flow")
    expect(explore.locator("#flow")).to_contain_text("XCA mixes channels and not tokens")
    expect(explore.locator("#maps img.sl-heat").first).to_be_visible()
    asked = requests_of(explore)
    point_at(explore, 3, 4)
    explore.wait_for_timeout(500)
    assert not asked
    expect(explore.locator(".toast-body")).to_have_count(0)
    explore.get_by_role("button", name="Bundled weights").click()
    wait_for_view(explore, "flow")


@pytest.mark.browser
def test_what_the_server_refuses_is_told_once(explore):
    asked = requests_of(explore)

    def spoil(route):
        body = route.request.post_data or ""
        route.continue_(post_data=body.replace("[null,null,12]", "[null,null,1000]"))

    explore.route("**/queue/join*", spoil)
    explore.locator("#view label", has_text="Flow").click()
    expect(explore.locator(".toast-body")).to_contain_text("Layer must be a whole number")
    wait_for_view(explore, "norms")
    for col in (3, 8):
        point_at(explore, 3, col)
    wait_for_view(explore, "norms")
    assert of_flow(asked) == 1
    explore.unroute("**/queue/join*")
    for name in ("Maps", "Flow"):  # once more, by hand
        explore.locator("#view label", has_text=name).click()
    wait_for_view(explore, "flow")


@pytest.mark.browser
def test_another_map_and_flow_take_each_others_place(explore):
    expect(explore.locator("#maps figure[data-side=query]")).to_have_count(1)
    chosen = explore.locator("#map-choice input")

    def choose_sent():
        chosen.click()
        explore.get_by_role("option", name="Sent").click()

    choose_sent()
    expect(explore.locator("#maps .sl-named-map")).to_be_visible(timeout=30_000)
    turn_on(explore)
    assert lines(explore)[0].startswith("Row ")
    expect(chosen).to_have_value(re.compile("^Q̂ and K̂"))
    choose_sent()
    expect(explore.locator("#maps .sl-named-map")).to_be_visible(timeout=30_000)
    expect(explore.get_by_role("radio", name="Maps")).to_be_checked()
    wait_for_view(explore, "norms")
