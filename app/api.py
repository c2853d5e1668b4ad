"""The named endpoints `/heatmap` and `/latency`, on components that the page does not show."""

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from app.controls import photo_box, whole
from app.handlers import COMPUTE, plainly
from app.tabs.latency import MAX_SECONDS, MIN_SECONDS, compare_within_limits
from app.visitors import analyze_within_limits, bundled, kept
from sima_core.defaults import LAYER, OPACITY, RESOLUTION
from sima_core.errors import InputError
from sima_core.lens.export import describe
from sima_core.lens.heatmaps import COLORMAPS, overlay
from sima_core.lens.layers import SIDES, layer_numbers

#: Seconds to spend on both orders where a caller does not say.
SECONDS = 3
#: The largest resolution that is looked at; what it may cost is limited further on.
MAX_RESOLUTION = 8192
#: The longer side of an overlay, in pixels; a larger one would take minutes to encode.
MAX_SIDE = 4096
_NO_PICTURE = "image is missing: upload a picture, then name it."
#: Event options of a public endpoint; it waits its turn like everything that runs a model.
_PUBLIC: dict[str, Any] = {**COMPUTE, "api_visibility": "public"}


def heatmap(
    image: str | None,
    layer: int | None = LAYER,
    head: int | None = 0,
    resolution: int | None = RESOLUTION,
    colormap: str = COLORMAPS[0],
    opacity: float | None = OPACITY,
) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    """Overlays of Q̂ and K̂ over a picture, and what the command line writes as JSON.

    Layers and heads count from 1; head 0 means all heads. The model is the bundled one;
    overlays of larger pictures are `MAX_SIDE` pixels wide or high.
    """
    if image is None:
        raise InputError(_NO_PICTURE)
    analysis, picture = analyze_within_limits(
        image, None, whole(resolution, RESOLUTION), lambda found: kept(found, MAX_SIDE)
    )
    [layer] = layer_numbers(whole(layer, LAYER), len(analysis.layers))
    opacity = OPACITY if opacity is None else opacity
    query, key = (
        overlay(picture, analysis.heatmap(side, layer, head or None), colormap, opacity)
        for side in SIDES
    )
    return query, key, describe(analysis, Path(image).name, layer, head or None)


def latency(
    image: str | None,
    layer: int | None = LAYER,
    resolution: int | None = RESOLUTION,
    seconds: float | None = SECONDS,
) -> dict[str, Any]:
    """Both orders of the bundled model timed on a picture: medians, quartiles, ratios, raw times in
    seconds.
    """
    if image is None:
        raise InputError(_NO_PICTURE)
    *_, last = compare_within_limits(
        image,
        None,
        whole(layer, LAYER),
        whole(resolution, RESOLUTION),
        SECONDS if seconds is None else seconds,
    )
    return last.as_dict()


def build() -> None:
    """Offer both endpoints in the current Blocks; they need no visit."""
    lens = bundled()
    heads = max(one.num_heads for one in lens.layers)
    with gr.Column(visible=False):
        picture = photo_box(label="picture")
        layer = _whole_number(LAYER, 1, lens.depth, "layer, from 1")
        head = _whole_number(0, 0, heads, "head, from 1; 0 is all")
        resolution = _whole_number(RESOLUTION, 1, MAX_RESOLUTION, "resolution, pixels")
        colormap = gr.Textbox(COLORMAPS[0], max_length=16, label="colour map")
        opacity = gr.Number(OPACITY, minimum=0, maximum=1, label="opacity, 0 to 1")
        overlays = [gr.Image(format="png", label=f"{side} overlay") for side in SIDES]
        description = gr.JSON(label="description")
        gr.Button().click(
            plainly(heatmap),
            [picture, layer, head, resolution, colormap, opacity],
            [*overlays, description],
            api_name="heatmap",
            **_PUBLIC,
        )

        seconds = gr.Number(
            SECONDS,
            minimum=MIN_SECONDS,
            maximum=MAX_SECONDS,
            label=f"seconds to spend, at most {MAX_SECONDS}",
        )
        gr.Button().click(
            plainly(latency),
            [picture, layer, resolution, seconds],
            gr.JSON(),
            api_name="latency",
            **_PUBLIC,
        )


def _whole_number(value: int, low: int, high: int, label: str) -> gr.Number:
    return gr.Number(value, precision=0, minimum=low, maximum=high, label=label)
