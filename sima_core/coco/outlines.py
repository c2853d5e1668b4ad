"""Where an object is: its mask and its outline, from COCO's polygons or run lengths.

pycocotools is written in C and trusts its numbers: a coordinate of 1e8 costs it gigabytes, one of
1e9 the process. So all is checked against the picture before it sees any.
"""

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

#: The most polygons of one object, points in them, and runs in run lengths; an object of COCO's has
#: at most some hundred polygons and some thousand points and runs.
MAX_POLYGONS, MAX_POINTS, MAX_RUNS = 1000, 20_000, 100_000
#: Pixels along all polygons of an object, by which pycocotools' memory grows: 150 bytes each.
MAX_PERIMETER = 500_000
#: How far outside a point may lie, as a share of the picture's longer side.
OVERSHOOT = 0.1

#: Characters of the longest number in compressed run lengths, each of five bits.
_MAX_DIGITS = 6


class OutlineError(Exception):
    """An object's outline is broken."""


def object_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Where the object is, (height, width).

    Args:
        segmentation: as an annotation has it: polygons ``[[x, y, …], …]`` in pixels, or run lengths
            ``{"size": [height, width], "counts": …}``, compressed or not.

    Raises:
        OutlineError: it is none of these, of another size, or lies far outside of the picture.
    """
    if isinstance(segmentation, list):  # all polygons of an object in one pass
        polygons = [p.ravel().tolist() for p in _polygons(segmentation, height, width)]
        runs = rle.merge(rle.frPyObjects(polygons, height, width))
    else:
        runs = _run_lengths(segmentation, height, width)
    return np.asarray(rle.decode(runs)).view(bool)


def object_outline(segmentation: Any, height: int, width: int) -> tuple[NDArray[np.float64], ...]:
    """The object's polygons, each (points, 2) of x and y in pixels; traced, from run lengths.

    Raises:
        OutlineError: as `object_mask`.
    """
    if isinstance(segmentation, list):
        return _polygons(segmentation, height, width)
    mask = object_mask(segmentation, height, width)
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_TC89_L1)
    return tuple(contour[:, 0].astype(np.float64) + 0.5 for contour in contours)


def _polygons(segmentation: list[Any], height: int, width: int) -> tuple[NDArray[np.float64], ...]:
    """The polygons, each (points, 2), of three points at least, in or near the picture."""
    _require_size(height, width)
    if not 0 < len(segmentation) <= MAX_POLYGONS:
        raise OutlineError
    polygons = []
    for polygon in segmentation:
        if (
            not isinstance(polygon, list)
            or len(polygon) % 2
            or not 6 <= len(polygon) <= 2 * MAX_POINTS  # four would be a box to pycocotools
            or not set(map(type, polygon)) <= {int, float}
        ):
            raise OutlineError
        try:
            polygons.append(np.array(polygon, dtype=np.float64).reshape(-1, 2))
        except OverflowError:  # a whole number beyond all floats
            raise OutlineError from None
    points = np.concatenate(polygons)
    near = OVERSHOOT * max(height, width)
    if (
        len(points) > MAX_POINTS
        or not (
            (points >= -near) & (points <= np.add((width, height), near))  # NaN is neither
        ).all()
    ):
        raise OutlineError
    if sum(_perimeter(polygon) for polygon in polygons) > MAX_PERIMETER:
        raise OutlineError
    return tuple(polygons)


def _perimeter(polygon: NDArray[np.float64]) -> float:
    """Its length as pycocotools walks it, which is along the longer of both directions."""
    return float(np.abs(polygon - np.roll(polygon, 1, axis=0)).max(axis=1).sum())


def _run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths that fill the picture exactly."""
    _require_size(height, width)
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        raise OutlineError
    counts, size = segmentation.get("counts"), [height, width]
    if isinstance(counts, list):
        if not set(map(type, counts)) <= {int}:
            raise OutlineError
        _require_filled(counts, height * width)
        runs: dict[str, Any] = rle.frPyObjects({"size": size, "counts": counts}, height, width)
        return runs
    try:
        packed = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        raise OutlineError from None
    if not isinstance(packed, bytes) or len(packed) > _MAX_DIGITS * MAX_RUNS:
        raise OutlineError
    _require_filled(_unpacked(packed), height * width)
    return {"size": size, "counts": packed}


def _require_size(height: int, width: int) -> None:
    if not (height > 0 and width > 0 and height * width <= MAX_IMAGE_PIXELS):
        raise OutlineError


def _require_filled(runs: list[int], pixels: int) -> None:
    """What would crash pycocotools, or leave memory unset, is refused."""
    if len(runs) > MAX_RUNS or min(runs, default=-1) < 0 or sum(runs) != pixels:
        raise OutlineError


def _unpacked(counts: bytes) -> list[int]:
    """The runs in COCO's compressed form (rleFrString in its maskApi.c)."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        code = byte - 48
        if not 0 <= code < 64 or shift >= 5 * _MAX_DIGITS:
            raise OutlineError
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the last byte of a number, and its sign
            value -= (code & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:  # ends within a number
        raise OutlineError
    return runs
