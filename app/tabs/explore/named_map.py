"""The map selector: the paper's two maps, or another of the registry, computed when chosen."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from app.tabs.explore import look
from app.tabs.explore.again import look_again
from app.tabs.explore.look import View
from app.templating import render
from app.turns import TURNS
from app.viewer import ShownMap, figure_html, linked_html, summary_html
from app.visit import Look, require_look
from sima_core.errors import InputError
from sima_core.lens.layers import Layer
from sima_core.lens.maps import MAPS, Maps, NamedMap, require_map
from sima_core.words import in_powers

#: In place of a map's name: the two of the paper, which every look holds.
PAPER = "paper"


def map_choice() -> gr.Dropdown:
    """A choice of maps, each with its formula."""
    others = [(f"{one.title}: {one.formula}", name) for name, one in MAPS.items()]
    return gr.Dropdown(
        [("Q̂ and K̂ (the paper’s)", PAPER), *others],
        value=PAPER,
        label="Map",
        filterable=False,
        elem_id="map-choice",
    )


@dataclass(frozen=True)
class Found:
    """A named map of one look."""

    named: NamedMap
    #: Where it was taken: the chosen layer, but for what the class token receives.
    layer: Layer
    #: Unscaled, (rows, cols).
    values: NDArray[np.float32]
    #: Numbers on the layer's flow, each with what it means.
    facts: Sequence[tuple[str, str]]


def draw(
    seen: Look | None,
    layer: float | None,
    head: float,
    colormap: str,
    map_name: str = PAPER,
) -> tuple[Any, Markup, str]:
    """The paper's pictures, and the line of facts; runs no model.

    Where another map is chosen, no pictures, but a word that `draw_named` is wanted; another word
    every time.
    """
    if map_name == PAPER:
        return *look.draw(seen, layer, head, colormap), ""
    seen = require_look(seen)
    view = View.of(seen.analysis, layer, head, colormap)
    facts = summary_html(seen.analysis, seen.name, view.layer, view.head)
    return gr.skip(), facts, secrets.token_hex(4)


def draw_named(
    seen: Look | None,
    layer: float | None,
    head: float,
    colormap: str,
    map_name: str,
    model_key: str | None,
) -> Markup:
    """The picture of a map other than the paper's, and what it says.

    The paper's again where these are chosen meanwhile.
    """
    if map_name == PAPER:
        return look.draw(seen, layer, head, colormap)[0]
    seen = require_look(seen)
    view = View.of(seen.analysis, layer, head, colormap)
    found = _find(seen, view, map_name, model_key)
    if isinstance(found, str):
        return render("explore/no_map", named=MAPS[map_name], sentence=found)
    shown = ShownMap(
        found.values,
        found.named.title,
        found.named.formula,
        f"the map “{found.named.title}” in {layer_in_words(found.layer)}, {view.heads}",
    )
    card = render(
        "explore/named_map",
        named=found.named,
        where=f"{layer_in_words(found.layer)}, {view.heads}",
        other_layer=found.layer != seen.analysis.layers[view.layer],
        facts=found.facts,
        trained=seen.analysis.trained,
    )
    return linked_html(seen.photo, [figure_html(seen.photo, shown, colormap), card])


def download(
    seen: Look | None,
    layer: float | None,
    head: float,
    colormap: str,
    map_name: str,
    opacity: float | None,
    model_key: str | None,
) -> str:
    """A zip of what is shown: the overlays (PNG), the values (NPZ), the description (JSON)."""
    if map_name == PAPER:
        return look.download(seen, layer, head, colormap, opacity)
    seen = require_look(seen)
    view = View.of(seen.analysis, layer, head, colormap)
    found = _find(seen, view, map_name, model_key)
    if isinstance(found, str):
        raise InputError(found)
    return look.download(seen, layer, head, colormap, opacity, (map_name, found.values))


def layer_in_words(layer: Layer) -> str:
    """Such as "layer 12"; layers of class attention have numbers of their own."""
    return f"{'' if layer.kind.over_patches else 'class-attention '}layer {layer.number}"


def _find(seen: Look, view: View, map_name: str, model_key: str | None) -> Found | str:
    """The map, from one forward pass in a turn; a sentence where the model has no such map."""
    require_map(map_name)
    lens, pixels = look_again(seen, model_key)
    with TURNS.turn():
        maps = lens.maps(pixels, view.layer, [map_name])
        if map_name not in tuple(maps):
            return _missing(maps, map_name)
        return _found(maps, map_name, view.head)


def _missing(maps: Maps, map_name: str) -> str:
    named = MAPS[map_name]
    why = {
        "flow": "no token hears another there",
        "class": "no class token takes part in its attention",
    }
    others = ", ".join(one.title for one in MAPS.values() if one.needs == "norms")
    return (
        f"Layer {maps.layer.number} ({maps.layer.attention}) has no map “{named.title}”, since "
        f"{why[named.needs]}: choose {others}."
    )


def _found(maps: Maps, map_name: str, head: int | None) -> Found:
    named = MAPS[map_name]
    if named.needs == "norms":
        return Found(named, maps.layer, maps.of(map_name, head), ())
    if named.needs == "class":
        flow = maps.class_flow
        assert flow is not None
        parts = flow.received("class", head)
        facts = _facts(parts.negative_share, parts.cancelled, flow.totals().error)
        return Found(named, flow.layer, maps.of(map_name, head), facts)
    totals = maps.totals(head)
    facts = _facts(totals.negative_share, totals.cancelled, totals.error)
    return Found(named, maps.layer, maps.of(map_name, head), facts)


def _facts(negative: float, cancelled: float, error: float | None) -> list[tuple[str, str]]:
    facts = [
        (f"{100 * abs(negative):.0f} %", "of the weights, by size, is negative: it subtracts"),
        (f"{100 * cancelled:.0f} %", "of the parts’ sizes is lost in their sums: they cancel"),
    ]
    if error is not None:
        facts.append(
            (
                in_powers(error),
                "of the output’s largest value is the most by which the parts’ sum misses it",
            )
        )
    return facts
