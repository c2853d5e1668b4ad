"""The COCO tab: in the browser, and its handlers."""

import shutil

import pytest
from playwright.sync_api import expect

from app import visitors
from app.tabs.coco.browsing import Asked, browse, split_choices
from app.tabs.coco.picture import ALL_OBJECTS, draw, show
from sima_core import analyze
from sima_core.coco.split import CocoSplit
from sima_core.lens.lens import Lens
from sima_core.scoring.metrics import Target, peak
from tests.app.driving import wait_for_rest


@pytest.mark.browser
def test_without_coco_the_tab_says_what_to_run(explore):
    explore.get_by_role("tab", name="COCO").click()
    expect(explore.locator("#coco-gallery")).to_contain_text("python -m sima_core coco download")
    expect(explore.locator("#coco-filters")).to_be_hidden()


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
    wait_for_rest(coco)  # it scrolls to the curves
    coco.get_by_label("Largest object").click()
    coco.get_by_role("option", name="Over 50 %").click()
    expect(coco.locator("#coco-words")).to_contain_text("1 picture ·")
    coco.get_by_role("button", name="Surprise me").click()
    expect(detail.locator(".sl-summary b").first).to_have_text("5", timeout=20_000)
    expect(coco.locator("#coco-relied .sl-chart")).to_have_count(0)
    coco.get_by_role("button", name="Open in Explore").click()
    expect(coco.locator("#explore .sl-summary")).to_contain_text("coco-5.jpg", timeout=20_000)
    expect(coco.get_by_role("tab", name="Explore")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize(
    ("image_id", "said"),
    [(3, "Nothing is annotated"), (5, "cover the whole picture"), (8, "Only crowds")],
)
def test_why_a_coco_picture_has_no_scores(coco_root, monkeypatch, image_id, said):
    monkeypatch.setenv("SIMA_COCO_ROOT", str(coco_root))
    assert said in draw(show(image_id, "val2017", None), 12, ALL_OBJECTS)


def test_scores_are_named_as_the_maps_are(coco_root, monkeypatch):
    monkeypatch.setenv("SIMA_COCO_ROOT", str(coco_root))
    key = visitors.MODELS.add(Lens.load("deit_tiny_patch16_224"))
    try:
        page = draw(show(1, "val2017", key), 12, ALL_OBJECTS)
    finally:
        visitors.MODELS.drop(key)
    assert "<tr><th>Q</th>" in page
    assert "Q̂" not in page.split("sl-score")[1]


def test_a_broken_list_leaves_the_other_splits(coco_root, tmp_path, monkeypatch):
    shutil.copytree(coco_root, tmp_path / "root")
    listed = tmp_path / "root" / "annotations" / "instances_val2017.json"
    shutil.copy(listed, listed.with_name("instances_train2017.json"))
    (tmp_path / "root" / "val2017").rename(tmp_path / "root" / "train2017")
    listed.write_text(listed.read_text()[:500])
    monkeypatch.setenv("SIMA_COCO_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert split_choices(None)[0]["value"] == "train2017"
    every = ([], "Any number", "Any size")
    asked = Asked.of(None, *every)
    assert "39 pictures" in browse(asked, 1).words
    turned = [browse(asked, page) for page in (-1, 2, 9)]
    assert [(page.number, page.of) for page in turned] == [(1, 2), (2, 2), (2, 2)]
    assert all(page.usable for page in turned)
    broken = browse(Asked.of("val2017", *every), 1)
    assert "list of val2017 is broken" in broken.tiles
    assert broken.usable  # so that the other can be chosen again
