"""The Explore tab: a photo in, the token importance of Q̂ and K̂ over it."""

import dataclasses
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio.events import Dependency

from sima_core import Analysis, load_model, overlay, provenance
from sima_core.lens.export import describe, write
from sima_core.lens.heatmaps import COLORMAPS
from sima_core.lens.layers import SIDES, attention_layers, layer_numbers

from .viewer import predictions_html, summary_html, viewer, viewer_html
from .visitors import (
    BUNDLED,
    COMPUTE,
    LOAD,
    MODELS,
    analyze_within_limits,
    cache_folder,
    kept,
    model_for,
    plainly,
    require_photo,
    whole,
)

DEFAULT_LAYER = 12
DEFAULT_OPACITY = 0.6
DEFAULT_RESOLUTION = 224
RESOLUTIONS = (112, 160, 224, 320, 448, 640)
_FORGOTTEN = "this visit was forgotten after a long pause: choose the photo again."

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


def pick_sample(choice: gr.SelectData) -> str:
    """The path of the sample that was clicked."""
    return sample_photos()[choice.index][0]


class RawImage(gr.Image):
    """An image input that hands over the uploaded file as it is.

    Gradio's own decoding would clip 16-bit pictures and hide why a file cannot be read.
    """

    is_template = True  # the page draws it as a gr.Image

    def preprocess(self, payload: ImageData | None) -> Any:
        if payload is None or payload.path is None:
            return super().preprocess(payload)
        return payload.path


@dataclass(frozen=True)
class Look:
    """A photo and what the model made of it, kept for a visit."""

    path: str
    analysis: Analysis

    @property
    def name(self) -> str:
        """The photo's file name."""
        return Path(self.path).name


@dataclass(frozen=True)
class View:
    """What to show of an analysis."""

    layer: int
    head: int | None
    colormap: str

    @classmethod
    def of(cls, analysis: Analysis, layer: float | None, head: float, colormap: str) -> "View":
        """The view nearest to what was asked for that the model has."""
        depth = max(analysis.norms)
        number = min(whole(layer, DEFAULT_LAYER), depth)
        heads = analysis.norms[number].query.shape[1]
        return cls(number, int(head) if 1 <= head <= heads else None, colormap)


def look(path: str | None, model_key: str | None, resolution: float) -> Look:
    """Analyse the photo at `path`, keeping only a copy small enough to hold for a whole visit."""
    path = require_photo(path)
    analysis = analyze_within_limits(path, model_key, int(resolution))
    return Look(path, dataclasses.replace(analysis, image=kept(analysis.image)))


def draw(seen: Look | None, layer: float | None, head: float, colormap: str) -> tuple[str, str]:
    """The pictures and the line of facts; runs no model."""
    if seen is None:
        raise ValueError(_FORGOTTEN)
    view = View.of(seen.analysis, layer, head, colormap)
    return (
        viewer_html(seen.analysis, view.layer, view.head, view.colormap),
        summary_html(seen.analysis, seen.name, view.layer, view.head),
    )


def explore(
    path: str | None, seen: Look | None, model_key: str | None, resolution: float
) -> tuple[Look, str]:
    """A new photo, resolution or model: run it once; `draw` follows.

    Where the photo was cleared, the one that is still shown is meant.
    """
    now = look(path or (seen and seen.path), model_key, resolution)
    return now, predictions_html(now.analysis)


def photo_on_show(seen: Look | None) -> str | None:
    """The path of the photo that the maps are of; None once it was deleted."""
    return seen.path if seen and Path(seen.path).is_file() else None


def model_note(model_key: str | None) -> str:
    """A sentence on the model in use."""
    origin = provenance(model_for(model_key))
    weights = f"weights from `{origin.source}`" if origin.trained else "**untrained weights**"
    return f"In use: **{origin.architecture}**, {weights}, {origin.num_classes} classes."


def layer_and_head(model_key: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Updates of the layer and head controls for another model."""
    layers = attention_layers(model_for(model_key))
    return (
        gr.update(maximum=len(layers), value=min(DEFAULT_LAYER, len(layers))),
        gr.update(choices=head_choices(max(layer.num_heads for layer in layers)), value=0),
    )


def head_choices(num_heads: int) -> list[tuple[str, int]]:
    return [("All heads", 0), *((f"Head {h}", h) for h in range(1, num_heads + 1))]


def use_model(source: str | None, model_key: str | None) -> tuple[Any, ...]:
    """Load a visitor's checkpoint in place of the one they had."""
    if not source or not source.strip():
        raise ValueError("choose a checkpoint file, or type a Hub id such as owner/name.")
    new_key = MODELS.add(load_model(source.strip()))
    MODELS.drop(model_key)
    return new_key, model_note(new_key), *layer_and_head(new_key)


def use_hub(repo_id: str, model_key: str | None) -> tuple[Any, ...]:
    """Load a Hub repository's checkpoint; the prefix may be left out, a file never meant."""
    repo_id = repo_id.strip().removeprefix("hf-hub:").removeprefix("https://huggingface.co/")
    return use_model(repo_id and f"hf-hub:{repo_id}", model_key)


def use_bundled(model_key: str | None) -> tuple[Any, ...]:
    """Go back to the bundled weights."""
    MODELS.drop(model_key)
    return None, model_note(None), *layer_and_head(None)


def download(
    seen: Look | None,
    layer: float | None,
    head: float,
    colormap: str,
    opacity: float,
) -> str:
    """A zip of the maps as shown (PNG), their values (NPZ) and their description (JSON)."""
    if seen is None:
        raise ValueError(_FORGOTTEN)
    view = View.of(seen.analysis, layer, head, colormap)
    stem = f"{Path(seen.name).stem}_layer{view.layer}"
    # In Gradio's cache, so that it is deleted with everything else of this visit.
    folder = Path(tempfile.mkdtemp(dir=cache_folder()))
    written = write(
        seen.analysis, folder, stem, seen.name, view.layer, view.head, colormap, opacity
    )
    archive = folder / f"{stem}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        for file in written:
            bundle.write(file, file.name)
            file.unlink()
    return str(archive)


def heatmap_api(
    image: str | None,
    model_key: str | None,
    layer: int | None = DEFAULT_LAYER,
    head: int | None = 0,
    resolution: int | None = DEFAULT_RESOLUTION,
    colormap: str = COLORMAPS[0],
    opacity: float | None = DEFAULT_OPACITY,
) -> tuple[Any, Any, dict[str, Any]]:
    """Overlays of Q̂ and K̂ over a picture, and what the command line writes as JSON.

    Layers and heads count from 1; head 0 means all heads.
    """
    if image is None:
        raise ValueError("give a picture.")
    analysis = analyze_within_limits(image, model_key, whole(resolution, DEFAULT_RESOLUTION))
    [layer] = layer_numbers(whole(layer, DEFAULT_LAYER), len(analysis.norms))
    opacity = DEFAULT_OPACITY if opacity is None else opacity
    query, key = (
        overlay(analysis.image, analysis.heatmap(side, layer, head or None), colormap, opacity)
        for side in SIDES
    )
    return query, key, describe(analysis, Path(image).name, layer, head or None)


@dataclass(frozen=True)
class Explore:
    """The parts of the tab that others build on: what the visitor is looking at."""

    seen: gr.State
    model_key: gr.State
    layer: gr.Slider
    photo: RawImage
    #: Analyse and draw what `photo` holds, once the given event has succeeded.
    look_after: Callable[[Dependency], Dependency]


def build(demo: gr.Blocks) -> Explore:
    """Lay the tab out inside the current Blocks, its first sample already analysed."""
    samples = sample_photos()
    first = samples[0][0]
    shown = look(first, None, DEFAULT_RESOLUTION)
    pictures, facts = draw(shown, DEFAULT_LAYER, 0, COLORMAPS[0])
    depth, num_heads = len(shown.analysis.norms), attention_layers(BUNDLED)[0].num_heads

    seen = gr.State()  # a Look; None once Gradio has forgotten the visit
    model_key = gr.State(delete_callback=MODELS.drop)

    with gr.Column(elem_id="explore"):
        with gr.Column(elem_id="explore-photo"):
            photo = RawImage(
                first,
                label="Photo",
                show_label=False,
                sources=["upload", "clipboard", "webcam"],
                type="filepath",
                image_mode=None,
                height=230,
                buttons=[],
                elem_id="photo",
            )
            gallery = gr.Gallery(
                samples,
                label="Sample photos",
                show_label=False,
                columns=len(samples),
                height="auto",
                object_fit="cover",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="samples",
            )
        with gr.Column(elem_id="explore-result"):
            summary = gr.HTML(facts)
            maps = viewer(pictures, elem_id="maps")
        with gr.Column(elem_id="explore-below"):
            predictions = gr.HTML(predictions_html(shown.analysis))
            gr.Markdown(GUIDE, elem_id="guide")
        with gr.Column(elem_id="explore-settings"):
            layer = gr.Slider(1, depth, DEFAULT_LAYER, step=1, precision=0, label="Layer")
            head = gr.Dropdown(head_choices(num_heads), value=0, label="Head", filterable=False)
            resolution = gr.Dropdown(
                [(f"{r} px", r) for r in RESOLUTIONS],
                value=DEFAULT_RESOLUTION,
                label="Resolution (shorter side)",
                filterable=False,
            )
            colormap = gr.Dropdown(
                [(c.capitalize(), c) for c in COLORMAPS],
                value=COLORMAPS[0],
                label="Colour map",
                filterable=False,
            )
            opacity = gr.Slider(0, 1, DEFAULT_OPACITY, step=0.01, label="Heatmap opacity")
            save = gr.Button("Download maps (PNG, NPZ)", variant="primary")
            ready = gr.DownloadButton(visible="hidden", elem_id="download-ready")
            with gr.Accordion("Use your own checkpoint", open=False):
                note = gr.Markdown(model_note(None))
                upload = gr.File(
                    label="SimA checkpoint (.safetensors, .pth)", type="filepath", height=110
                )
                hub_id = gr.Textbox(
                    label="or a Hugging Face Hub id", placeholder="owner/name", max_lines=1
                )
                with gr.Row():
                    from_hub = gr.Button("Load from Hub", size="sm", min_width=120)
                    back = gr.Button("Bundled weights", size="sm", min_width=120)
                gr.Markdown("Only for your visit. Code in a file is never run.")

    # Each visit begins with the sample that was analysed when the app started.
    demo.load(lambda: shown, None, seen, api_visibility="private", show_progress="hidden")

    inputs, outputs = [photo, seen, model_key, resolution], [seen, predictions]
    view, drawn = [seen, layer, head, colormap], [maps, summary]
    run: dict[str, Any] = {
        **COMPUTE,
        "api_visibility": "private",
        "show_progress_on": maps,
        "trigger_mode": "always_last",
    }
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    draws: dict[str, Any] = {"concurrency_limit": 4, **quiet}

    def look_after(event: Dependency) -> Dependency:
        looking = event.success(plainly(explore), inputs, outputs, **run)
        return looking.success(plainly(draw), view, drawn, **draws)

    look_after(gallery.select(pick_sample, None, photo, trigger_mode="always_last", **quiet))
    again = gr.on([photo.input, resolution.input], plainly(explore), inputs, outputs, **run)
    again.success(plainly(draw), view, drawn, **draws)
    # What cannot be shown leaves the box to the photo that still is.
    again.failure(photo_on_show, seen, photo, **quiet)
    gr.on(
        [layer.change, head.input, colormap.input],
        plainly(draw),
        view,
        drawn,
        trigger_mode="always_last",
        **draws,
    )
    opacity.input(
        None, opacity, js="o => {document.documentElement.style.setProperty('--sl-opacity', o)}"
    )

    chosen = [model_key, note, layer, head]
    for trigger, handler, given in (
        (upload.upload, use_model, [upload, model_key]),
        (from_hub.click, use_hub, [hub_id, model_key]),
        (hub_id.submit, use_hub, [hub_id, model_key]),
        (back.click, use_bundled, [model_key]),
    ):
        loading = trigger(
            plainly(handler), given, chosen, **LOAD, api_visibility="private", show_progress_on=note
        )
        look_after(loading).then(lambda: None, None, upload, **quiet)  # the note says what is used
        loading.failure(lambda: None, None, upload, **quiet)  # another may be chosen

    save.click(
        plainly(download),
        [seen, layer, head, colormap, opacity],
        ready,
        api_visibility="private",
        show_progress="minimal",
    ).success(None, js=_CLICK_DOWNLOAD)

    _build_api(model_key)
    return Explore(seen, model_key, layer, photo, look_after)


def _build_api(model_key: gr.State) -> None:
    """The named endpoint `/heatmap`, on components that the page does not show."""
    inputs = [
        RawImage(visible=False, type="filepath", image_mode=None, label="picture"),
        model_key,
        gr.Number(DEFAULT_LAYER, precision=0, visible=False, label="layer, from 1"),
        gr.Number(0, precision=0, visible=False, label="head, from 1; 0 is all"),
        gr.Number(DEFAULT_RESOLUTION, precision=0, visible=False, label="resolution, pixels"),
        gr.Textbox(COLORMAPS[0], visible=False, label="colour map"),
        gr.Number(DEFAULT_OPACITY, visible=False, label="opacity, 0 to 1"),
    ]
    pictures = [gr.Image(visible=False, format="png", label=f"{side} overlay") for side in SIDES]
    description = gr.JSON(visible=False, label="description")
    trigger = gr.Button(visible=False)
    trigger.click(
        plainly(heatmap_api), inputs, [*pictures, description], api_name="heatmap", **COMPUTE
    )
