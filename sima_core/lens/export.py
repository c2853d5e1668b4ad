"""Write an analysis as files: unscaled maps (NPZ), overlays (PNG) and a description (JSON)."""

import dataclasses
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sima_core.defaults import LAYER, OPACITY
from sima_core.files import replacing
from sima_core.lens.analysis import Analysis
from sima_core.lens.heatmaps import COLORMAPS, Heatmap, heatmap, overlay
from sima_core.lens.layers import SIDES
from sima_core.lens.lens import Lens
from sima_core.machine import versions
from sima_core.words import printable

#: Bytes of the longest name that a disk takes.
MAX_NAME_BYTES = 255
#: How the names of the files end that the paper's two maps are written to.
ENDS = (".npz", *(f"_{side}.png" for side in SIDES), ".json")

#: The name of one map of `maps.MAPS` and its values, unscaled: (rows, cols).
NamedValues = tuple[str, NDArray[np.float32]]


def describe(
    analysis: Analysis,
    image_name: str,
    layer: int = LAYER,
    head: int | None = None,
    named: NamedValues | None = None,
) -> dict[str, Any]:
    """What the JSON file says: names, sizes, hashes, ranges and predictions; no path.

    Args:
        named: another map in place of the paper's two.

    Raises:
        InputError: a map that is not finite, or a layer or head that does not exist.
    """
    shown = {name: heatmap(of) for name, of in _shown(analysis, layer, head, named).items()}
    return {
        **about(image_name, analysis),
        "layer": layer,
        "head": "all" if head is None else head,
        "resolution": analysis.resolution,
        "grid": list(analysis.grid_of("query", layer)),
        "key_grid": list(analysis.grid_of("key", layer)),
        **{f"{name}_range": [h.minimum, h.maximum] for name, h in shown.items()},
        **{f"{name}_flat": h.flat for name, h in shown.items()},
        "label_set": analysis.label_set,
        "unsure": analysis.unsure,
        "predictions": [dataclasses.asdict(p) for p in analysis.predictions],
        "versions": versions(),
    }


def about(image_name: str, of: Analysis | Lens) -> dict[str, Any]:
    """What every description begins with: the picture's name, the model and its weights."""
    return {
        "image": printable(image_name),
        "architecture": of.name,
        "trained": of.provenance.trained if of.provenance else None,
        "checkpoint_sha256": of.provenance.sha256 if of.provenance else None,
    }


def _shown(
    analysis: Analysis, layer: int, head: int | None, named: NamedValues | None
) -> dict[str, NDArray[np.float32]]:
    """The values of each map that is written."""
    if named is not None:
        return dict([named])
    return {side: analysis.token_norms(side, layer, head) for side in SIDES}


def ends_of(name: str | None) -> tuple[str, ...]:
    """How the names of the files of a map end; for None, those of the paper's two."""
    return ENDS if name is None else (f"_{name}.npz", f"_{name}.png", f"_{name}.json")


def output_names(stem: str, ends: Sequence[str] = ENDS) -> list[str]:
    """The names of the files that are written for `stem`."""
    return [f"{stem}{end}" for end in ends]


def fitting(stem: str, tail: str = "", ends: Sequence[str] = ENDS) -> str:
    """The stem with `tail` behind it, its end cut off so far that a disk takes `output_names`."""
    most = MAX_NAME_BYTES - max(map(len, ends)) - len(tail)
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
    named: NamedValues | None = None,
) -> list[Path]:
    """Write maps, overlays of the picture's size, and a description: all files or none.

    Args:
        named: another map in place of the paper's two.

    Raises:
        OSError: the files cannot be written.
        InputError: a map that is not finite, or a layer, head, colour map or opacity that is not.
    """
    description = describe(analysis, image_name, layer, head, named)  # before writing: it may raise
    shown = _shown(analysis, layer, head, named)
    paths = [folder / name for name in output_names(stem, ends_of(named and named[0]))]
    arrays: dict[str, Any] = {f"{n}_norm" if named is None else n: of for n, of in shown.items()}
    with together(paths) as (values, *overlays, text):
        np.savez(values, **arrays)
        for file, of in zip(overlays, shown.values(), strict=True):
            write_overlay(file, analysis.image, heatmap(of), colormap, opacity)
        write_description(text, description)
    return paths


def write_overlay(
    file: BinaryIO, image: Image.Image, shown: Heatmap, colormap: str, opacity: float
) -> None:
    """Alone in a function, so that a large overlay is gone before the next one is drawn."""
    overlay(image, shown, colormap, opacity).save(file, "PNG")


def write_description(file: BinaryIO, description: Mapping[str, Any]) -> None:
    """As JSON, in UTF-8; half a character of a file's name becomes a question mark."""
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    file.write(text.encode("utf-8", "replace"))


@contextmanager
def together(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
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
