"""The HTML that shows an analysis: linked Q̂ and K̂ pictures, predictions, a line of facts."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from app.templating import render
from sima_core.lens.analysis import Analysis
from sima_core.lens.heatmaps import DIVERGING, Heatmap, colorize, heatmap, signed_heatmap
from sima_core.lens.layers import Side

STATIC = Path(__file__).parent / "static"
#: The longer side, in pixels, of the pictures sent to the page: the maps are no finer anyway, and a
#: tiny picture must not have fewer pixels than tokens.
DISPLAY_SIDE, SMALLEST_DISPLAY_SIDE = 960, 480

_TITLES: dict[Side, tuple[str, str]] = {
    "query": ("Query", "how strongly each token gathers"),
    "key": ("Key", "how strongly each token is heard"),
}


def viewer(value: str, **kwargs: Any) -> gr.HTML:
    """The component that shows `viewer_html` and reads token values out; it asks no server."""
    script = (STATIC / "viewer.js").read_text(encoding="utf-8")
    return gr.HTML(value, js_on_load=script, elem_classes="sl-viewer-host", **kwargs)


@dataclass(frozen=True)
class Photo:
    """A photo as the page shows it: its address, its size in pixels there, its shape."""

    uri: str
    size: tuple[int, int]
    #: Width over height.
    ratio: float

    @classmethod
    def of(cls, image: Image.Image) -> "Photo":
        width, height = image.size
        longer = max(width, height)
        scale = min(max(longer, SMALLEST_DISPLAY_SIDE), DISPLAY_SIDE) / longer
        size = max(1, round(width * scale)), max(1, round(height * scale))
        # Hamming shrinks as well as bicubic does, in half the time.
        how = Image.Resampling.HAMMING if scale < 1 else Image.Resampling.BICUBIC
        shown = image.resize(size, how, reducing_gap=3.0)
        return cls(_data_uri(np.asarray(shown)), size, width / height)


@dataclass(frozen=True)
class ShownMap:
    """A map to lay over a photo, and what the page says about it."""

    #: Unscaled, (rows, cols).
    values: NDArray[np.float32]
    #: Its short name, such as ``Q̂``.
    symbol: str
    #: What stands above it, after the symbol and, where it has one, a longer name.
    meaning: str
    #: What it is of, for those who do not see it.
    of: str
    name: str = ""
    side: str = ""
    #: Markup to lay over the picture.
    on_top: str = ""
    #: Whether zero has a meaning: what is above it speaks for something, what is below against it.
    signed: bool = False


def viewer_html(
    analysis: Analysis,
    layer: int,
    head: int | None,
    colormap: str,
    on_top: Mapping[Side, Markup] | None = None,
    photo: Photo | None = None,
    key: str = "",
) -> Markup:
    """Both pictures with overlays, colour bars and read-outs.

    Args:
        on_top: what to lay over the pictures.
        photo: the analysed one, where it is made for the page already.
        key: what scripts know the look by.

    Raises:
        InputError: a layer or head that does not exist, or a map that is not finite.
    """
    photo = photo or Photo.of(analysis.image)
    heads = "all heads" if head is None else f"head {head}"
    figures = [
        figure_html(
            photo,
            ShownMap(
                analysis.token_norms(side, layer, head),
                analysis.symbol(side, layer),
                meaning,
                f"the {side} norms in layer {layer}, {heads}",
                name,
                side,
                (on_top or {}).get(side, ""),
            ),
            colormap,
        )
        for side, (name, meaning) in _TITLES.items()
    ]
    return linked_html(photo, figures, look=key, layer=layer, head=head or 0)


def linked_html(photo: Photo, columns: Sequence[Markup], **about: object) -> Markup:
    """Columns of figures side by side, which share pointer, zoom and the slider below.

    Args:
        about: what scripts can know of them, as data of the viewer.
    """
    return render("viewer", photo=photo, columns=columns, num_columns=len(columns), about=about)


def figure_html(photo: Photo, shown: ShownMap, colormap: str) -> Markup:
    """One picture with its overlay, colour bar and read-out; a signed map has colours of its own.

    Raises:
        InputError: a map that is not finite.
    """
    heat = signed_heatmap(shown.values) if shown.signed else heatmap(shown.values)
    colormap = DIVERGING if shown.signed else colormap
    rows, cols = shown.values.shape
    return render(
        "figure",
        photo=photo,
        shown=shown,
        heat=heat,
        rows=rows,
        cols=cols,
        norms=json.dumps([float(f"{v:.6g}") for v in shown.values.ravel()]),
        heat_uri=heat_uri(heat, photo.size, colormap),
        alt=_alt(shown.of, heat),
        gradient=_gradient(colormap),
    )


def heat_uri(heat: Heatmap, size: tuple[int, int], colormap: str) -> str:
    """A map in colours, (width, height) pixels, as an address that holds it."""
    return _data_uri(colorize(heat.resize(size), colormap))


def predictions_html(analysis: Analysis) -> Markup:
    """The predictions as labelled bars, with the label set and a word when the model is unsure."""
    return render(
        "explore/predictions",
        trained=analysis.trained,
        unsure=analysis.unsure,
        predictions=analysis.predictions,
        label_set=analysis.label_set,
    )


def summary_html(analysis: Analysis, name: str, layer: int, head: int | None) -> Markup:
    """One line of facts: photo, model, weights, layer, tokens."""
    rows, cols = analysis.grid_of("query", layer)
    return render(
        "explore/summary",
        name=name,
        model=analysis.name,
        trained=analysis.trained,
        weights=analysis.weights_in_words,
        layer=layer,
        depth=len(analysis.norms),
        head=head,
        rows=rows,
        cols=cols,
    )


def _alt(of: str, heat: Heatmap) -> str:
    row, col = np.unravel_index(heat.values.argmax(), heat.values.shape)
    rows, cols = heat.values.shape
    where = (
        "no token stands out"
        if heat.flat
        else f"the largest value is at row {row + 1} of {rows}, column {col + 1} of {cols}"
    )
    return f"Heatmap of {of}: {where}"


def _gradient(colormap: str, stops: int = 24) -> str:
    """The colour map as a CSS gradient from left to right."""
    colors = colorize(np.linspace(0, 1, stops, dtype=np.float32)[None], colormap)[0]
    return f"linear-gradient(to right,{','.join(f'rgb({r} {g} {b})' for r, g, b in colors)})"


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    """RGB (height, width, 3) as a JPEG inside a URI, so that nothing lands on the server's disk."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
