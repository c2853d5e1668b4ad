"""Where an object is: its mask and its outline, from COCO's polygons or run lengths."""

from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sima_core.errors import MissingExtraError
from sima_core.lens.pictures import MAX_IMAGE_PIXELS

try:
    from pycocotools import mask as rle
except ModuleNotFoundError:
    raise MissingExtraError("coco") from None


class OutlineError(Exception):
    """An object's outline is broken."""


def object_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Where the object is, (height, width).

    Args:
        segmentation: as an annotation has it: polygons ``[[x, y, …], …]`` in pixels, or run lengths
            ``{"size": [height, width], "counts": …}``, compressed or not.

    Raises:
        OutlineError: it is none of these, or of another size.
    """
    try:
        mask = np.asarray(rle.decode(_run_lengths(segmentation, height, width)))
        if mask.shape != (height, width):
            raise OutlineError
    except Exception:  # pycocotools raises whatever its parser meets
        raise OutlineError from None
    return mask.view(bool)


def object_outline(segmentation: Any, height: int, width: int) -> tuple[NDArray[np.float64], ...]:
    """The object's polygons, each (points, 2) of x and y in pixels; traced, from run lengths.

    Raises:
        OutlineError: as `object_mask`.
    """
    if isinstance(segmentation, list):
        with suppress(ValueError, TypeError):
            return tuple(np.array(p, dtype=np.float64).reshape(-1, 2) for p in segmentation)
    mask = object_mask(segmentation, height, width)  # run lengths, or broken
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_TC89_L1)
    return tuple(contour[:, 0].astype(np.float64) + 0.5 for contour in contours)


def _run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths that pycocotools can decode.

    It trusts its numbers: wrong ones would crash the process, or leave memory unset.
    """
    if height * width > MAX_IMAGE_PIXELS:
        raise OutlineError
    if isinstance(segmentation, list):  # all polygons of an object in one pass
        polygons: dict[str, Any] = rle.merge(rle.frPyObjects(segmentation, height, width))
        return polygons
    if list(segmentation["size"]) != [height, width]:
        raise OutlineError
    runs: dict[str, Any] = segmentation
    if isinstance(runs["counts"], list):
        runs = rle.frPyObjects(runs, height, width)
    if _length(runs["counts"]) != height * width:
        raise OutlineError
    return runs


def _length(counts: str | bytes) -> int:
    """Pixels that run lengths cover, in COCO's compressed form (rleFrString in its maskApi.c)."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode() if isinstance(counts, str) else counts:
        code = byte - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the last byte of a number, and its sign
            value -= (code & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if min(runs, default=0) < 0:
        raise OutlineError
    return sum(runs)
