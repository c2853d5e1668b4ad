"""Controls that several tabs have, and the choices that they offer."""

from typing import Any

import gradio as gr

from app.raw_image import RawImage
from sima_core.defaults import OPACITY, RESOLUTION
from sima_core.lens.heatmaps import COLORMAPS

#: Pixels of the input's shorter side that can be chosen.
RESOLUTIONS = (112, 160, 224, 320, 448, 640)

# The heatmaps of all tabs follow one property of the page, so that moving it asks no server.
_SET_OPACITY = "o => {document.documentElement.style.setProperty('--sl-opacity', o)}"


def photo_box(**kwargs: Any) -> RawImage:
    """An input for a photo; its value is a path, whatever the file holds."""
    return RawImage(type="filepath", image_mode=None, **kwargs)


def head_choices(num_heads: int) -> list[tuple[str, int]]:
    """Words and values of a choice of heads, counted from 1; 0 means all of them."""
    return [("All heads", 0), *((f"Head {h}", h) for h in range(1, num_heads + 1))]


def resolution_choice(label: str) -> gr.Dropdown:
    """A choice of `RESOLUTIONS`."""
    return gr.Dropdown(
        [(f"{r} px", r) for r in RESOLUTIONS], value=RESOLUTION, label=label, filterable=False
    )


def colormap_choice() -> gr.Dropdown:
    """A choice of `COLORMAPS`."""
    return gr.Dropdown(
        [(c.capitalize(), c) for c in COLORMAPS],
        value=COLORMAPS[0],
        label="Colour map",
        filterable=False,
    )


def opacity_slider() -> gr.Slider:
    """How much of the photo the heatmaps hide."""
    slider = gr.Slider(0, 1, OPACITY, step=0.01, label="Heatmap opacity")
    slider.input(None, slider, js=_SET_OPACITY)
    return slider


def whole(value: float | None, default: int) -> int:
    """The number in a box; `default` where a visitor has emptied it."""
    return default if value is None else int(value)
