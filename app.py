"""Start SimA Lens: ``python app.py``."""

import os

import gradio as gr

from app import (  # noqa: F401  # all, at start
    charts,
    coco,
    compare,
    evidence,
    explore,
    latency,
    theme,
    viewer,
    visitors,
)
from sima_core.bench import calibration
from sima_core.machine import keep_freed_memory, use_available_cpus

#: Megabytes of the largest upload; a checkpoint of the largest model in half precision fits.
MAX_UPLOAD_MB = int(os.environ.get("SIMA_MAX_UPLOAD_MB", "400"))
#: Seconds: how often to look for cached files to delete, and how old they get.
DELETE_CACHE = (600, 3600)

use_available_cpus()
keep_freed_memory()
calibration.apply()

with gr.Blocks(
    title="SimA Lens", analytics_enabled=False, delete_cache=DELETE_CACHE, fill_width=False
) as demo:
    gr.HTML(theme.HEADER)
    with gr.Tabs() as tabs:
        with gr.Tab("Explore", id="explore-tab"):
            looking_at = explore.build(demo)
        with gr.Tab("Compare", id="compare-tab"):
            compare.build(looking_at)
        with gr.Tab("COCO", id="coco-tab") as coco_tab:
            coco.build(coco_tab, tabs, looking_at)
        with gr.Tab("Evidence", id="evidence-tab"):
            evidence.build()
        with gr.Tab("Latency", id="latency-tab"):
            latency.build(looking_at)

demo.queue(max_size=64, api_open=False)  # nothing gets past the queue

if __name__ == "__main__":
    demo.launch(
        theme=theme.THEME,
        css_paths=[theme.CSS],
        js=theme.ON_OPEN,
        ssr_mode=False,
        show_error=False,
        max_file_size=f"{MAX_UPLOAD_MB}mb",
        state_session_capacity=200,
        footer_links=["api"],
    )
