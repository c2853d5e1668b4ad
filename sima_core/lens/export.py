"""Write an analysis as files: unscaled maps (NPZ), overlays (PNG) and a description (JSON)."""

import dataclasses
import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sima_core.defaults import LAYER, OPACITY
from sima_core.files import replacing
from sima_core.lens.analysis import Analysis
from sima_core.lens.heatmaps import COLORMAPS, Heatmap, overlay
from sima_core.lens.layers import SIDES
from sima_core.machine import versions
from sima_core.words import printable

#: Bytes of the longest name that a disk takes, and how the names of results end.
MAX_NAME_BYTES = 255
_ENDS = (".npz", "_query.png", "_key.png", ".json")


def describe(
    analysis: Analysis, image_name: str, layer: int = LAYER, head: int | None = None
) -> dict[str, Any]:
    """What the JSON file says: names, sizes, hashes, ranges and predictions; no path.

    Raises:
        InputError: a map that is not finite, or a layer or head that does not exist.
    """
    maps = {side: analysis.heatmap(side, layer, head) for side in SIDES}
    return {
        "image": printable(image_name),
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
    return [f"{stem}{end}" for end in _ENDS]


def fitting(stem: str, tail: str = "") -> str:
    """The stem with `tail` behind it, its end cut off so far that a disk takes `output_names`."""
    most = MAX_NAME_BYTES - max(map(len, _ENDS)) - len(tail)
    stem = stem[:most]
    while len(stem.encode("utf-8", "surrogatepass")) > most:
        stem = stem[:-1]
    return stem + tail


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
    """Write the four files of `output_names`, all or none; the overlays have the picture's size.

    Raises:
        OSError: the files cannot be written.
        InputError: a map that is not finite, or a layer, head, colour map or opacity that is not.
    """
    description = describe(analysis, image_name, layer, head)  # before writing: it may raise
    paths = [folder / name for name in output_names(stem)]
    query, key = (analysis.token_norms(side, layer, head) for side in SIDES)
    with _together(paths) as (maps, *overlays, about):
        np.savez(maps, query_norm=query, key_norm=key)
        for file, side in zip(overlays, SIDES, strict=True):
            shown = analysis.heatmap(side, layer, head)
            _write_overlay(file, analysis.image, shown, colormap, opacity)
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        about.write(text.encode("utf-8", "replace"))
    return paths


def _write_overlay(
    file: BinaryIO, image: Image.Image, heatmap: Heatmap, colormap: str, opacity: float
) -> None:
    """Alone in a function, so that a large overlay is gone before the next one is drawn."""
    overlay(image, heatmap, colormap, opacity).save(file, "PNG")


@contextmanager
def _together(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """New files that get their names when all of them are written: all are there, or none."""
    naming = False
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(replacing(path)) for path in paths]
            yield files
            for file in files:
                file.flush()
            if any(map(os.path.isdir, paths)):  # which naming would find when others are replaced
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            naming = True
    except BaseException:  # interrupted, say, when the first had its name
        for path in paths if naming else ():
            with suppress(OSError):
                path.unlink()
        raise
