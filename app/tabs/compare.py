"""The Compare tab: models, layers or heads side by side on the photo from Explore."""

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import gradio as gr
from markupsafe import Markup

from app.controls import colormap_choice, opacity_slider, resolution_choice, whole
from app.handlers import COMPUTE, LOAD, QUIET, plainly
from app.templating import render
from app.turns import TURNS
from app.viewer import DISPLAY_SIDE, Photo, ShownMap, figure_html, linked_html, viewer
from app.visit import Comparison, Look, Visit, require_look
from app.visitors import (
    MAX_COST,
    kept,
    lens_cache,
    lens_for,
    require_affordable,
    require_photo,
    require_visit,
)
from sima_core import load_image
from sima_core.bench.whole_models import ModelTime
from sima_core.comparison import FEWEST, MOST, WITHOUT_LAYER, Choice, MapKind, Panel, compare
from sima_core.defaults import LAYER
from sima_core.errors import InputError, SimaLensError
from sima_core.lens.layers import SIDES
from sima_core.lens.lens import Lens
from sima_core.lens.maps import MAPS, MapName
from sima_core.models.architectures import ARCHITECTURES
from sima_core.weights.cache import ModelGoneError
from sima_core.weights.loading import load_best

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
    **{MAPS[name].title: name for name in get_args(MapName) if name not in SIDES},
}
_NOTE = (
    "SimA's maps are norms of Q̂ and K̂; for softmax attention and XCA they are norms of Q and K, "
    "as the paper shows DeiT's. The coloured part of a bar is the attention layers' share of a "
    "forward pass (medians, in turns on this machine). **Untrained weights** mean random ones: "
    "their maps tell of the architecture alone."
)


class _Shelf:
    """Models by architecture that any visitor may compare, loaded once while there is room."""

    def __init__(self) -> None:
        self._cache = lens_cache(max_models=8)
        self._keys: dict[str, tuple[str, float]] = {}  # and when it was loaded
        self._loading = threading.Lock()

    def get(self, architecture: str) -> Lens:
        """The lens over an architecture's best weights.

        Raises:
            CheckpointError: as `load_best`.
        """
        if (held := self._held(architecture)) is not None:  # without waiting for other models
            return held
        with self._loading:
            if (held := self._held(architecture)) is not None:
                return held
            lens = Lens(load_best(architecture))
            self._keys[architecture] = self._cache.add(lens), time.monotonic()
            return lens

    def _held(self, architecture: str) -> Lens | None:
        key, loaded = self._keys.get(architecture, ("", 0.0))
        with contextlib.suppress(ModelGoneError):
            lens = self._cache.get(key)
            trained = lens.provenance is not None and lens.provenance.trained
            if trained or time.monotonic() - loaded < RETRY_SECONDS:
                return lens
            self._cache.drop(key)
        return None


_SHELF = _Shelf()


@dataclass(frozen=True)
class Asked:
    """What is to be set side by side, as the controls say it."""

    #: `OF_MODELS`, `OF_LAYERS` or `OF_HEADS`.
    what: str
    models: Sequence[str]
    layers: Sequence[int]
    heads: Sequence[int]

    def choices(self, layer: int) -> list[Choice]:
        """The same as the library takes it.

        Raises:
            InputError: too few or too many, or none that is on offer, in words of the page.
        """
        if any(model != MINE and model not in ARCHITECTURES for model in self.models):
            raise InputError("choose models on offer here.")
        named = {OF_MODELS: self.models, OF_LAYERS: self.layers, OF_HEADS: self.heads}[self.what]
        if not self.models:
            raise InputError("choose a model.")
        if not FEWEST <= len(named) <= MOST:
            raise InputError(f"choose {FEWEST} to {MOST} {self.what.lower()} to compare.")
        if self.what == OF_MODELS:
            return [Choice(model, layer) for model in self.models]
        if self.what == OF_LAYERS:
            return [Choice(self.models[0], int(number)) for number in sorted(self.layers)]
        return [Choice(self.models[0], layer, int(number)) for number in sorted(self.heads)]


def fetch(what: str, models: Sequence[str], layers: Sequence[int], heads: Sequence[int]) -> None:
    """Have the models' weights here before `run`, since the Hub may keep one waiting."""
    for source in {choice.source for choice in Asked(what, models, layers, heads).choices(1)}:
        if source != MINE:
            _SHELF.get(source)


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
) -> Comparison:
    """Look with all of them, and time their models."""
    image = load_image(require_photo(require_look(seen).path))
    cost = 0.0

    def load(source: str) -> Lens:
        nonlocal cost
        lens = lens_for(model_key) if source == MINE else _SHELF.get(source)
        try:
            cost += require_affordable(lens, image, int(resolution))
        except SimaLensError as error:
            raise InputError(f"{source}: {error}") from None
        if cost > MAX_COST:  # slow models are run five or six times, others for some seconds
            raise InputError(
                "together these models take too long on a shared machine: choose fewer or smaller "
                "ones, or a lower resolution."
            )
        return lens

    chosen = Asked(what, models, layers, heads).choices(whole(layer, LAYER))
    with TURNS.turn():
        panels, times = compare(chosen, image, int(resolution), _KINDS[kind], SECONDS, load)
    photo = kept(image, DISPLAY_SIDE)  # it is only shown
    return Comparison([replace(panel, image=photo) for panel in panels], times)


def draw(compared: Comparison | None, colormap: str, model_key: str | None = None) -> Markup:
    """The pictures in a grid, a column for each choice; runs no model."""
    if compared is None:
        require_visit(model_key)
        return render("compare/start")
    panels, times = compared.panels, compared.times
    photo = Photo.of(panels[0].image)
    slowest = max(t.forward.median for t in times)
    columns = [
        _column(photo, panel, timed, slowest, colormap)
        for panel, timed in zip(panels, times, strict=True)
    ]
    return linked_html(photo, columns)


def _column(photo: Photo, panel: Panel, timed: ModelTime, slowest: float, colormap: str) -> Markup:
    """One choice: the model, its weights, its time as a bar, and its maps."""
    figures = []
    for name, values in panel.maps.items():
        rows, cols = values.shape
        shown = ShownMap(values, name, f"{rows} × {cols} tokens", f"{name} of {panel.title}")
        figures.append(figure_html(photo, shown, colormap))
    return render(
        "compare/column",
        figures=figures,
        title=panel.title,
        trained=panel.trained,
        weights=panel.weights,
        forward_percent=100 * timed.forward.median / slowest,
        attention_percent=100 * timed.attention.median / slowest,
        times=timed,
    )


def controls_for(what: str, kind: str) -> tuple[dict[str, Any], ...]:
    """Show the controls that the kind of comparison, and of map, has."""
    return (
        gr.update(label=_SEVERAL if what == OF_MODELS else "Model (the first counts)"),
        gr.update(visible=what == OF_LAYERS),
        gr.update(visible=what == OF_HEADS),
        gr.update(visible=what != OF_LAYERS and _KINDS[kind] not in WITHOUT_LAYER),
    )


@dataclass(frozen=True)
class _Controls:
    """What the visitor may choose."""

    what: gr.Radio
    models: gr.Dropdown
    layers: gr.Dropdown
    heads: gr.Dropdown
    layer: gr.Slider
    kind: gr.Dropdown
    resolution: gr.Dropdown
    colormap: gr.Dropdown

    @classmethod
    def lay_out(cls) -> "_Controls":
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
            layers = _several_numbers("Layers", range(1, 25), [1, 6, 12])
            heads = _several_numbers("Heads", range(1, 17), [1, 2, 3, 4])
        with gr.Row(elem_id="compare-look"):
            layer = gr.Slider(1, 24, LAYER, step=1, precision=0, label="Layer")
            kind = gr.Dropdown(
                list(_KINDS), value=next(iter(_KINDS)), label="Map", filterable=False
            )
            resolution = resolution_choice("Resolution")
            colormap = colormap_choice()
            opacity_slider()
        return cls(what, models, layers, heads, layer, kind, resolution, colormap)

    @property
    def asked(self) -> list[gr.components.Component]:
        """What `Asked` is made of."""
        return [self.what, self.models, self.layers, self.heads]


def _several_numbers(name: str, offered: range, value: list[int]) -> gr.Dropdown:
    return gr.Dropdown(
        list(offered),
        value=value,
        multiselect=True,
        max_choices=MOST,
        label=f"{name} (two to four)",
        visible=False,
    )


def build(visit: Visit) -> None:
    """Lay the tab out inside the current Blocks."""
    with gr.Column(elem_id="compare"):
        controls = _Controls.lay_out()
        start = gr.Button("Compare", variant="primary", elem_id="compare-start")
        grid = viewer(draw(None, ""), elem_id="compare-grid")
        gr.Markdown(_NOTE, elem_id="compare-note")

    gr.on(
        [controls.what.change, controls.kind.change],
        controls_for,
        [controls.what, controls.kind],
        [controls.models, controls.layers, controls.heads, controls.layer],
        **QUIET,
    )
    busy: dict[str, Any] = {"show_progress_on": grid, "trigger_mode": "once"}
    drawing = (plainly(draw), [visit.comparison, controls.colormap, visit.model_key], grid)
    fetched = start.click(plainly(fetch), controls.asked, None, **LOAD, **busy)
    compared = fetched.success(
        plainly(run),
        [
            *(visit.look, visit.model_key),
            *controls.asked,
            *(controls.layer, controls.kind, controls.resolution),
        ],
        visit.comparison,
        **COMPUTE,
        **busy,
    )
    compared.success(*drawing, **QUIET)
    controls.colormap.input(*drawing, **QUIET)
