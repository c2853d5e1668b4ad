"""Write an analysis as files: unscaled maps (NPZ), overlays (PNG) and a description (JSON)."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sima_core.defaults import LAYER, OPACITY
from sima_core.files import replacing, write_text
from sima_core.lens.analysis import Analysis
from sima_core.lens.heatmaps import COLORMAPS, Heatmap, overlay
from sima_core.lens.layers import SIDES
from sima_core.machine import versions


def describe(
    analysis: Analysis, image_name: str, layer: int = LAYER, head: int | None = None
) -> dict[str, Any]:
    """What the JSON file says: names, sizes, hashes, ranges and predictions; no path.

    Raises:
        InputError: a map that is not finite, or a layer or head that does not exist.
    """
    maps = {side: analysis.heatmap(side, layer, head) for side in SIDES}
    return {
        "image": image_name,
        "architecture": analysis.name,
        "trained": analysis.trained,
        "checkpoint_sha256": analysis.provenance.sha256 if analysis.provenance else None,
        "layer": layer,
        "head": "all" if head is None else head,
        "resolution": analysis.resolution,
        "grid": list(analysis.grid_of("query", layer)),
        "key_grid": list(analysis.grid_of("key", layer)),
        **{f"{side}_range": [h.minimum, h.maximum] for side, h in maps.items()},
        **{f"{side}_flat": h.flat for side, h in maps.items()},
        "label_set": analysis.label_set,
        "unsure": analysis.unsure,
        "predictions": [dataclasses.asdict(p) for p in analysis.predictions],
        "versions": versions(),
    }


def output_names(stem: str) -> list[str]:
    """The names of the files that `write` makes for `stem`."""
    return [f"{stem}{end}" for end in (".npz", "_query.png", "_key.png", ".json")]


def write(
    analysis: Analysis,
    folder: Path,
    stem: str,
    image_name: str,
    layer: int = LAYER,
    head: int | None = None,
    colormap: str = COLORMAPS[0],
    opacity: float = OPACITY,
) -> list[Path]:
    """Write the four files of `output_names`; the overlays have the picture's own size.

    Raises:
        OSError: the files cannot be written.
        InputError: a map that is not finite, or a layer, head, colour map or opacity that is not.
    """
    description = describe(analysis, image_name, layer, head)  # before writing: it may raise
    paths = [folder / name for name in output_names(stem)]
    query, key = (analysis.token_norms(side, layer, head) for side in SIDES)
    with replacing(paths[0]) as file:
        np.savez(file, query_norm=query, key_norm=key)
    for path, side in zip(paths[1:3], SIDES, strict=True):
        _write_overlay(path, analysis.image, analysis.heatmap(side, layer, head), colormap, opacity)
    write_text(paths[3], json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    return paths


def _write_overlay(
    path: Path, image: Image.Image, heatmap: Heatmap, colormap: str, opacity: float
) -> None:
    """Alone in a function, so that a large overlay is gone before the next one is drawn."""
    picture = overlay(image, heatmap, colormap, opacity)
    with replacing(path) as file:
        picture.save(file, "PNG")
