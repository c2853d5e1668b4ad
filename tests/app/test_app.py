"""The real app, driven in headless Chromium and through its API."""

import base64
import contextlib
import copy
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from sima_core import analyze, load_image, load_model, token_norms
from sima_core.coco.split import CocoSplit
from sima_core.lens.pictures import preprocess
from sima_core.models.architectures import create_model
from sima_core.scoring.metrics import Target, peak
from tests.install_browser import find_browser
from tests.support import ROOT

BROWSER = find_browser()
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="NO BROWSER: neither Chromium nor Chrome is there or could be installed"
)


@contextlib.contextmanager
def running_app(folder: Path, **environment: str) -> Iterator[str]:
    """The address of a running app; afterwards: no traceback in its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "log").open("w+")
    env = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={**env, **environment},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.seek(0) or log.read()
                time.sleep(0.5)
        yield url
        log.seek(0)
        assert "Traceback" not in log.read()
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[str]:
    """An app that has no COCO and no Hub."""
    folder = tmp_path_factory.mktemp("app")
    with running_app(
        folder, XDG_CACHE_HOME=str(folder), SIMA_COCO_ROOT="", HF_HUB_OFFLINE="1"
    ) as url:
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


def norms(page: Page) -> list[str]:
    return page.locator(".sl-figure").evaluate_all("figures => figures.map(f => f.dataset.norms)")


def heat(page: Page) -> list[str]:
    return page.locator(".sl-heat").evaluate_all("images => images.map(i => i.src)")


def wait_for_change(page: Page, read, before: list[str]) -> list[str]:
    """Both of what `read` gives must change."""
    for _ in range(300):
        now = read(page)
        if len(now) == 2 and all(a != b for a, b in zip(now, before, strict=True)):
            return now
        page.wait_for_timeout(50)
    raise AssertionError("the pictures did not both change within 15 s")


def upload(page: Page, path: Path) -> list[str]:
    before = norms(page)
    page.set_input_files("#photo input[type=file]", path)
    return wait_for_change(page, norms, before)


@needs_browser
@pytest.mark.browser
def test_opens_with_a_sample_already_analysed(explore):
    assert all(explore.locator(".sl-heat").evaluate_all("i => i.map(x => x.naturalWidth > 0)"))
    expect(explore.locator(".sl-predictions li")).to_have_count(5)
    expect(explore.locator(".sl-summary")).to_contain_text("sima_nano_12_p16")
    alts = explore.locator("img:visible").evaluate_all("i => i.map(x => x.alt)")
    assert all(alts), alts


@needs_browser
@pytest.mark.browser
def test_upload_then_another_layer(explore, model, photo, photo_file):
    shown = upload(explore, photo_file)
    expected = token_norms(model, preprocess(load_image(photo_file)))
    for text, values in zip(shown, (expected.query, expected.key), strict=True):
        np.testing.assert_allclose(np.array(eval(text)), values[0].numpy().ravel(), rtol=1e-5)

    before = heat(explore)
    explore.get_by_label("number input for Layer").fill("3")
    explore.keyboard.press("Enter")
    wait_for_change(explore, heat, before)
    expect(explore.locator(".sl-summary")).to_contain_text("layer 3 of 12")

    before = norms(explore)
    explore.get_by_label("Head", exact=True).click()
    explore.get_by_role("option", name="Head 2").click()
    wait_for_change(explore, norms, before)
    expect(explore.locator(".sl-summary")).to_contain_text("head 2")


@needs_browser
@pytest.mark.browser
def test_sample_resolution_and_colour_map(explore):
    before = norms(explore)
    explore.locator("#samples button").nth(2).click()
    before = wait_for_change(explore, norms, before)
    explore.get_by_label("Resolution").click()
    explore.get_by_role("option", name="320 px").click()
    same_norms = wait_for_change(explore, norms, before)
    pictures = heat(explore)
    explore.get_by_label("Colour map").click()
    explore.get_by_role("option", name="Viridis").click()
    wait_for_change(explore, heat, pictures)
    assert norms(explore) == same_norms


@needs_browser
@pytest.mark.browser
def test_token_values_by_pointer_and_by_keyboard(explore):
    stage, readouts = explore.locator(".sl-stage").first, explore.locator(".sl-readout")
    box = stage.bounding_box()
    stage.hover(position={"x": box["width"] * 2.5 / 14, "y": box["height"] * 4.5 / 14})
    for readout in readouts.all():  # the same token in both pictures
        expect(readout).to_contain_text("Row 5, column 3:")
    value = float(re.search(r": ([\d.]+) ", readouts.first.inner_text())[1])
    assert value == pytest.approx(eval(norms(explore)[0])[4 * 14 + 2], rel=1e-3)
    explore.mouse.move(2, 2)
    expect(readouts.first).to_contain_text("Point at a token")
    stage.focus()
    explore.keyboard.press("ArrowRight")
    expect(readouts.first).to_contain_text("Row 8, column 8:")
    explore.keyboard.press("ArrowDown")
    expect(readouts.last).to_contain_text("Row 9, column 8:")


@needs_browser
@pytest.mark.browser
def test_opacity_and_comparison_need_no_server(explore):
    asked: list[str] = []
    explore.on("request", lambda r: asked.append(r.url) if "queue/join" in r.url else None)
    explore.get_by_label("number input for Heatmap opacity").fill("0.25")
    explore.keyboard.press("Enter")
    expect(explore.locator(".sl-heat").first).to_have_css("opacity", "0.25")
    explore.locator(".sl-compare input").fill("40")
    clip = explore.locator(".sl-heat").first.evaluate("e => getComputedStyle(e).clipPath")
    assert "60%" in clip
    explore.wait_for_timeout(500)
    assert not asked


@needs_browser
@pytest.mark.browser
def test_download(explore, photo_file):
    upload(explore, photo_file)
    with explore.expect_download() as download:
        explore.get_by_role("button", name="Download maps").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert sorted(Path(n).suffix for n in archive.namelist()) == [
            ".json",
            ".npz",
            ".png",
            ".png",
        ]
        name = next(n for n in archive.namelist() if n.endswith(".npz"))
        values = np.load(io.BytesIO(archive.read(name)))
        expected = token_norms(load_model(), preprocess(load_image(photo_file)))
        np.testing.assert_array_equal(values["key_norm"], expected.key[0].numpy())


@needs_browser
@pytest.mark.browser
def test_bad_file_is_explained_and_nothing_is_lost(explore, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("text")
    before = norms(explore)
    explore.set_input_files("#photo input[type=file]", bad)
    expect(explore.locator(".toast-body")).to_contain_text("This is not a picture")
    assert norms(explore) == before
    # The box shows the photo that the maps are of.
    expect(explore.locator("#photo img")).to_have_attribute("src", re.compile("cheetah1"))


@needs_browser
@pytest.mark.browser
def test_own_checkpoint_for_this_visit(explore, tmp_path, context, app):
    path = tmp_path / "mine.pth"
    torch.save(load_model("sima_small_24_p8").state_dict(), path)
    explore.get_by_role("button", name="Use your own checkpoint").click()
    before = norms(explore)
    explore.locator("#explore-settings input[type=file]").set_input_files(path)
    wait_for_change(explore, norms, before)
    expect(explore.locator(".sl-summary")).to_contain_text("sima_small_24_p8")
    expect(explore.locator(".sl-summary")).to_contain_text("28 × 28 = 784 tokens")
    expect(explore.locator(".sl-summary")).to_contain_text("layer 12 of 24")
    explore.get_by_label("Head", exact=True).click()
    expect(explore.get_by_role("option")).to_have_count(9)  # all, and 8 heads
    explore.keyboard.press("Escape")
    other = context.new_page()
    other.goto(app)
    expect(other.locator(".sl-summary")).to_contain_text("sima_nano_12_p16")
    other.close()
    explore.get_by_role("button", name="Bundled weights").click()
    expect(explore.locator(".sl-summary")).to_contain_text("sima_nano_12_p16")

    explore.get_by_role("textbox", name="or a Hugging Face Hub id").fill("../etc")
    explore.get_by_role("button", name="Load from Hub").click()
    expect(explore.locator(".toast-body")).to_contain_text("There is no public model")


def start_measuring(page: Page, seconds: int) -> Locator:
    """Press Measure in the Latency tab; returns the card that shows both orders."""
    page.get_by_role("tab", name="Latency").click()
    page.get_by_label("number input for Time to spend (seconds)").fill(str(seconds))
    page.get_by_role("button", name="Measure").click()
    return page.locator(".sl-orders")


@needs_browser
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


@needs_browser
@pytest.mark.browser
def test_latency_stop(explore):
    expect(start_measuring(explore, seconds=20)).to_be_visible(timeout=20_000)
    explore.get_by_role("button", name="Stop").click()
    explore.get_by_role("tab", name="Explore").click()
    before = norms(explore)
    explore.locator("#samples button").nth(1).click()  # the queue is free again
    wait_for_change(explore, norms, before)


def compare(page: Page, columns: int) -> Locator:
    """Press Compare; returns the grid once it has so many columns."""
    page.locator("#compare-start").click()
    grid = page.locator("#compare-grid")
    expect(grid.locator(".sl-column")).to_have_count(columns, timeout=60_000)
    return grid


@needs_browser
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


@needs_browser
@pytest.mark.browser
def test_compare_explains_what_cannot_be_shown(explore):
    explore.get_by_role("tab", name="Compare").click()
    explore.get_by_label("Map", exact=True).click()
    expect(explore.get_by_label("number input for Layer").locator("visible=true")).to_have_count(1)
    explore.get_by_role("option", name="Rollout").click()
    expect(explore.get_by_label("number input for Layer").locator("visible=true")).to_have_count(0)
    explore.locator("#compare-start").click()
    toast = explore.locator(".toast-body").last  # the model's name as it is written
    expect(toast).to_contain_text("sima_nano_12_p16: rollout needs softmax attention")


@needs_browser
@pytest.mark.browser
def test_without_coco_the_tab_says_what_to_run(explore):
    explore.get_by_role("tab", name="COCO").click()
    expect(explore.locator("#coco-gallery")).to_contain_text("python -m sima_core coco download")
    expect(explore.locator("#coco-filters")).to_be_hidden()


@pytest.fixture(scope="module")
def coco_app(tmp_path_factory, coco_root) -> Iterator[str]:
    """An app on the made-up COCO root."""
    folder = tmp_path_factory.mktemp("coco-app")
    with running_app(folder, XDG_CACHE_HOME=str(folder), SIMA_COCO_ROOT=str(coco_root)) as url:
        yield url


@pytest.fixture
def coco(coco_app: str, page: Page, errors: list[str]) -> Iterator[Page]:
    """The COCO tab, its first page of pictures shown; afterwards: no console error."""
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto(coco_app)
    page.get_by_role("tab", name="COCO").click()
    expect(page.locator(".sl-tiles button").first).to_be_visible(timeout=30_000)
    yield page
    assert not errors


@needs_browser
@pytest.mark.browser
def test_coco_gallery_pages_and_filters(coco):
    tiles, words = coco.locator(".sl-tiles button"), coco.locator("#coco-words")
    expect(words).to_contain_text("39 pictures · page 1 of 2")  # one of 40 has no file
    expect(tiles).to_have_count(23)
    expect(coco.locator(".sl-broken")).to_contain_text("7: unreadable")
    coco.get_by_role("button", name="Next").click()
    expect(words).to_contain_text("page 2 of 2")
    expect(tiles).to_have_count(15)
    expect(coco.get_by_role("button", name="Next")).to_be_disabled()  # there is no third
    coco.get_by_role("button", name="Back").click()
    expect(words).to_contain_text("page 1 of 2")
    expect(coco.get_by_role("button", name="Back")).to_be_disabled()
    coco.get_by_label("Largest object").click()
    coco.get_by_role("option", name="Over 50 %").click()
    expect(words).to_contain_text("1 picture ·")
    coco.get_by_label("Largest object").click()
    coco.get_by_role("option", name="Any size").click()
    coco.locator("#coco-categories input").click()
    coco.get_by_role("option", name="cat", exact=True).click()
    expect(words).to_contain_text("3 pictures")


@needs_browser
@pytest.mark.browser
def test_coco_picture_objects_and_scores(coco, coco_root, model):
    coco.locator('[data-picture="1"]').click()
    detail = coco.locator("#coco-detail")
    expect(detail.locator(".sl-figure")).to_have_count(2, timeout=20_000)
    expect(detail.locator(".sl-summary")).to_contain_text("Attribution License")
    link = detail.get_by_role("link", name="photographer")
    expect(link).to_have_attribute("href", "https://www.flickr.com/photo.gne?id=1777")

    split = CocoSplit(coco_root, "val2017")
    image = split.load(1)
    found = analyze(model, image).heatmap("query").resize(image.size)
    scores = Target(split.mask(1)).score(found)
    query = detail.locator(".sl-score tbody tr").first
    expect(query).to_contain_text("hit" if scores.pointing_game else "miss")
    for value in (scores.energy, scores.rank_accuracy, scores.auc):
        expect(query).to_contain_text(f"{value:.3f}")
    expect(detail.locator(".sl-score tbody tr")).to_have_count(5)
    row, column = peak(found)
    dot = detail.locator('[data-side="query"] .sl-peak .sl-dot')
    assert float(dot.get_attribute("cx")) == column + 0.5
    assert float(dot.get_attribute("cy")) == row + 0.5

    dogs = detail.locator('.sl-objects g[data-category="dog"]').first
    expect(dogs.locator("path")).to_have_count(2)
    detail.locator("label.sl-chip", has_text="dog").click()
    expect(dogs).to_be_hidden()
    coco.get_by_label("number input for Layer").last.fill("3")
    coco.keyboard.press("Enter")
    expect(detail.locator(".sl-summary")).to_contain_text("layer 3")
    expect(dogs).to_be_hidden()  # what was switched off stays off
    detail.locator("label.sl-chip", has_text="all").click()
    expect(dogs).to_be_visible()


@needs_browser
@pytest.mark.browser
def test_coco_jump_surprise_faithfulness_and_explore(coco):
    detail = coco.locator("#coco-detail")
    box = coco.get_by_label("Picture number")
    for typed, said in (
        ("99", "There is no picture 99"),
        ("cat", "Type the number"),
        ("6", "Picture 6 is not on this disk"),
    ):
        box.fill(typed)
        box.press("Enter")
        expect(coco.locator(".toast-body").last).to_contain_text(said)
    box.fill("3")
    box.press("Enter")
    expect(detail.locator(".sl-score")).to_contain_text("Nothing is annotated", timeout=20_000)
    box.fill("4")
    box.press("Enter")
    expect(detail.locator(".sl-score")).to_contain_text("under 1 %", timeout=20_000)
    expect(detail.locator("td.sl-skipped")).to_have_count(5)
    coco.get_by_role("button", name="Does the model rely").click()
    expect(coco.locator("#coco-relied .sl-chart")).to_have_count(4, timeout=60_000)
    expect(coco.locator("#coco-relied .sl-chart").first).to_contain_text("Random (0.")
    coco.get_by_label("Largest object").click()
    coco.get_by_role("option", name="Over 50 %").click()
    expect(coco.locator("#coco-words")).to_contain_text("1 picture ·")
    coco.get_by_role("button", name="Surprise me").click()
    expect(detail.locator(".sl-summary b").first).to_have_text("5", timeout=20_000)
    expect(coco.locator("#coco-relied .sl-chart")).to_have_count(0)
    coco.get_by_role("button", name="Open in Explore").click()
    expect(coco.locator("#explore .sl-summary")).to_contain_text("coco-5.jpg", timeout=20_000)
    expect(coco.get_by_role("tab", name="Explore")).to_have_attribute("aria-selected", "true")


@needs_browser
@pytest.mark.browser
def test_evidence_tab(explore):
    explore.get_by_role("tab", name="Evidence").click()
    expect(explore.locator("#evidence .sl-chart")).to_have_count(5)
    expect(explore.locator("#evidence tbody tr")).to_have_count(7)
    expect(explore.locator("#evidence")).to_contain_text("94 pictures of COCO val2017")
    explore.get_by_label("train2017").check()
    expect(explore.locator("#evidence")).to_contain_text("37 pictures of COCO train2017")


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone(app, browser, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(app)
    expect(page.locator(".sl-figure")).to_have_count(2, timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("COCO", "Evidence", "Latency", "Compare"):
        if page.get_by_role("tab", name=name).is_visible():
            page.get_by_role("tab", name=name).click()
        else:
            page.get_by_role("button", name="More tabs").click()
            page.get_by_role("button", name=name, exact=True).first.click()
        expect(page.locator(f"#{name.lower()}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    compare(page, 3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")
    context.close()


def test_api(app, photo, photo_file):
    query, key, about = Client(app, verbose=False).predict(
        handle_file(photo_file), 12, 0, 64, "viridis", 0.0, api_name="/heatmap"
    )
    for picture in (query, key):  # opacity 0 leaves the photo
        np.testing.assert_array_equal(
            np.asarray(Image.open(picture).convert("RGB")), np.asarray(photo)
        )
    expected = token_norms(load_model(), preprocess(load_image(photo_file), 64))
    assert about["grid"] == [4, 6]
    assert about["query_range"][1] == pytest.approx(expected.query.max().item())


def test_api_keeps_16_bits(app, tmp_path):
    ramp = np.tile(np.arange(0, 65536, 1024, dtype=np.uint16), (64, 1))
    path = tmp_path / "deep.png"
    Image.fromarray(ramp).save(path)
    query, _, _ = Client(app, verbose=False).predict(
        handle_file(path), 12, 0, 64, "viridis", 0.0, api_name="/heatmap"
    )
    shown = np.asarray(Image.open(query).convert("L"))
    assert abs(shown.astype(int) - ramp // 257).max() <= 1


@pytest.mark.parametrize(
    ("layer", "resolution", "reason"), [(99, 224, "from 1 to 12"), (12, 4, "at least one patch")]
)
def test_api_explains_errors(app, photo_file, layer, resolution, reason):
    with pytest.raises(AppError, match=reason):
        Client(app, verbose=False).predict(
            handle_file(photo_file), layer, 0, resolution, "viridis", 0.5, api_name="/heatmap"
        )


def test_api_limits_what_a_picture_may_cost(app, photo_file):
    with pytest.raises(AppError, match="choose a lower resolution"):
        Client(app, verbose=False).predict(
            handle_file(photo_file), resolution=2048, api_name="/heatmap"
        )


def test_latency_api(app, photo_file):
    found = Client(app, verbose=False).predict(
        handle_file(photo_file), resolution=64, seconds=1, api_name="/latency"
    )
    assert (found["num_tokens"], found["head_dim"]) == (24, 32)
    assert found["levels"]["attention"]["qk_first"]["median"] > 0
    with pytest.raises(AppError, match="choose a lower resolution"):
        Client(app, verbose=False).predict(
            handle_file(photo_file), resolution=3000, api_name="/latency"
        )


def test_colour_map_and_head_run_no_model(monkeypatch):
    from app import explore, visitors

    sample = explore.look(explore.sample_photos()[0][0], None, 112)
    monkeypatch.setattr(visitors, "analyze", None)  # would fail if it were called
    pictures = {explore.draw(sample, 12, head, c)[0] for head in (0, 1) for c in ("gray", "turbo")}
    assert len(pictures) == 4


@pytest.mark.parametrize("name", ["sima_large_24_p8", "xcit_large_24_p8_384"])
def test_two_of_the_largest_models_can_be_compared(name):
    from app import visitors

    wide, largest = Image.new("RGB", (640, 427)), create_model(name, device="meta")
    assert 2 * visitors.require_affordable(largest, wide, 224) <= visitors.MAX_COST


def test_models_that_take_too_long_together_are_refused(monkeypatch):
    from app import compare as tab
    from app import explore, visitors

    sample = explore.look(explore.sample_photos()[0][0], None, 112)
    alone = visitors.require_affordable(visitors.BUNDLED, load_image(sample.path), 112)
    monkeypatch.setattr(tab, "MAX_COST", 1.5 * alone)
    models = [tab.MINE, "xcit_nano_12_p16_224"]
    with pytest.raises(ValueError, match="together these models take too long"):
        tab.run(sample, None, tab.OF_MODELS, models, [], [], 12, "Token norms", 112)


def test_untrained_weights_are_looked_for_again(monkeypatch):
    from app import compare as tab

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shelf = tab._Shelf()
    first = shelf.get("xcit_nano_12_p16_224")
    assert shelf.get("xcit_nano_12_p16_224") is first
    monkeypatch.setattr(tab, "RETRY_SECONDS", 0.0)
    assert shelf.get("xcit_nano_12_p16_224") is not first  # the Hub may be back
    trained = shelf.get("sima_nano_12_p16")
    assert shelf.get("sima_nano_12_p16") is trained


def test_emptied_number_boxes_mean_their_defaults(photo_file):
    from app import explore, latency

    seen = explore.look(str(photo_file), None, 224)
    *_, page = latency.measure_orders(seen, None, None, None, 1)
    assert "Layer 12:" in page
    assert next(latency.curve(seen, None, None, None))
    about = explore.heatmap_api(str(photo_file), None, None, None, None, opacity=None)[2]
    assert (about["layer"], about["head"], about["resolution"]) == (12, "all", 224)


def test_a_photo_that_was_deleted_is_said_to_be_gone(photo_file, tmp_path):
    from app import coco, explore, latency
    from app import compare as tab

    gone = tmp_path / "gone.jpg"
    shutil.copy(photo_file, gone)
    seen = explore.look(str(gone), None, 64)
    shown = coco.Shown("val2017", None, gone, seen.analysis, None)
    gone.unlink()
    for handler in (
        lambda: list(latency.measure_orders(seen, None, 12, 64, 1)),
        lambda: list(latency.curve(seen, None, 12, 64)),
        lambda: tab.run(seen, None, tab.OF_LAYERS, [tab.MINE], [1, 2], [], 12, "Token norms", 64),
        lambda: coco.open_in_explore(shown),
    ):
        with pytest.raises(ValueError, match="no longer here"):
            handler()


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1, 1), (480, 480)), ((8, 6), (480, 360)), ((600, 400), (600, 400)), ((4000, 2), (960, 1))],
)
def test_photos_are_shown_with_neither_too_few_nor_too_many_pixels(size, shown):
    from app.viewer import Photo

    assert Photo.of(Image.new("RGB", size)).size == shown


def test_a_visit_keeps_no_full_size_photo(tmp_path):
    from app import compare as tab
    from app import explore

    Image.effect_noise((3000, 2400), 60).convert("RGB").save(tmp_path / "large.jpg")
    seen = explore.look(str(tmp_path / "large.jpg"), None, 64)
    found = tab.run(seen, None, tab.OF_LAYERS, [tab.MINE], [1, 2], [], 12, "Token norms", 64)
    for analysis in (seen.analysis, *(panel.analysis for panel in found.panels)):
        assert analysis.image.size == (2048, 1638)


@pytest.mark.parametrize(
    ("image_id", "said"),
    [(3, "Nothing is annotated"), (5, "cover the whole picture"), (8, "Only crowds")],
)
def test_why_a_coco_picture_has_no_scores(coco_root, monkeypatch, image_id, said):
    from app import coco

    monkeypatch.setenv("SIMA_COCO_ROOT", str(coco_root))
    assert said in coco.draw(coco.show(image_id, "val2017", None), 12, coco.ALL_OBJECTS)


def test_scores_are_named_as_the_maps_are(coco_root, monkeypatch):
    from app import coco, visitors

    monkeypatch.setenv("SIMA_COCO_ROOT", str(coco_root))
    key = visitors.MODELS.add(load_model("deit_tiny_patch16_224"))
    try:
        page = coco.draw(coco.show(1, "val2017", key), 12, coco.ALL_OBJECTS)
    finally:
        visitors.MODELS.drop(key)
    assert "<tr><th>Q</th>" in page
    assert "Q̂" not in page.split("sl-score")[1]


def test_a_forgotten_visit_is_explained():
    from app import explore

    with pytest.raises(ValueError, match="choose the photo again"):
        explore.draw(None, 12, 0, "gray")


def test_only_the_named_endpoints_are_public(app):
    named = Client(app, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert list(named) == ["/heatmap", "/latency"]


def test_a_broken_list_leaves_the_other_splits(coco_root, tmp_path, monkeypatch):
    from app import coco

    shutil.copytree(coco_root, tmp_path / "root")
    listed = tmp_path / "root" / "annotations" / "instances_val2017.json"
    shutil.copy(listed, listed.with_name("instances_train2017.json"))
    (tmp_path / "root" / "val2017").rename(tmp_path / "root" / "train2017")
    listed.write_text(listed.read_text()[:500])
    monkeypatch.setenv("SIMA_COCO_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert coco.split_choices(None)[0]["value"] == "train2017"
    every = ([], "Any number", "Any size", 1)
    _, _, _, words, filters = coco.browse(None, *every)
    assert "39 pictures" in words
    assert [coco.browse(None, *every[:3], page)[1:3] for page in (-1, 2, 9)] == [
        (1, 2), (2, 2), (2, 2),
    ]  # fmt: skip
    assert filters["visible"]
    tiles, *_, filters = coco.browse("val2017", *every)
    assert "list of val2017 is broken" in tiles
    assert filters["visible"]  # so that the other can be chosen again


@pytest.mark.parametrize(
    ("untrained", "said"),
    [
        ((0.2, 0.3), "Training put it there"),
        ((0.6, 0.8), "is no different"),
        ((0.8, 0.9), "does better"),
    ],
)
def test_the_verdict_compares_with_random_weights(untrained, said):
    from app import evidence

    found = copy.deepcopy(evidence.FOUND["val2017"])
    for name in ("query", "key"):
        found["maps"][name]["auc_ci"] = [0.65, 0.75]
        found["maps"][f"untrained_{name}"]["auc_ci"] = list(untrained)
    assert said in evidence.verdict(found)
