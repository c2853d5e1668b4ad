"""A look at a photo: run once, drawn as often as the view changes, and taken home."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from app.controls import whole
from app.viewer import Photo, predictions_html, summary_html, viewer_html
from app.visit import Look, require_look
from app.visitors import analyze_within_limits, new_folder, require_photo, require_visit
from sima_core import Analysis
from sima_core.defaults import LAYER, OPACITY
from sima_core.lens.export import NamedValues, write


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

    @property
    def heads(self) -> str:
        """The heads in words."""
        return "all heads" if self.head is None else f"head {self.head}"


def explore(
    path: str | None, seen: Look | None, model_key: str | None, resolution: float
) -> tuple[Look, Markup]:
    """A new photo, resolution or model: run it once; `draw` follows.

    Where the photo was cleared, the one that is still shown is meant.
    """
    require_visit(model_key)
    path = require_photo(path or (seen.path if seen else None))
    analysis, photo = analyze_within_limits(path, model_key, int(resolution), Photo.of)
    return Look.of(path, photo, analysis, model_key), predictions_html(analysis)


def draw(
    seen: Look | None, layer: float | None, head: float, colormap: str
) -> tuple[Markup, Markup]:
    """The pictures and the line of facts; runs no model."""
    seen = require_look(seen)
    analysis = seen.analysis
    view = View.of(analysis, layer, head, colormap)
    return (
        viewer_html(
            *(analysis, view.layer, view.head, view.colormap), photo=seen.photo, key=seen.key
        ),
        summary_html(analysis, seen.name, view.layer, view.head),
    )


def photo_on_show(seen: Look | None) -> str | None:
    """The path of the photo that the maps are of; None once it was deleted."""
    return seen.path if seen and Path(seen.path).is_file() else None


def download(
    seen: Look | None,
    layer: float | None,
    head: float,
    colormap: str,
    opacity: float | None,
    named: NamedValues | None = None,
) -> str:
    """A zip of the maps as shown (PNG), their values (NPZ) and their description (JSON).

    Args:
        named: what is shown in place of the paper's two maps.
    """
    seen = require_look(seen)
    analysis = seen.with_photo()
    view = View.of(analysis, layer, head, colormap)
    stem = f"{Path(seen.name).stem}_layer{view.layer}"
    # In Gradio's cache, so that it is deleted with everything else of this visit.
    with new_folder("the archive") as folder:
        written = write(
            *(analysis, folder, stem, seen.name, view.layer, view.head, colormap),
            OPACITY if opacity is None else opacity,
            named,
        )
        archive = folder / f"{stem}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
            for file in written:
                bundle.write(file, file.name)
                file.unlink()
    return str(archive)
