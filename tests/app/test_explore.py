"""The Explore tab: in the browser, and its handlers."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from app.tabs.explore import look as tab
from app.tabs.explore.samples import sample_photos
from app.viewer import Photo
from sima_core import load_image, load_model, preprocess, token_norms
from sima_core.errors import InputError
from sima_core.lens.lens import Lens
from tests.app.driving import heat, norms, wait_for_change


def upload(page: Page, path: Path) -> list[str]:
    before = norms(page)
    page.set_input_files("#photo input[type=file]", path)
    return wait_for_change(page, norms, before)


@pytest.mark.browser
def test_opens_with_a_sample_already_analysed(explore):
    assert all(explore.locator(".sl-heat").evaluate_all("i => i.map(x => x.naturalWidth > 0)"))
    expect(explore.locator(".sl-predictions li")).to_have_count(5)
    expect(explore.locator(".sl-summary")).to_contain_text("sima_nano_12_p16")
    alts = explore.locator("img:visible").evaluate_all("i => i.map(x => x.alt)")
    assert all(alts), alts


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


def test_colour_map_and_head_run_no_model(monkeypatch):
    sample, _ = tab.explore(sample_photos()[0][0], None, None, 112)
    monkeypatch.setattr(Lens, "analyze", None)  # would fail if it were called
    pictures = {tab.draw(sample, 12, head, c)[0] for head in (0, 1) for c in ("gray", "turbo")}
    assert len(pictures) == 4


def test_a_forgotten_visit_is_explained():
    with pytest.raises(InputError, match="choose the photo again"):
        tab.draw(None, 12, 0, "gray")


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1, 1), (480, 480)), ((8, 6), (480, 360)), ((600, 400), (600, 400)), ((4000, 2), (960, 1))],
)
def test_photos_are_shown_with_neither_too_few_nor_too_many_pixels(size, shown):
    assert Photo.of(Image.new("RGB", size)).size == shown
