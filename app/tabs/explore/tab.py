"""The Explore tab: a photo in, the token importance of Q̂ and K̂ over it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.controls import (
    colormap_choice,
    head_choices,
    opacity_slider,
    photo_box,
    resolution_choice,
)
from app.handlers import COMPUTE, DRAW, QUIET, plainly
from app.own_checkpoint import OwnCheckpoint
from app.raw_image import RawImage
from app.tabs.explore.brush import Brush
from app.tabs.explore.flow import FlowView
from app.tabs.explore.look import explore, photo_on_show
from app.tabs.explore.named_map import download, draw, draw_named, map_choice
from app.tabs.explore.samples import pick_sample, sample_photos
from app.tabs.explore.trust import Trust
from app.tabs.explore.why import Why
from app.viewer import predictions_html, viewer
from app.visit import Look, Visit
from app.visitors import bundled
from sima_core.defaults import LAYER, RESOLUTION
from sima_core.lens.heatmaps import COLORMAPS

# The archive's address reaches the hidden button a moment after the event that made it.
_CLICK_DOWNLOAD = "() => setTimeout(() => document.querySelector('#download-ready').click(), 200)"

GUIDE = """
### How to read the maps

**Every tile is a token** of 16 × 16 pixels (8 × 8 in models whose name ends in `p8`). The brighter,
the larger it is in Q̂ or K̂.

- **K̂ (key)** scales how much all the others hear of a token. In SimA, which has no softmax, it
  ranks tokens nearly as the exact size of what they send does (rank correlation 0.91 on COCO).
- **Q̂ (query)** scales what a token takes up. That is only a hint of what arrives (0.68), since
  about two fifths of all weight subtract.
- **Colours are relative.** Darkest is the smallest norm in this picture, brightest the largest;
  the numbers beside the colour bar say how far apart they are.
- **Layer 12** is the paper's choice. Earlier layers and single heads often look elsewhere: try
  them.
- **Map** offers others of the same layer, each with what it cannot say. **To the class token**
  finds objects best of them (energy lift 1.94 on COCO, against 1.46 for Q̂).
- **Flow** shows what attention does with one token, exactly: whom it hears and who hears it, part
  by part. Red adds, blue subtracts.
- The maps show what attention weighs, **not why** the model chose a label, and it can be wrong.
"""


@dataclass(frozen=True)
class Explore:
    """The tab's components, and what happens between them."""

    visit: Visit
    photo: RawImage
    samples: gr.Gallery
    summary: gr.HTML
    flow: FlowView
    maps: gr.HTML
    brush: Brush
    predictions: gr.HTML
    why: Why
    map: gr.Dropdown
    #: Set when a map other than the paper's is to be computed.
    wanted: gr.Textbox
    head: gr.Dropdown
    resolution: gr.Dropdown
    colormap: gr.Dropdown
    opacity: gr.Slider
    save: gr.Button
    ready: gr.DownloadButton
    own: OwnCheckpoint
    trust: Trust

    @classmethod
    def lay_out(cls, visit: Visit, first: Look) -> "Explore":
        """The tab inside the current Blocks, showing the first look."""
        pictures, facts, _ = draw(first, LAYER, 0, COLORMAPS[0])
        with gr.Column(elem_id="explore"):
            with gr.Column(elem_id="explore-photo"):
                photo = _photo()
                samples = _gallery()
            with gr.Column(elem_id="explore-result"):
                summary = gr.HTML(facts)
                flow = FlowView.lay_out()
                maps = viewer(pictures, elem_id="maps")
                brush = Brush.lay_out(visit, first)
            trust = Trust.lay_out()
            with gr.Column(elem_id="explore-below"):
                with gr.Column():
                    predictions = gr.HTML(predictions_html(first.analysis))
                    why = Why.lay_out(visit, first)
                gr.Markdown(GUIDE, elem_id="guide")
            with gr.Column(elem_id="explore-settings"):
                choice = map_choice()
                visit.layer.render()
                heads = head_choices(bundled().layers[0].num_heads)
                return cls(
                    visit,
                    photo,
                    samples,
                    summary,
                    flow,
                    maps,
                    brush,
                    predictions,
                    why,
                    map=choice,
                    wanted=gr.Textbox(label="Wanted map", visible="hidden", max_length=16),
                    head=gr.Dropdown(heads, value=0, label="Head", filterable=False),
                    resolution=resolution_choice("Resolution (shorter side)"),
                    colormap=colormap_choice(),
                    opacity=opacity_slider(),
                    save=gr.Button("Download maps (PNG, NPZ)", variant="primary"),
                    ready=gr.DownloadButton(visible="hidden", elem_id="download-ready"),
                    own=OwnCheckpoint.lay_out(),
                    trust=trust,
                )

    def look_after(self, event: Dependency) -> Dependency:
        """Analyse and draw what `photo` holds, once the event has succeeded."""
        return self._draw_after(self._look_on(event.success))

    def _look_on(self, listen: Callable[..., Dependency]) -> Dependency:
        looked = listen(
            plainly(explore),
            [self.photo, self.visit.look, self.visit.model_key, self.resolution],
            [self.visit.look, self.predictions],
            **COMPUTE,
            show_progress_on=self.maps,
            trigger_mode="always_last",
        )
        self.own.begin_again_after(looked, self.visit, self.head)
        self.trust.outdated_after(looked.success)
        self.brush.begin_after(looked)
        self.why.begin_after(looked)
        return looked

    def _draw_after(self, event: Dependency) -> Dependency:
        drawn: Dependency = event.success(plainly(draw), self._view, self._drawn, **DRAW)
        return drawn

    @property
    def _drawn(self) -> list[Component]:
        """What `draw` gives."""
        return [self.maps, self.summary, self.wanted]

    @property
    def _view(self) -> list[Component]:
        """What `draw` takes."""
        return [self.visit.look, self.visit.layer, self.head, self.colormap, self.map]

    def wire_photo(self) -> None:
        """Look at samples and photos that are chosen; draw again where only the view changes."""
        self.look_after(
            self.samples.select(
                plainly(pick_sample), None, self.photo, trigger_mode="always_last", **QUIET
            )
        )
        again = self._look_on(functools.partial(gr.on, [self.photo.input, self.resolution.input]))
        self._draw_after(again)
        # What cannot be shown leaves the box to the photo that still is.
        again.failure(photo_on_show, self.visit.look, self.photo, **QUIET)
        gr.on(
            # The map changes where Flow is chosen, too.
            [self.visit.layer.change, self.map.change, self.head.input, self.colormap.input],
            plainly(draw),
            self._view,
            self._drawn,
            trigger_mode="always_last",
            **DRAW,
        )
        # One event for all: what was begun first is never drawn over what came later.
        self.wanted.change(
            plainly(draw_named),
            [*self._view, self.visit.model_key],
            self.maps,
            **COMPUTE,
            show_progress_on=self.maps,
            trigger_mode="always_last",
        )

    def wire_trust(self) -> None:
        """Check the maps that are shown; what was checked before is of another view then."""
        self.trust.wire(self.visit, self._view)
        self.trust.outdated_after(self.visit.layer.change)
        self.trust.outdated_after(self.head.change)
        self.trust.outdated_after(self.map.change)

    def wire_download(self) -> None:
        """Pack the maps, then press the hidden button that holds the archive."""
        self.save.click(
            plainly(download),
            [*self._view, self.opacity, self.visit.model_key],
            self.ready,
            **COMPUTE,
            show_progress="minimal",
        ).success(None, js=_CLICK_DOWNLOAD)


def build(visit: Visit, demo: gr.Blocks) -> Explore:
    """Lay the tab out inside the current Blocks, its first sample already analysed."""
    first, _ = explore(sample_photos()[0][0], None, None, RESOLUTION)
    tab = Explore.lay_out(visit, first)
    visit.begin_with(demo, first)
    # The photos' addresses come with it, so that the page itself names no folder of the server.
    shown = [tab.photo, tab.samples]
    demo.load(lambda: (first.path, sample_photos()), None, shown, **QUIET)
    tab.wire_photo()
    tab.own.wire(visit, tab.head, tab.look_after)
    tab.wire_trust()
    tab.wire_download()
    tab.flow.wire(visit, tab.head, tab.map)
    return tab


def _photo() -> RawImage:
    return photo_box(
        label="Photo",
        show_label=False,
        sources=["upload", "clipboard", "webcam"],
        height=230,
        buttons=[],
        elem_id="photo",
    )


def _gallery() -> gr.Gallery:
    return gr.Gallery(
        label="Sample photos",
        show_label=False,
        columns=len(sample_photos()),
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id="samples",
    )
