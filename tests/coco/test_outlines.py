"""Outlines that strangers wrote: a mask as pycocotools makes it, or a refusal; never a crash."""

import math
import random
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from sima_core.coco import outlines
from sima_core.coco.outlines import OutlineError, object_mask, object_outline

HEIGHT, WIDTH = 90, 120
SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]


def runs(counts: Any, size: Any = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return {"size": list(size) if isinstance(size, tuple) else size, "counts": counts}


@pytest.mark.parametrize(
    "segmentation",
    [
        # Coordinates of 1e8 and infinity took 10 GiB; those of 1e9 and more ended the process.
        *([[*SQUARE[:-1], far]] for far in (
            1e8, 1e9, 1e18, 1e308, -1e9, math.inf, -math.inf, math.nan, 10**12, 10**400, 1e4, -500,
        )),
        *([[*SQUARE[:-1], odd]] for odd in (None, True, "50", [50], {}, b"5")),
        [SQUARE[:-1]],
        [SQUARE[:4]],  # a box, to pycocotools
        [SQUARE, SQUARE[:4]],
        [[]],
        [],
        [SQUARE, None],
        [{"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}],
        SQUARE,
        None,
        "x",
        5,
        {},
        [SQUARE] * (outlines.MAX_POLYGONS + 1),
        [[5, 5] * (outlines.MAX_POINTS + 1)],
        [[5, 5] * (outlines.MAX_POINTS // 2)] * 3,
        [[0, 0, 0, 90] * 9_000],  # a zigzag that costs pycocotools much
        runs([-1, HEIGHT * WIDTH + 1]),
        runs([2**32, HEIGHT * WIDTH - 2**32]),
        runs([10**400]),
        runs([float(HEIGHT * WIDTH)]),
        runs([True, HEIGHT * WIDTH - 1]),
        runs([None]),
        runs([1] * (HEIGHT * WIDTH + 1)),
        runs(None),
        runs(5),
        runs({}),
        runs("0" * 10_000_000),
        runs("o" * 10_000_000),  # one number without an end
        runs("é"),
        runs("\0"),
        runs("\ud800"),
        runs(" "),
        runs("o"),
        *(runs([HEIGHT * WIDTH], size) for size in (
            None, 5, "ab", [], [HEIGHT], [WIDTH, HEIGHT], [HEIGHT, WIDTH, 1], [2**40, 2**40], {},
        )),
    ],
)  # fmt: skip
def test_what_is_no_outline_is_refused(segmentation: Any) -> None:
    for read in (object_mask, object_outline):
        with pytest.raises(OutlineError):
            read(segmentation, HEIGHT, WIDTH)


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (-1, -5), (10**6, 10**6)])
def test_no_picture_has_such_a_size(height: int, width: int) -> None:
    for segmentation in ([SQUARE], runs([height * width], (height, width))):
        with pytest.raises(OutlineError):
            object_mask(segmentation, height, width)


def test_a_point_may_lie_a_little_outside() -> None:
    outside = [[-3.5, -2, WIDTH + 8.25, 10, 60, HEIGHT + 7]]
    found = object_mask(outside, HEIGHT, WIDTH)
    expected = rle.decode(rle.merge(rle.frPyObjects(outside, HEIGHT, WIDTH)))
    assert np.array_equal(found, expected.astype(bool))
    assert found.any()
    [outline] = object_outline(outside, HEIGHT, WIDTH)
    assert outline.tolist() == [[-3.5, -2], [WIDTH + 8.25, 10], [60, HEIGHT + 7]]


def test_masks_are_pycocotools_own() -> None:
    """Random polygons and run lengths, good and bad: the same mask, or a refusal."""
    chosen = random.Random(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(600):
        segmentation = chosen.choice((_polygons, _counts, _packed))(chosen)
        try:
            found = object_mask(segmentation, HEIGHT, WIDTH)
            object_outline(segmentation, HEIGHT, WIDTH)
        except OutlineError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        made = segmentation
        if isinstance(made, list):
            made = rle.merge(rle.frPyObjects(made, HEIGHT, WIDTH))
        elif isinstance(made["counts"], list):
            made = rle.frPyObjects(made, HEIGHT, WIDTH)
        assert np.array_equal(found, rle.decode(made).astype(bool))
    assert min(outcomes.values()) > 100


def _polygons(chosen: random.Random) -> list[list[float]]:
    def number() -> float:
        odd = chosen.random() < 0.01
        return chosen.choice((1e9, -1e3, math.nan)) if odd else chosen.uniform(-8, HEIGHT + 8)

    return [
        [number() for _ in range(chosen.choice((4, 6, 7, 8, 30)))]
        for _ in range(chosen.randint(1, 2))
    ]


def _counts(chosen: random.Random) -> dict[str, Any]:
    cuts = sorted(chosen.randint(0, HEIGHT * WIDTH) for _ in range(chosen.randint(0, 30)))
    counts = np.diff([0, *cuts, HEIGHT * WIDTH]).tolist()
    if chosen.random() < 0.4:
        counts[chosen.randrange(len(counts))] += chosen.choice((-1, 1, 2**31, 2**64, -(2**40)))
    return runs(counts)


def _packed(chosen: random.Random) -> dict[str, Any]:
    packed = bytearray(rle.frPyObjects(_good(chosen), HEIGHT, WIDTH)["counts"])
    if chosen.random() < 0.6:
        packed[chosen.randrange(len(packed))] = chosen.randint(40, 115)
    return runs(packed.decode("latin-1"))


def _good(chosen: random.Random) -> dict[str, Any]:
    cuts = sorted(chosen.randint(0, HEIGHT * WIDTH) for _ in range(chosen.randint(0, 30)))
    return runs(np.diff([0, *cuts, HEIGHT * WIDTH]).tolist())
