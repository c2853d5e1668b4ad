"""How well a heatmap finds the objects of a picture, and how much the model relies on it.

In everything here a map *a* is a min-max scaled heatmap resized bilinearly to the picture's own
size (`Heatmap.resize`), float32 (height, width) in [0, 1], and *M* is a boolean mask of the same
shape that is true on objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sima_core.errors import InputError
from sima_core.lens.heatmaps import FLAT_RANGE, Heatmap, heatmap
from sima_core.scoring.ranks import mean_ranks

#: Pixels by which the pointing game may miss (Zhang et al. 2018, section 5.1).
TOLERANCE = 15
#: Pictures whose objects cover a smaller or larger share say little about a map.
SMALLEST, LARGEST = 0.01, 0.8
#: The largest error of `Target.auc`; see there.
AUC_ERROR = 1e-4

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]
Outcome = Literal["hit", "miss", "skipped"]
SkipReason = Literal["small", "large"]

#: Steps of the histogram; many more cost time, and far fewer would often not do for `AUC_ERROR`.
_LEVELS = 2**15


@dataclass(frozen=True)
class Scores:
    """What one map scores on one picture; each lies in [0, 1] but `energy_lift`, whose chance is 1.

    `pointing_game` is 1 for a hit and 0 for a miss, so that means over pictures are hit rates.
    """

    pointing_game: float
    energy: float
    energy_lift: float
    rank_accuracy: float
    auc: float


#: The names of the metrics, in the order of `Scores`.
METRICS = tuple(field.name for field in fields(Scores))


def skip_reason(mask: Mask) -> SkipReason | None:
    """Why a picture is left out of averages: M covers under 1 % or over 80 % of it."""
    coverage = float(mask.mean())
    return "small" if coverage < SMALLEST else "large" if coverage > LARGEST else None


def peak(a: Map) -> tuple[int, int] | None:
    """(row, column) of the maximum, the first in row order; None for a flat map."""
    low, high = float(a.min()), float(a.max())
    if high - low <= FLAT_RANGE * abs(high):
        return None
    row, column = divmod(int(a.argmax()), a.shape[1])
    return row, column


class Target:
    """M of one picture, prepared so that scoring one more map against it takes about a millisecond.

    Raises:
        InputError: M is empty, or everything.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = np.ascontiguousarray(mask)
        self.size = int(mask.sum())
        self._skip = skip_reason(mask)
        # Counting is by the smaller side: on the objects, or beside them.
        self._mostly_on = 2 * self.size > mask.size
        self._few = np.flatnonzero(~self.mask if self._mostly_on else self.mask)
        if not 0 < self.size < mask.size:
            raise InputError("the objects' mask must cover some of the picture, and not all of it")

    def score(self, a: Map) -> Scores:
        """All metrics of one map.

        Raises:
            InputError: the map has another shape than M.
        """
        if a.shape != self.mask.shape:
            raise InputError(
                f"the map is {a.shape} and the mask {self.mask.shape}: (height, width)"
            )
        ranks = self._ranks(a)
        energy = self.energy(a)
        return Scores(
            float(self.pointing_game(a) == "hit"),
            energy,
            energy * self.mask.size / self.size,
            ranks.rank_accuracy,
            ranks.auc,
        )

    def pointing_game(self, a: Map) -> Outcome:
        """Whether M meets the disc of 15 px around the map's maximum.

        A flat map has no maximum and misses; where several pixels tie, the first in row order
        counts. Skipped where `skip_reason` says so.

        Source: Zhang et al. 2018, "Top-down neural attention by excitation backprop", section 5.1.
        """
        if self._skip:
            return "skipped"
        at = peak(a)
        if at is None:
            return "miss"
        row, column = at
        top, left = max(row - TOLERANCE, 0), max(column - TOLERANCE, 0)
        near = self.mask[top : row + TOLERANCE + 1, left : column + TOLERANCE + 1]
        y, x = np.ogrid[top : top + near.shape[0], left : left + near.shape[1]]
        return "hit" if near[(y - row) ** 2 + (x - column) ** 2 <= TOLERANCE**2].any() else "miss"

    def energy(self, a: Map) -> float:
        """Σ of the map over M, divided by Σ over the picture.

        Source: the energy-based pointing game (Wang et al. 2020, "Score-CAM", section 4.4) with
        masks in place of boxes; relevance mass accuracy (Arras et al. 2022, "CLEVR-XAI").
        """
        whole = float(a.sum(dtype=np.float64))
        few = float(a.take(self._few).sum(dtype=np.float64))
        return 1 - few / whole if self._mostly_on else few / whole

    def energy_lift(self, a: Map) -> float:
        """`energy` over what an even map would have, |M| / (height · width)."""
        return self.energy(a) * self.mask.size / self.size

    def _ranks(self, a: Map) -> "_Ranks":
        return _Ranks(np.ascontiguousarray(a), self.mask, self._few, self._mostly_on)

    def rank_accuracy(self, a: Map) -> float:
        """The share of the |M| highest pixels that lie on M; pixels that tie share places evenly.

        Source: relevance rank accuracy (Arras et al. 2022, "CLEVR-XAI", section 3.3).
        """
        return self._ranks(a).rank_accuracy

    def auc(self, a: Map) -> float:
        """Area under the ROC curve of the map's pixels as a detector of M, ties averaged.

        Values are binned where that errs by at most `AUC_ERROR`, and sorted otherwise.
        """
        return self._ranks(a).auc


class _Ranks:
    """The order of a map's pixels, from a histogram: a fraction of a sort's time."""

    def __init__(self, a: Map, mask: Mask, few: NDArray[np.intp], mostly_on: bool) -> None:
        self._values, self._mask = a.ravel(), mask.ravel()
        low, high = float(a.min()), float(a.max())
        self._all_tie = low == high
        # Rounding down keeps the order: a higher level means a larger value.
        scale = np.float32((_LEVELS - 1) / (high - low) if high > low else 0)
        shifted = self._values - np.float32(low) if low else self._values
        self._levels = (shifted * scale).astype(np.uint16)
        self._all = np.bincount(self._levels, minlength=_LEVELS)
        counted = np.bincount(self._levels.take(few), minlength=_LEVELS)
        self._on = self._all - counted if mostly_on else counted

    @cached_property
    def rank_accuracy(self) -> float:
        places = size = int(self._on.sum())
        # Levels from the top down to the one in which the places run out; order counts only there.
        from_top = self._all[::-1].cumsum()
        last = int(np.searchsorted(from_top, places))
        level = _LEVELS - 1 - last
        hits = float(self._on[level + 1 :].sum())
        places -= int(from_top[last] - self._all[level])
        inside = self._levels == level
        values, on = self._values[inside], self._mask[inside]
        threshold = np.partition(values, -places)[-places]
        above, tied = values > threshold, values == threshold
        hits += float(on[above].sum()) + float(on[tied].mean()) * (places - int(above.sum()))
        return hits / size

    @cached_property
    def auc(self) -> float:
        if self._all_tie:
            return 0.5
        on = self._on.astype(np.float64)
        off = self._all - on
        pairs = on.sum() * off.sum()
        unordered = float((on * off).sum())  # pairs within one level, taken as ties
        if unordered / 2 <= AUC_ERROR * pairs:
            below = off.cumsum() - off
            return float(((on * below).sum() + unordered / 2) / pairs)
        return exact_auc(self._values, self._mask)


def exact_auc(values: NDArray[np.floating], mask: Mask) -> float:
    """Area under the ROC curve by the rank sum (Mann and Whitney 1947), ties averaged."""
    on = int(mask.sum())
    rank_sum = float(mean_ranks(values)[mask.ravel()].sum())
    return (rank_sum - on * (on + 1) / 2) / (on * (mask.size - on))


def centre_map(width: int, height: int) -> Map:
    """The baseline that only knows how people take photos: a Gaussian in the middle.

    Its standard deviation is a quarter of each side; scaled to [0, 1] as every map is.
    """
    # Written so that rounding treats both sides of the middle alike: the peak is where ties go.
    rows, columns = (
        np.exp(-(((np.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) / 2) for n in (height, width)
    )
    return heatmap(np.outer(rows, columns)).values


def random_heatmap(grid: tuple[int, int], image_id: int) -> Heatmap:
    """The baseline that knows nothing: uniform noise on the token grid, the same for one image."""
    return heatmap(np.random.default_rng(image_id).random(grid, dtype=np.float32))


def uniform_map(width: int, height: int) -> Map:
    """All ones: a map without an opinion, as a flat heatmap is."""
    return np.ones((height, width), dtype=np.float32)


@dataclass(frozen=True)
class Estimate:
    """A mean over pictures with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], resamples: int = 2000) -> "Estimate":
        """The percentile interval (Efron and Tibshirani 1993, chapter 13); seeded."""
        return cls.of_columns(np.asarray(values, dtype=np.float64)[:, None], resamples)[0]

    @classmethod
    def of_columns(
        cls, values: NDArray[np.float64], resamples: int = 2000
    ) -> "tuple[Estimate, ...]":
        """The same for each column of (pictures, figures), all from the same resamples."""
        pictures = len(values)
        rng = np.random.default_rng(0)
        block = max(1, 2**22 // pictures)  # bounds memory for splits of any size
        blocks = []
        for start in range(0, resamples, block):
            drawn = rng.integers(pictures, size=(min(block, resamples - start), pictures))
            times = np.stack([np.bincount(row, minlength=pictures) for row in drawn])
            blocks.append(times.astype(np.float64) @ values / pictures)
        low, high = np.percentile(np.concatenate(blocks), (2.5, 97.5), axis=0)
        ends = zip(values.mean(axis=0), low, high, strict=True)
        return tuple(cls(float(m), float(a), float(b)) for m, a, b in ends)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"
