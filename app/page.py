"""The page: its tabs around one `Visit`, what happens between tabs, and how it is launched."""

from typing import Any

import gradio as gr

from app import api, lifetime, theme
from app.arguments import Page
from app.connections import allow_many
from app.gate import app_options
from app.handlers import QUIET, plainly
from app.tabs import compare, evidence, latency
from app.tabs.coco import tab as coco
from app.tabs.coco.picture import copy_of
from app.tabs.explore import tab as explore
from app.tabs.explore.samples import sample_photos
from app.templating import render
from app.visit import CocoLook, Visit
from sima_core import environment
from sima_core.bench import calibration
from sima_core.errors import InputError
from sima_core.machine import keep_freed_memory, use_available_cpus
from sima_core.numbers import Whole

#: Requests that may wait.
MAX_WAITING = 64
#: What may be set as the largest upload.
UPLOAD_MB = Whole(1, 10_000)

#: The id of the first tab, to which another leads.
EXPLORE = "explore-tab"


def build() -> gr.Blocks:
    """The whole page, ready to be launched."""
    use_available_cpus()
    keep_freed_memory()
    calibration.apply()
    demo = Page(title="SimA Lens", analytics_enabled=False, fill_width=False)
    with demo:
        gr.HTML(render("header"))
        visit = Visit.begin()
        with gr.Tabs() as tabs:
            with gr.Tab("Explore", id=EXPLORE):
                explore_tab = explore.build(visit, demo)
            with gr.Tab("Compare", id="compare-tab"):
                compare.build(visit)
            with gr.Tab("COCO", id="coco-tab") as coco_tab:
                open_in_explore = coco.build(visit, coco_tab)
            with gr.Tab("Evidence", id="evidence-tab"):
                evidence.build()
            with gr.Tab("Latency", id="latency-tab"):
                latency.build(visit)
        api.build()

        # From COCO to Explore: the picture, the way there, and a look at it.
        opened = open_in_explore.click(
            plainly(open_picture), visit.coco, [explore_tab.photo, tabs], **QUIET
        )
        opened.success(None, js="() => window.scrollTo({ top: 0 })")
        explore_tab.look_after(opened)
    demo.queue(max_size=MAX_WAITING, api_open=False)  # nothing gets past the queue
    return demo


def open_picture(shown: CocoLook | None) -> tuple[str, dict[str, Any]]:
    """A copy of COCO's picture for the Explore tab, and the way there."""
    return copy_of(shown), gr.update(selected=EXPLORE)


def max_upload_bytes() -> int:
    """The size of the largest file that the page takes.

    Raises:
        InputError: the environment says no size.
    """
    variable = environment.MAX_UPLOAD_MB
    try:
        return UPLOAD_MB.read(variable.get()) * gr.FileSize.MB
    except InputError as error:
        raise InputError(f"{variable.name}: {error}") from None


def launch(demo: gr.Blocks) -> None:
    """Serve the page until it is stopped.

    Raises:
        InputError: as `max_upload_bytes`.
    """
    max_upload = max_upload_bytes()
    allow_many()
    demo.launch(
        theme=theme.THEME,
        css_paths=[theme.CSS],
        js=theme.ON_OPEN,
        allowed_paths=[path for path, _ in sample_photos()],  # wherever packages lie
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        max_file_size=max_upload,
        app_kwargs=lifetime.with_upkeep(app_options(max_upload)),
        footer_links=["api"],
    )
