"""The named endpoints, such as `/heatmap`, on components that the page does not show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from app.controls import photo_box, whole
from app.handlers import COMPUTE, plainly
from app.tabs.latency import MAX_SECONDS, MIN_SECONDS, compare_within_limits
from app.turns import TURNS
from app.visitors import MAX_COST, bundled, kept, require_affordable
from sima_core import load_image
from sima_core.defaults import LAYER, OPACITY, RESOLUTION
from sima_core.errors import InputError
from sima_core.lens.changes import describe as describe_changes
from sima_core.lens.export import describe
from sima_core.lens.heatmaps import COLORMAPS, DIVERGING, overlay
from sima_core.lens.heatmaps import heatmap as as_heatmap
from sima_core.lens.layers import SIDES, layer_numbers
from sima_core.lens.lens import Lens
from sima_core.lens.maps import listening, require_map
from sima_core.lens.token_flow import TokenFlow
from sima_core.lens.token_flow import describe as describe_flow
from sima_core.lens.tokens import PLACES, grid_of, read_areas, tokens_in

#: Seconds to spend on both orders where a caller does not say.
SECONDS = 3
#: The largest resolution that is looked at; what it may cost is limited further on.
MAX_RESOLUTION = 8192
#: The longer side of an overlay, in pixels; a larger one would take minutes to encode.
MAX_SIDE = 4096
#: The value of `map` that stands for the paper's two.
NORMS = "norms"
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
    map: str | None = NORMS,
) -> tuple[Image.Image, Image.Image | None, dict[str, Any]]:
    """Overlays of Q̂ and K̂ over a picture, and what the command line writes as JSON.

    Layers and heads count from 1; head 0 means all heads. The model is the bundled one;
    overlays of larger pictures are `MAX_SIDE` pixels wide or high. Another map than the norms, by
    its name, is one overlay; the second is none then.
    """
    wanted = None if map in (None, "", NORMS) else map
    if wanted is not None:
        require_map(wanted)
    seen = _Seen.of(image, resolution)
    [number] = layer_numbers(whole(layer, LAYER), seen.lens.depth)
    layers, names = [seen.lens.layer(number)], () if wanted is None else (wanted,)
    with TURNS.turn():
        with listening(seen.lens.model, seen.pixels, layers, names) as heard:
            analysis = seen.lens.analyze(
                seen.picture, seen.resolution, [number], pixels=seen.pixels
            )
        named = (wanted, heard()[number].of(wanted, head or None)) if wanted else None
    about = describe(analysis, seen.name, number, head or None, named)
    shown = (
        [as_heatmap(named[1])]
        if named
        else [analysis.heatmap(s, number, head or None) for s in SIDES]
    )
    opacity = OPACITY if opacity is None else opacity
    overlays = [overlay(seen.picture, one, colormap, opacity) for one in shown]
    return overlays[0], overlays[1] if len(overlays) > 1 else None, about


def flow(
    image: str | None,
    row: int | None = None,
    column: int | None = None,
    layer: int | None = LAYER,
    head: int | None = 0,
    resolution: int | None = RESOLUTION,
) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    """What one token receives from each other and sends to each: overlays, red where it adds and
    blue where it subtracts, and what ``flow`` of the command line writes as JSON.

    Rows, columns, layers and heads count from 1; head 0 means all heads.
    """
    if row is None or column is None:
        raise InputError("name a row and a column, counted from 1.")
    seen = _Seen.of(image, resolution)
    token = (int(row), int(column))
    with TURNS.turn():
        found = TokenFlow.look(seen.lens, seen.pixels, token, whole(layer, LAYER), head or None)
    about = describe_flow(found, seen.lens, seen.name, seen.resolution)
    received, sent = (
        overlay(seen.picture, shown, DIVERGING, OPACITY) for shown in found.signed().values()
    )
    return received, sent, about


def knockout(
    image: str | None,
    tokens: str | None = "",
    layer: int | None = 0,
    resolution: int | None = RESOLUTION,
) -> dict[str, Any]:
    """The most probable labels with and without some tokens, predicted and real, as JSON.

    Tokens are written as for ``knockout`` of the command line: 3,5;2-4,6-9. Layer 0 means all.
    """
    areas = read_areas(tokens or "")
    seen = _Seen.of(image, resolution, passes=3)
    gone = tokens_in(areas, grid_of(seen.pixels, seen.lens.patch_size))
    with TURNS.turn():
        found = seen.lens.without(seen.pixels, gone, layer or "all")
    return describe_changes(found, seen.lens, seen.name, layer or None, seen.resolution)


@dataclass(frozen=True)
class _Seen:
    """A picture as the bundled model takes it, and small enough to draw on."""

    lens: Lens
    name: str
    resolution: int
    picture: Image.Image
    pixels: Tensor

    @classmethod
    def of(cls, image: str | None, resolution: int | None, passes: int = 1) -> "_Seen":
        """Read, before the turn, unless that many forward passes would cost too much.

        Raises:
            ImageError, InputError: with a sentence for the caller.
        """
        if image is None:
            raise InputError(_NO_PICTURE)
        lens, photo, side = bundled(), load_image(image), whole(resolution, RESOLUTION)
        require_affordable(lens, photo, side, MAX_COST / passes)
        pixels = lens.preprocess(photo, side)
        return cls(lens, Path(image).name, side, kept(photo, MAX_SIDE), pixels)


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
    """Offer the endpoints in the current Blocks; they need no visit."""
    lens = bundled()
    heads = max(one.num_heads for one in lens.layers)
    with gr.Column(visible=False):
        picture = photo_box(label="picture")
        layer = _whole_number(LAYER, 1, lens.depth, "layer, from 1")
        head = _whole_number(0, 0, heads, "head, from 1; 0 is all")
        resolution = _whole_number(RESOLUTION, 1, MAX_RESOLUTION, "resolution, pixels")
        colormap = gr.Textbox(COLORMAPS[0], max_length=16, label="colour map")
        opacity = gr.Number(OPACITY, minimum=0, maximum=1, label="opacity, 0 to 1")
        named = gr.Textbox(NORMS, max_length=32, label="map")
        overlays = [gr.Image(format="png", label=f"{side} overlay") for side in SIDES]
        description = gr.JSON(label="description")
        gr.Button().click(
            plainly(heatmap),
            [picture, layer, head, resolution, colormap, opacity, named],
            [*overlays, description],
            api_name="heatmap",
            **_PUBLIC,
        )

        places = [
            gr.Number(precision=0, minimum=PLACES.low, maximum=PLACES.high, label=f"{name}, from 1")
            for name in ("row", "column")
        ]
        gr.Button().click(
            plainly(flow),
            [picture, *places, layer, head, resolution],
            [gr.Image(format="png", label=n) for n in ("received", "sent")]
            + [gr.JSON(label="description")],
            api_name="flow",
            **_PUBLIC,
        )

        tokens = gr.Textbox("", label="tokens, such as 3,5;2-4,6-9")
        where = _whole_number(0, 0, lens.depth, "layer, from 1; 0 is all")
        gr.Button().click(
            plainly(knockout),
            [picture, tokens, where, resolution],
            gr.JSON(label="description"),
            api_name="knockout",
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
            gr.JSON(label="description"),
            api_name="latency",
            **_PUBLIC,
        )


def _whole_number(value: int, low: int, high: int, label: str) -> gr.Number:
    return gr.Number(value, precision=0, minimum=low, maximum=high, label=label)
