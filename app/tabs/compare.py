"""The Compare tab: models, layers or heads side by side on the photo from Explore."""

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from torch import nn

from sima_core import load_image, provenance
from sima_core.bench.whole_models import ModelTime
from sima_core.comparison import (
    FEWEST,
    MOST,
    Choice,
    MapKind,
    Panel,
    compare,
)
from sima_core.lens.heatmaps import COLORMAPS
from sima_core.models.architectures import ARCHITECTURES
from sima_core.weights.cache import ModelCache, ModelGoneError
from sima_core.weights.loading import load_best

from .explore import DEFAULT_LAYER, DEFAULT_OPACITY, DEFAULT_RESOLUTION, RESOLUTIONS, Explore, Look
from .viewer import Photo, escape, figure_html, linked_html, viewer
from .visitors import (
    COMPUTE,
    LOAD,
    MAX_COST,
    kept,
    model_for,
    plainly,
    require_affordable,
    require_photo,
    whole,
)

#: The source that means the visitor's model in Explore.
MINE = "the model in Explore"
SECONDS = 3.0
#: Seconds after which untrained weights are looked for again: the Hub may be back.
RETRY_SECONDS = 600.0

_SEVERAL = "Models (two to four)"
OF_MODELS, OF_LAYERS, OF_HEADS = "Models", "Layers", "Heads"
_KINDS: dict[str, MapKind] = {
    "Token norms": "norms",
    "Class token": "cls",
    "Rollout": "rollout",
}
START = (
    '<section class="sl-card sl-empty"><h3>What do other models listen to?</h3><p>Choose two to '
    "four models, layers or heads and press <b>Compare</b>: their maps of the photo in Explore "
    "appear side by side, with the time each model takes. Point at a token, or zoom, and all "
    "follow.</p></section>"
)


@dataclass(frozen=True)
class Compared:
    """A comparison, kept for a visit."""

    panels: Sequence[Panel]
    times: Sequence[ModelTime]


class _Shelf:
    """Models by architecture that any visitor may compare, loaded once while there is room."""

    def __init__(self) -> None:
        self._cache = ModelCache(max_models=8)
        self._keys: dict[str, tuple[str, float]] = {}  # and when it was loaded
        self._loading = threading.Lock()

    def get(self, architecture: str) -> nn.Module:
        if (held := self._held(architecture)) is not None:  # without waiting for other models
            return held
        with self._loading:
            if (held := self._held(architecture)) is not None:
                return held
            model = load_best(architecture)
            self._keys[architecture] = self._cache.add(model), time.monotonic()
            return model

    def _held(self, architecture: str) -> nn.Module | None:
        key, loaded = self._keys.get(architecture, ("", 0.0))
        with contextlib.suppress(ModelGoneError):
            model = self._cache.get(key)
            if provenance(model).trained or time.monotonic() - loaded < RETRY_SECONDS:
                return model
            self._cache.drop(key)
        return None


_SHELF = _Shelf()


def choices_of(
    what: str, models: Sequence[str], layers: Sequence[int], heads: Sequence[int], layer: int
) -> list[Choice]:
    """What is to be set side by side.

    Raises:
        ValueError: too few or too many, in words of the page.
    """
    named = {OF_MODELS: models, OF_LAYERS: layers, OF_HEADS: heads}[what]
    if not models:
        raise ValueError("choose a model.")
    if not FEWEST <= len(named) <= MOST:
        raise ValueError(f"choose {FEWEST} to {MOST} {what.lower()} to compare.")
    if what == OF_MODELS:
        return [Choice(model, layer) for model in models]
    if what == OF_LAYERS:
        return [Choice(models[0], int(number)) for number in sorted(layers)]
    return [Choice(models[0], layer, int(number)) for number in sorted(heads)]


def run(
    seen: Look | None,
    model_key: str | None,
    what: str,
    models: Sequence[str],
    layers: Sequence[int],
    heads: Sequence[int],
    layer: float | None,
    kind: str,
    resolution: float,
) -> Compared:
    """Look with all of them, and time their models."""
    if seen is None:
        raise ValueError("choose a photo in Explore first.")
    image = load_image(require_photo(seen.path))

    cost = 0.0

    def load(source: str) -> nn.Module:
        nonlocal cost
        model = model_for(model_key) if source == MINE else _SHELF.get(source)
        try:
            cost += require_affordable(model, image, int(resolution))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        if cost > MAX_COST:  # slow models are run five or six times, others for some seconds
            raise ValueError(
                "together these models take too long on a shared machine: choose fewer or smaller "
                "ones, or a lower resolution."
            )
        return model

    chosen = choices_of(what, models, layers, heads, whole(layer, DEFAULT_LAYER))
    panels, times = compare(chosen, image, int(resolution), _KINDS[kind], SECONDS, load)
    photo = kept(image)
    return Compared([replace(p, analysis=replace(p.analysis, image=photo)) for p in panels], times)


def fetch(what: str, models: Sequence[str], layers: Sequence[int], heads: Sequence[int]) -> None:
    """Have the models' weights here before `run`, since the Hub may keep one waiting."""
    for source in {choice.source for choice in choices_of(what, models, layers, heads, 1)}:
        if source != MINE:
            _SHELF.get(source)


def draw(compared: Compared | None, colormap: str) -> str:
    """The pictures in a grid, a column for each choice; runs no model."""
    if compared is None:
        return START
    panels, times = compared.panels, compared.times
    photo = Photo.of(panels[0].analysis.image)
    slowest = max(t.forward.median for t in times)
    columns = ""
    for panel, timed in zip(panels, times, strict=True):
        figures = ""
        for name, values in panel.maps.items():
            rows, cols = values.shape
            figures += figure_html(
                photo,
                values,
                f"<b>{name}</b> <span>{rows} × {cols} tokens</span>",
                name,
                f"{name} of {panel.title}",
                colormap,
            )
        head = head_html(panel, timed, slowest)
        columns += f'<div class="sl-column" data-maps="{len(panel.maps)}">{head}{figures}</div>'
    return linked_html(photo, columns, len(panels))


def head_html(panel: Panel, times: ModelTime, slowest: float) -> str:
    """Above a column: the model, its weights, and its time as a bar."""
    trained = panel.analysis.provenance.trained
    weights = escape(panel.weights) if trained else "<mark>untrained weights</mark>"
    forward, attention = (100 * t.median / slowest for t in (times.forward, times.attention))
    return (
        f'<div class="sl-head"><b>{escape(panel.title)}</b>{weights}<div class="sl-times">'
        f'<i aria-hidden="true"><span style="width:{forward:.1f}%"></span>'
        f'<em style="width:{attention:.1f}%"></em></i>{times}</div></div>'
    )


def controls_for(what: str, kind: str) -> tuple[dict[str, Any], ...]:
    """Show the controls that the kind of comparison, and of map, has."""
    return (
        gr.update(label=_SEVERAL if what == OF_MODELS else "Model (the first counts)"),
        gr.update(visible=what == OF_LAYERS),
        gr.update(visible=what == OF_HEADS),
        gr.update(visible=what != OF_LAYERS and _KINDS[kind] == "norms"),
    )


def build(explore: Explore) -> None:
    """Lay the tab out inside the current Blocks."""
    compared = gr.State()  # a Compared
    with gr.Column(elem_id="compare"):
        with gr.Row(elem_id="compare-controls"):
            what = gr.Radio([OF_MODELS, OF_LAYERS, OF_HEADS], value=OF_MODELS, label="Compare")
            models = gr.Dropdown(
                [MINE, *ARCHITECTURES],
                value=[MINE, "deit_tiny_patch16_224", "xcit_nano_12_p16_224"],
                multiselect=True,
                max_choices=MOST,
                label=_SEVERAL,
                scale=2,
            )
            layers = gr.Dropdown(
                list(range(1, 25)), value=[1, 6, 12], multiselect=True, max_choices=MOST,
                label="Layers (two to four)", visible=False,
            )  # fmt: skip
            heads = gr.Dropdown(
                list(range(1, 17)), value=[1, 2, 3, 4], multiselect=True, max_choices=MOST,
                label="Heads (two to four)", visible=False,
            )  # fmt: skip
        with gr.Row(elem_id="compare-look"):
            layer = gr.Slider(1, 24, DEFAULT_LAYER, step=1, precision=0, label="Layer")
            kind = gr.Dropdown(
                list(_KINDS), value=next(iter(_KINDS)), label="Map", filterable=False
            )
            resolution = gr.Dropdown(
                [(f"{r} px", r) for r in RESOLUTIONS], value=DEFAULT_RESOLUTION, label="Resolution",
                filterable=False,
            )  # fmt: skip
            colormap = gr.Dropdown(
                [(c.capitalize(), c) for c in COLORMAPS],
                value=COLORMAPS[0],
                label="Colour map",
                filterable=False,
            )
            opacity = gr.Slider(0, 1, DEFAULT_OPACITY, step=0.01, label="Heatmap opacity")
        start = gr.Button("Compare", variant="primary", elem_id="compare-start")
        grid = viewer(START, elem_id="compare-grid")
        gr.Markdown(
            "SimA's maps are norms of Q̂ and K̂; for softmax attention and XCA they are norms of Q "
            "and K, as the paper shows DeiT's. The coloured part of a bar is the attention layers' "
            "share of a forward pass (medians, in turns on this machine). **Untrained weights** "
            "mean random ones: their maps tell of the architecture alone.",
            elem_id="compare-note",
        )

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    gr.on(
        [what.change, kind.change], controls_for, [what, kind], [models, layers, heads, layer],
        **quiet,
    )  # fmt: skip
    given = [explore.seen, explore.model_key, what, models, layers, heads, layer, kind, resolution]
    busy: dict[str, Any] = {
        "api_visibility": "private", "show_progress_on": grid, "trigger_mode": "once",
    }  # fmt: skip
    start.click(plainly(fetch), [what, models, layers, heads], None, **LOAD, **busy).success(
        plainly(run), given, compared, **COMPUTE, **busy
    ).success(plainly(draw), [compared, colormap], grid, **quiet)
    colormap.input(plainly(draw), [compared, colormap], grid, **quiet)
    opacity.input(
        None, opacity, js="o => {document.documentElement.style.setProperty('--sl-opacity', o)}"
    )
