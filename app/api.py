"""The named endpoints `/heatmap` and `/latency`, on components that the page does not show."""

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from app.controls import photo_box, whole
from app.handlers import COMPUTE, plainly
from app.tabs.latency import MAX_SECONDS, compare_within_limits
from app.visit import Visit
from app.visitors import analyze_within_limits
from sima_core.defaults import LAYER, OPACITY, RESOLUTION
from sima_core.errors import InputError
from sima_core.lens.export import describe
from sima_core.lens.heatmaps import COLORMAPS, overlay
from sima_core.lens.layers import SIDES, layer_numbers

#: Seconds to spend on both orders where a caller does not say.
SECONDS = 3
#: Event options of a public endpoint; it waits its turn like everything that runs a model.
_PUBLIC: dict[str, Any] = {**COMPUTE, "api_visibility": "public"}


def heatmap(
    image: str | None,
    model_key: str | None,
    layer: int | None = LAYER,
    head: int | None = 0,
    resolution: int | None = RESOLUTION,
    colormap: str = COLORMAPS[0],
    opacity: float | None = OPACITY,
) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    """Overlays of Q̂ and K̂ over a picture, and what the command line writes as JSON.

    Layers and heads count from 1; head 0 means all heads.
    """
    if image is None:
        raise InputError("give a picture.")
    analysis = analyze_within_limits(image, model_key, whole(resolution, RESOLUTION))
    [layer] = layer_numbers(whole(layer, LAYER), len(analysis.layers))
    opacity = OPACITY if opacity is None else opacity
    query, key = (
        overlay(analysis.image, analysis.heatmap(side, layer, head or None), colormap, opacity)
        for side in SIDES
    )
    return query, key, describe(analysis, Path(image).name, layer, head or None)


def latency(
    image: str | None,
    model_key: str | None,
    layer: int | None = LAYER,
    resolution: int | None = RESOLUTION,
    seconds: float | None = SECONDS,
) -> dict[str, Any]:
    """Both orders timed on a picture: medians, quartiles, ratios, raw times in seconds."""
    if image is None:
        raise InputError("give a picture.")
    *_, last = compare_within_limits(
        image,
        model_key,
        whole(layer, LAYER),
        whole(resolution, RESOLUTION),
        SECONDS if seconds is None else seconds,
    )
    return last.as_dict()


def build(visit: Visit) -> None:
    """Offer both endpoints in the current Blocks."""
    model_key = gr.State()  # of the bundled model: programs have no visit
    with gr.Column(visible=False):
        picture = photo_box(label="picture")
        layer = gr.Number(LAYER, precision=0, label="layer, from 1")
        head = gr.Number(0, precision=0, label="head, from 1; 0 is all")
        resolution = gr.Number(RESOLUTION, precision=0, label="resolution, pixels")
        colormap = gr.Textbox(COLORMAPS[0], label="colour map")
        opacity = gr.Number(OPACITY, label="opacity, 0 to 1")
        overlays = [gr.Image(format="png", label=f"{side} overlay") for side in SIDES]
        description = gr.JSON(label="description")
        gr.Button().click(
            plainly(heatmap),
            [picture, model_key, layer, head, resolution, colormap, opacity],
            [*overlays, description],
            api_name="heatmap",
            **_PUBLIC,
        )

        seconds = gr.Number(SECONDS, label=f"seconds to spend, at most {MAX_SECONDS}")
        gr.Button().click(
            plainly(latency),
            [picture, model_key, layer, resolution, seconds],
            gr.JSON(),
            api_name="latency",
            **_PUBLIC,
        )
