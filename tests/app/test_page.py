"""The page as a whole: phones, errors, what a visit keeps, and how it is started."""

import ast
import pkgutil
import re
import shutil

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect

import app as package
from app.handlers import plainly, plainly_each
from app.page import launch, open_picture
from app.tabs import compare, latency
from app.tabs.explore.look import download
from app.visit import CocoLook
from sima_core.errors import InputError
from tests.app.driving import compare as press_compare
from tests.app.driving import look
from tests.support import ROOT


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
    press_compare(page, 3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")
    context.close()


def test_a_photo_that_was_deleted_is_said_to_be_gone(photo_file, tmp_path):
    gone = tmp_path / "gone.jpg"
    shutil.copy(photo_file, gone)
    seen = look(str(gone), None, 64)
    shown = CocoLook("val2017", None, gone, seen.analysis, None)
    gone.unlink()
    for handler in (
        lambda: list(latency.measure_orders(seen, None, 12, 64, 1)),
        lambda: list(latency.curve(seen, None, 12, 64)),
        lambda: compare.run(
            seen, None, compare.OF_LAYERS, [compare.MINE], [1, 2], [], 12, "Token norms", 64
        ),
        lambda: open_picture(shown),
        lambda: download(seen, 12, 0, "gray", 0.5),
    ):
        with pytest.raises(InputError, match="no longer here"):
            handler()


def test_a_visit_keeps_no_full_size_photo(tmp_path):
    Image.effect_noise((3000, 2400), 60).convert("RGB").save(tmp_path / "large.jpg")
    seen = look(str(tmp_path / "large.jpg"), None, 64)
    found = compare.run(
        seen, None, compare.OF_LAYERS, [compare.MINE], [1, 2], [], 12, "Token norms", 64
    )
    assert seen.analysis.image.size == (1, 1)
    assert seen.with_photo().image.size == (2048, 1638)
    assert {panel.image.size for panel in found.panels} == {(960, 768)}
    assert 960 * 768 * 3 < found.num_bytes < 960 * 768 * 3 + 10_000  # one photo for all
    assert 100_000 < seen.num_bytes < 1_500_000  # noise, which no JPEG makes small


def test_app_py_imports_every_module_at_start():
    """So that nothing is looked for later, when the folder may be another one."""
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.parse((ROOT / "app.py").read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    there = pkgutil.walk_packages(package.__path__, "app.")
    assert imported == {module.name for module in there if not module.ispkg}


def test_our_own_sentences_are_shown_escaped():
    def handler(name):
        raise InputError(f"there is no <b>{name}</b> & nothing else")

    for wrapped in (plainly(handler), lambda name: list(plainly_each(handler)(name))):
        with pytest.raises(gr.Error) as caught:
            wrapped("x<script>")
        shown = "There is no &lt;b&gt;x&lt;script&gt;&lt;/b&gt; &amp; nothing else"
        assert caught.value.message == shown


def reshaped():
    """A handler in which numpy raises a ValueError."""
    return np.zeros(3).reshape(2, 2).tolist()


def test_a_strangers_error_is_no_sentence_of_ours():
    with pytest.raises(ValueError, match="cannot reshape") as caught:
        plainly(reshaped)()
    assert not isinstance(caught.value, gr.Error)


def test_a_strangers_error_is_not_shown(monkeypatch):
    options = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda demo, **given: options.update(given))
    launch(gr.Blocks())
    monkeypatch.undo()
    with gr.Blocks(analytics_enabled=False) as demo:
        gr.Button().click(plainly(reshaped), None, gr.JSON(), api_name="reshaped")
    demo.launch(prevent_thread_lock=True, quiet=True, **options)
    try:
        with pytest.raises(AppError) as caught:
            Client(demo.local_url, verbose=False).predict(api_name="/reshaped")
    finally:
        demo.close()
    assert "reshape" not in str(caught.value)


@pytest.mark.browser
def test_an_error_sentence_is_escaped_on_the_page(explore):
    explore.get_by_role("button", name="Use your own checkpoint").click()
    box = explore.get_by_role("textbox", name="or a Hugging Face Hub id")
    box.fill("<img src=x onerror=document.title='gone'>")
    explore.get_by_role("button", name="Load from Hub").click()
    toast = explore.locator(".toast-body")
    expect(toast).to_be_visible()
    expect(toast.locator("img")).to_have_count(0)
    expect(explore).to_have_title("SimA Lens")
