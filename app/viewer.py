"""The HTML that shows an analysis: linked Q̂ and K̂ pictures, predictions, a line of facts."""

import base64
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sima_core.lens.analysis import Analysis
from sima_core.lens.heatmaps import Heatmap, colorize, heatmap
from sima_core.lens.layers import Side

STATIC = Path(__file__).parent / "static"
#: The longer side, in pixels, of the pictures sent to the page: the maps are no finer anyway, and a
#: tiny picture must not have fewer pixels than tokens.
DISPLAY_SIDE, SMALLEST_DISPLAY_SIDE = 960, 480

_TITLES: dict[Side, tuple[str, str]] = {
    "query": ("Query", "how strongly each token gathers"),
    "key": ("Key", "how strongly each token is heard"),
}
_HINT = "Point at a token (or tap, or use the arrow keys) to read its value."


def viewer(value: str, **kwargs: Any) -> gr.HTML:
    """The component that shows `viewer_html` and reads token values out; it asks no server."""
    script = (STATIC / "viewer.js").read_text(encoding="utf-8")
    return gr.HTML(value, js_on_load=script, elem_classes="sl-viewer-host", **kwargs)


def escape(text: object) -> str:
    """Escape for HTML and for the templates through which Gradio passes it."""
    return html.escape(str(text)).replace("{", "&#123;").replace("$", "&#36;")


def viewer_html(
    analysis: Analysis,
    layer: int,
    head: int | None,
    colormap: str,
    on_top: Mapping[Side, str] | None = None,
) -> str:
    """Both pictures with overlays, colour bars and read-outs.

    Args:
        on_top: HTML to lay over the pictures.

    Raises:
        ValueError: a layer or head that does not exist, or a map that is not finite.
    """
    photo = Photo.of(analysis.image)
    heads = "all heads" if head is None else f"head {head}"
    figures = ""
    for side, (name, meaning) in _TITLES.items():
        symbol = analysis.symbol(side)
        figures += figure_html(
            photo,
            analysis.token_norms(side, layer, head),
            f"<b>{symbol}</b> <b>{name}</b> <span>{meaning}</span>",
            symbol,
            f"the {side} norms in layer {layer}, {heads}",
            colormap,
            (on_top or {}).get(side, ""),
            side,
        )
    return linked_html(photo, figures)


def linked_html(photo: "Photo", figures: str, columns: int = 2) -> str:
    """Figures side by side, with the slider between photo and heatmap that all share."""
    return (
        f'<div class="sl-viewer" style="--sl-ratio:{photo.ratio:.4f};--sl-columns:{columns}">'
        f"{figures}</div>"
        '<div class="sl-compare"><label><span>Photo</span>'
        '<input type="range" min="0" max="100" value="100" '
        'aria-label="Compare: how much of the picture the heatmap covers, in percent">'
        '<span>Heatmap</span></label><span class="sl-zoom" role="group" aria-label="Zoom">'
        '<button type="button" data-zoom="out" aria-label="Zoom out">−</button>'
        '<button type="button" data-zoom="in" aria-label="Zoom in">+</button></span></div>'
    )


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
        return cls(_data_uri(np.asarray(image.resize(size))), size, width / height)


def figure_html(
    photo: Photo,
    norms: NDArray[np.float32],
    heading: str,
    symbol: str,
    of: str,
    colormap: str,
    on_top: str = "",
    side: str = "",
) -> str:
    """One picture with its overlay, colour bar and read-out.

    Args:
        norms: the unscaled map, (rows, cols).
        heading: HTML.
        symbol: the map's short name.
        of: what the map is of, for those who do not see it.
        on_top: HTML to lay over the picture.

    Raises:
        ValueError: a map that is not finite.
    """
    heat = heatmap(norms)
    rows, cols = norms.shape
    values = json.dumps([float(f"{v:.6g}") for v in norms.ravel()])
    note = '<p class="sl-note">This map is flat: every token has the same value.</p>'
    return f"""<figure class="sl-figure" data-side="{side}" data-rows="{rows}" data-cols="{cols}"
 data-min="{heat.minimum:.8g}" data-max="{heat.maximum:.8g}" data-flat="{str(heat.flat).lower()}"
 data-norms="{values}">
<figcaption>{heading}</figcaption>
<div class="sl-stage" tabindex="0" role="group"
 aria-label="{symbol} heatmap; arrow keys move from token to token, plus and minus zoom, Escape
 leaves"><div class="sl-zoomed">
<img class="sl-photo" src="{photo.uri}" alt="The photo">
<img class="sl-heat" src="{_data_uri(colorize(heat.resize(photo.size), colormap))}"
 alt="{escape(_alt(of, heat))}">
{on_top}<div class="sl-cell" hidden></div></div></div>
<div class="sl-scale"><span>{heat.minimum:.4g}</span>
<div class="sl-gradient" role="img" aria-label="Colour bar, {heat.minimum:.4g} to
 {heat.maximum:.4g}" style="background:{gradient(colormap)}"><i class="sl-marker" hidden></i></div>
<span>{heat.maximum:.4g}</span></div>
<output class="sl-readout" aria-live="polite" data-hint="{_HINT}">{_HINT}</output>
{note if heat.flat else ""}</figure>"""


def _alt(of: str, heat: Heatmap) -> str:
    row, col = np.unravel_index(heat.values.argmax(), heat.values.shape)
    rows, cols = heat.values.shape
    where = (
        "no token stands out"
        if heat.flat
        else (f"the largest value is at row {row + 1} of {rows}, column {col + 1} of {cols}")
    )
    return f"Heatmap of {of}: {where}"


def gradient(colormap: str, stops: int = 24) -> str:
    """The colour map as a CSS gradient from left to right."""
    colors = colorize(np.linspace(0, 1, stops, dtype=np.float32)[None], colormap)[0]
    return f"linear-gradient(to right,{','.join(f'rgb({r} {g} {b})' for r, g, b in colors)})"


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    """RGB (height, width, 3) as a JPEG inside a URI, so that nothing lands on the server's disk."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def predictions_html(analysis: Analysis) -> str:
    """The predictions as labelled bars, with the label set and a word when the model is unsure."""
    best = analysis.predictions[0]
    if not analysis.provenance.trained:
        verdict = "<b>Untrained weights:</b> these numbers mean nothing."
    elif analysis.unsure:
        verdict = f"<b>Unsure.</b> Best guess: {escape(best.label)}."
    else:
        verdict = f"Best match: <b>{escape(best.label)}</b>."
    bars = "".join(
        f'<li><span class="sl-label">{escape(p.label)}</span>'
        f'<span class="sl-track"><i style="width:{100 * p.probability:.2f}%"></i></span>'
        f'<span class="sl-percent">{100 * p.probability:.1f} %</span></li>'
        for p in analysis.predictions
    )
    return (
        '<section class="sl-card sl-predictions" aria-label="Predictions">'
        "<h3>What the model sees</h3>"
        f"<p>{verdict}</p><ol>{bars}</ol>"
        f'<p class="sl-fine">Chosen among {escape(analysis.provenance.label_set)}; '
        "what is none of them gets the nearest name.</p></section>"
    )


def summary_html(analysis: Analysis, name: str, layer: int, head: int | None) -> str:
    """One line of facts: photo, model, weights, layer, tokens."""
    origin = analysis.provenance
    rows, cols = analysis.grid_of("query", layer)
    facts = [
        escape(name),
        f"<b>{escape(origin.architecture)}</b>",
        f"weights: {escape(origin.source)}" if origin.trained else "<mark>untrained weights</mark>",
        f"layer <b>{layer}</b> of {len(analysis.norms)}",
        "all heads" if head is None else f"head {head}",
        f"{rows} × {cols} = {rows * cols} tokens",
    ]
    return f'<p class="sl-summary">{"".join(f"<span>{f}</span>" for f in facts)}</p>'
