"""The Explore tab: a photo in, the token importance of Q̂ and K̂ over it."""

import functools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from markupsafe import Markup

from app.controls import (
    colormap_choice,
    head_choices,
    opacity_slider,
    photo_box,
    resolution_choice,
    whole,
)
from app.handlers import COMPUTE, DRAW, QUIET, plainly
from app.own_checkpoint import OwnCheckpoint
from app.raw_image import RawImage
from app.viewer import Photo, predictions_html, summary_html, viewer, viewer_html
from app.visit import Look, Visit, require_look
from app.visitors import (
    analyze_within_limits,
    bundled,
    new_folder,
    require_photo,
    require_visit,
)
from sima_core import Analysis
from sima_core.defaults import LAYER, OPACITY, RESOLUTION
from sima_core.errors import InputError
from sima_core.lens.export import write
from sima_core.lens.heatmaps import COLORMAPS

_SAMPLES = {
    "Cheetah": ("gradio", "media_assets/images/cheetah1.jpg"),
    "Lion": ("gradio", "media_assets/images/lion.jpg"),
    "Running cheetah": ("gradio", "media_assets/images/cheetah.jpg"),
    "Eiffel Tower": ("gradio", "media_assets/images/tower.jpg"),
    "Grace Hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}

# The archive's address reaches the hidden button a moment after the event that made it.
_CLICK_DOWNLOAD = "() => setTimeout(() => document.querySelector('#download-ready').click(), 200)"

GUIDE = """
### How to read the maps

**Every tile is a token** of 16 × 16 pixels (8 × 8 in models whose name ends in `p8`). SimA has no
softmax, so a token's size in Q̂ and K̂ *is* its say: the brighter, the more.

- **Q̂ (query)** scales what a token takes up from all the others; **K̂ (key)** scales how much all
  the others hear of it. Bright in both: it matters in both directions.
- **Colours are relative.** Darkest is the smallest norm in this picture, brightest the largest;
  the numbers beside the colour bar say how far apart they are.
- **Layer 12** is the paper's choice. Earlier layers and single heads often look elsewhere: try
  them.
- The maps show what attention weighs, **not why** the model chose a label, and it can be wrong.
"""


def sample_photos() -> list[tuple[str, str]]:
    """(path, caption) of the sample photos that the installed packages carry."""
    found = [(files(package) / name, caption) for caption, (package, name) in _SAMPLES.items()]
    return [(str(path), caption) for path, caption in found if path.is_file()]


def pick_sample(choice: gr.EventData) -> str:
    """The path of the sample that was clicked."""
    samples = sample_photos()
    index = getattr(choice, "index", None)
    if type(index) is not int or not 0 <= index < len(samples):
        raise InputError("choose one of the sample photos.")
    return samples[index][0]


@dataclass(frozen=True)
class View:
    """What to show of an analysis."""

    layer: int
    head: int | None
    colormap: str

    @classmethod
    def of(cls, analysis: Analysis, layer: float | None, head: float, colormap: str) -> "View":
        """The view nearest to what was asked for that the model has."""
        number = min(whole(layer, LAYER), max(analysis.norms))
        heads = analysis.layers[number].num_heads
        return cls(number, int(head) if 1 <= head <= heads else None, colormap)


def explore(
    path: str | None, seen: Look | None, model_key: str | None, resolution: float
) -> tuple[Look, Markup]:
    """A new photo, resolution or model: run it once; `draw` follows.

    Where the photo was cleared, the one that is still shown is meant.
    """
    require_visit(model_key)
    path = require_photo(path or (seen.path if seen else None))
    analysis, photo = analyze_within_limits(path, model_key, int(resolution), Photo.of)
    return Look.of(path, photo, analysis), predictions_html(analysis)


def draw(
    seen: Look | None, layer: float | None, head: float, colormap: str
) -> tuple[Markup, Markup]:
    """The pictures and the line of facts; runs no model."""
    seen = require_look(seen)
    analysis = seen.analysis
    view = View.of(analysis, layer, head, colormap)
    return (
        viewer_html(analysis, view.layer, view.head, view.colormap, photo=seen.photo),
        summary_html(analysis, seen.name, view.layer, view.head),
    )


def photo_on_show(seen: Look | None) -> str | None:
    """The path of the photo that the maps are of; None once it was deleted."""
    return seen.path if seen and Path(seen.path).is_file() else None


def download(
    seen: Look | None, layer: float | None, head: float, colormap: str, opacity: float | None
) -> str:
    """A zip of the maps as shown (PNG), their values (NPZ) and their description (JSON)."""
    seen = require_look(seen)
    analysis = seen.with_photo()
    view = View.of(analysis, layer, head, colormap)
    stem = f"{Path(seen.name).stem}_layer{view.layer}"
    # In Gradio's cache, so that it is deleted with everything else of this visit.
    with new_folder("the archive") as folder:
        written = write(
            *(analysis, folder, stem, seen.name, view.layer, view.head, colormap),
            OPACITY if opacity is None else opacity,
        )
        archive = folder / f"{stem}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
            for file in written:
                bundle.write(file, file.name)
                file.unlink()
    return str(archive)


@dataclass(frozen=True)
class Explore:
    """The tab's components, and what happens between them."""

    visit: Visit
    photo: RawImage
    samples: gr.Gallery
    summary: gr.HTML
    maps: gr.HTML
    predictions: gr.HTML
    head: gr.Dropdown
    resolution: gr.Dropdown
    colormap: gr.Dropdown
    opacity: gr.Slider
    save: gr.Button
    ready: gr.DownloadButton
    own: OwnCheckpoint

    @classmethod
    def lay_out(cls, visit: Visit, first: Look) -> "Explore":
        """The tab inside the current Blocks, showing the first look."""
        pictures, facts = draw(first, LAYER, 0, COLORMAPS[0])
        with gr.Column(elem_id="explore"):
            with gr.Column(elem_id="explore-photo"):
                photo = _photo()
                samples = _gallery()
            with gr.Column(elem_id="explore-result"):
                summary = gr.HTML(facts)
                maps = viewer(pictures, elem_id="maps")
            with gr.Column(elem_id="explore-below"):
                predictions = gr.HTML(predictions_html(first.analysis))
                gr.Markdown(GUIDE, elem_id="guide")
            with gr.Column(elem_id="explore-settings"):
                visit.layer.render()
                heads = head_choices(bundled().layers[0].num_heads)
                return cls(
                    visit,
                    photo,
                    samples,
                    summary,
                    maps,
                    predictions,
                    head=gr.Dropdown(heads, value=0, label="Head", filterable=False),
                    resolution=resolution_choice("Resolution (shorter side)"),
                    colormap=colormap_choice(),
                    opacity=opacity_slider(),
                    save=gr.Button("Download maps (PNG, NPZ)", variant="primary"),
                    ready=gr.DownloadButton(visible="hidden", elem_id="download-ready"),
                    own=OwnCheckpoint.lay_out(),
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
        return looked

    def _draw_after(self, event: Dependency) -> Dependency:
        drawn: Dependency = event.success(
            plainly(draw), self._view, [self.maps, self.summary], **DRAW
        )
        return drawn

    @property
    def _view(self) -> list[Component]:
        """What `draw` takes."""
        return [self.visit.look, self.visit.layer, self.head, self.colormap]

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
            [self.visit.layer.change, self.head.input, self.colormap.input],
            plainly(draw),
            self._view,
            [self.maps, self.summary],
            trigger_mode="always_last",
            **DRAW,
        )

    def wire_download(self) -> None:
        """Pack the maps, then press the hidden button that holds the archive."""
        self.save.click(
            plainly(download),
            [*self._view, self.opacity],
            self.ready,
            api_visibility="private",
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
    tab.wire_download()
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
