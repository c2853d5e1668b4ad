"""The tab's controls, and what happens when they are used."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from app.controls import whole
from app.handlers import COMPUTE, QUIET, plainly
from app.tabs.coco.browsing import (
    LARGEST,
    NUM_OBJECTS,
    READING,
    Asked,
    browse,
    empty_card,
    parse_number,
    split_choices,
)
from app.tabs.coco.curves import rely_on
from app.tabs.coco.examples import EXAMPLES
from app.tabs.coco.picture import ALL_OBJECTS, draw, require_shown, show
from app.templating import render
from app.viewer import viewer
from app.visit import CocoLook, Visit
from sima_core.defaults import LAYER
from sima_core.errors import InputError

_GALLERY_SCRIPT = """
element.addEventListener('click', (event) => {
  const tile = event.target.closest('button[data-picture]');
  if (tile) trigger('click', { picture: Number(tile.dataset.picture) });
});
"""
_SCROLL_TO_PICTURE = (
    "() => document.querySelector('#coco-detail').scrollIntoView({behavior: 'smooth'})"
)
# Later than the event, whose result may only now give the place its height.
_SCROLL_TO_CURVES = (
    "() => setTimeout(() => document.querySelector('#coco-relied').scrollIntoView("
    "{behavior: 'smooth'}), 150)"
)


def clicked(event: gr.EventData, split_name: str | None, model_key: str | None) -> CocoLook:
    """Show the picture whose tile was clicked."""
    number = getattr(event, "picture", None)
    if type(number) is not int or not 0 <= number < 10**12:
        raise InputError("choose a picture: click on its tile, or type its number.")
    return show(number, split_name, model_key)


def jumped(typed: str | None, split_name: str | None, model_key: str | None) -> CocoLook:
    """Show the picture whose number was typed."""
    return show(parse_number(typed), split_name, model_key)


def surprised(
    split_name: str | None,
    categories: Sequence[str],
    number: str,
    size: str,
    model_key: str | None,
) -> CocoLook:
    """Show any picture that passes the filters."""
    split, ids = Asked.of(split_name, categories, number, size).ids()
    if not ids:
        raise InputError("no picture passes these filters: loosen one of them.")
    return show(random.choice(ids), split.split, model_key)


def controls_for(shown: CocoLook | None, wanted: float | None) -> tuple[Any, ...]:
    """The controls for another picture: its layers and categories; the old curves go."""
    shown = require_shown(shown)
    depth = max(shown.analysis.norms)
    annotated = sorted({o.category for o in shown.picture.objects if not o.crowd})
    return (
        gr.update(maximum=depth, value=min(whole(wanted, LAYER), depth)),
        gr.update(choices=[ALL_OBJECTS, *annotated], value=ALL_OBJECTS),
        gr.update(visible=True),
        "",
    )


@dataclass(frozen=True)
class _Filters:
    """What a visitor may ask for."""

    column: gr.Column
    split: gr.Dropdown
    categories: gr.Dropdown
    number: gr.Dropdown
    size: gr.Dropdown
    jump: gr.Textbox
    go: gr.Button
    lucky: gr.Button

    @classmethod
    def lay_out(cls) -> "_Filters":
        with gr.Column(elem_id="coco-filters") as column:
            split = gr.Dropdown([], label="Split", filterable=False, visible=False)
            categories = gr.Dropdown(
                [], multiselect=True, label="Shows all of these", elem_id="coco-categories"
            )
            number = _choice(NUM_OBJECTS, "Objects")
            size = _choice(LARGEST, "Largest object")
            jump = gr.Textbox(label="Picture number", placeholder="139", max_lines=1)
            with gr.Row():
                go = gr.Button("Show", size="sm", min_width=90)
                lucky = gr.Button("Surprise me", size="sm", min_width=120)
        return cls(column, split, categories, number, size, jump, go, lucky)

    @property
    def asked(self) -> list[Component]:
        """What `Asked.of` takes."""
        return [self.split, self.categories, self.number, self.size]


def _choice(offered: dict[str, Any], label: str) -> gr.Dropdown:
    return gr.Dropdown(list(offered), value=next(iter(offered)), label=label, filterable=False)


@dataclass(frozen=True)
class _Gallery:
    """A page of tiles, and the way to the others."""

    tiles: gr.HTML
    #: The number of the page that is shown.
    page: gr.State
    pager: gr.Row
    back: gr.Button
    words: gr.HTML
    forth: gr.Button

    @classmethod
    def lay_out(cls) -> "_Gallery":
        with gr.Column(elem_id="coco-result"):
            tiles = gr.HTML(empty_card(READING), js_on_load=_GALLERY_SCRIPT, elem_id="coco-gallery")
            with gr.Row(elem_id="coco-pager") as pager:
                back = gr.Button("‹ Back", size="sm", min_width=80)
                words = gr.HTML(elem_id="coco-words")
                forth = gr.Button("Next ›", size="sm", min_width=80)
        return cls(tiles, gr.State(1), pager, back, words, forth)

    def wire(self, filters: _Filters, tab: gr.Tab) -> None:
        """Turn the pages; begin again where a filter changes, or pictures have come."""
        given = [*filters.asked, self.page]
        shown: list[Any] = [
            *(self.tiles, self.page, self.words),
            *(filters.column, self.pager, self.back, self.forth),
        ]
        offered = (plainly(split_choices), filters.split, [filters.split, filters.categories])
        first, same = _turn_to(lambda at: 1), _turn_to(lambda at: at)
        tab.select(*offered, **QUIET).then(same, given, shown, **QUIET)
        gr.on(
            [filters.categories.input, filters.number.input, filters.size.input],
            first,
            given,
            shown,
            trigger_mode="always_last",
            **QUIET,
        )
        # Reading another split's list may be long.
        busy = {**QUIET, "show_progress": "minimal", "show_progress_on": self.words}
        filters.split.input(first, given, shown, trigger_mode="always_last", **busy)
        self.back.click(_turn_to(lambda at: at - 1), given, shown, **QUIET)
        self.forth.click(_turn_to(lambda at: at + 1), given, shown, **QUIET)

        timer = gr.Timer(3, active=EXAMPLES.fetching)
        looked = timer.tick(*offered, **QUIET).then(same, given, shown, **QUIET)
        looked.then(lambda: gr.Timer(active=EXAMPLES.fetching), None, timer, **QUIET)


def _turn_to(page_after: Callable[[float], float]) -> Callable[..., tuple[Any, ...]]:
    """A handler that shows the page which comes after the one that is shown."""

    def turned(
        split: str | None, categories: Sequence[str], number: str, size: str, at: float
    ) -> tuple[Any, ...]:
        page = browse(Asked.of(split, categories, number, size), page_after(at))
        usable = gr.update(visible=page.usable)
        return (
            *(page.tiles, page.number, page.words),
            *(usable, usable),
            gr.update(interactive=page.number > 1),
            gr.update(interactive=page.number < page.of),
        )

    return plainly(turned)


@dataclass(frozen=True)
class _Detail:
    """The picture that was chosen, and what to see of it."""

    settings: gr.Column
    layer: gr.Slider
    against: gr.Dropdown
    carry: gr.Button
    rely: gr.Button
    maps: gr.HTML
    relied: gr.HTML
    #: The layer that was asked for, which a shallower model may not have.
    wanted: gr.State

    @classmethod
    def lay_out(cls) -> "_Detail":
        with gr.Column(elem_id="coco-settings", visible=False) as settings:
            layer = gr.Slider(1, 12, LAYER, step=1, precision=0, label="Layer")
            against = gr.Dropdown(
                [ALL_OBJECTS], value=ALL_OBJECTS, label="Score against", filterable=False
            )
            carry = gr.Button("Open in Explore", variant="primary")
            rely = gr.Button("Does the model rely on them?")
        with gr.Column(elem_id="coco-detail"):
            maps = viewer("")
            relied = gr.HTML(elem_id="coco-relied")
        return cls(settings, layer, against, carry, rely, maps, relied, gr.State(LAYER))

    def wire(self, filters: _Filters, gallery: _Gallery, visit: Visit) -> None:
        """Show a picture that is clicked, typed or drawn by lot."""
        run: dict[str, Any] = {
            **COMPUTE,
            "show_progress_on": self.maps,
            "trigger_mode": "always_last",
        }
        key = visit.model_key
        for chosen in (
            gallery.tiles.click(plainly(clicked), [filters.split, key], visit.coco, **run),
            gr.on(
                [filters.jump.submit, filters.go.click],
                plainly(jumped),
                [filters.jump, filters.split, key],
                visit.coco,
                **run,
            ),
            filters.lucky.click(plainly(surprised), [*filters.asked, key], visit.coco, **run),
        ):
            fitted = chosen.success(
                plainly(controls_for),
                [visit.coco, self.wanted],
                [self.layer, self.against, self.settings, self.relied],
                **QUIET,
            )
            drawn = fitted.success(*self._drawing(visit), **QUIET)
            drawn.success(None, js=_SCROLL_TO_PICTURE)
        self.layer.input(lambda number: number, self.layer, self.wanted, **QUIET)
        gr.on(
            [self.layer.change, self.against.input],
            *self._drawing(visit),
            trigger_mode="always_last",
            **QUIET,
        )

    def _drawing(self, visit: Visit) -> tuple[Any, ...]:
        return plainly(draw), [visit.coco, self.layer, self.against, visit.model_key], self.maps

    def wire_curves(self, visit: Visit) -> None:
        """Follow the model's answer while tokens come and go."""
        waiting = self.rely.click(lambda: render("coco/relying"), None, self.relied, **QUIET)
        relying = waiting.then(
            plainly(rely_on),
            [visit.coco, self.layer],
            self.relied,
            **COMPUTE,
            show_progress_on=self.relied,
            trigger_mode="always_last",
        )
        relying.success(None, js=_SCROLL_TO_CURVES)
        relying.failure(lambda: "", None, self.relied, **QUIET)
        self.rely.click(None, js=_SCROLL_TO_CURVES)


def build(visit: Visit, tab: gr.Tab) -> gr.Button:
    """Lay the tab out inside the current Blocks; gives the button that leads to Explore."""
    EXAMPLES.start()
    with gr.Column(elem_id="coco"):
        filters = _Filters.lay_out()
        gallery = _Gallery.lay_out()
        detail = _Detail.lay_out()
    gallery.wire(filters, tab)
    detail.wire(filters, gallery, visit)
    detail.wire_curves(visit)
    return detail.carry
