"""Where one picture stands among those of a split: how the checks' figures are distributed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sima_core.errors import InputError
from sima_core.scoring.results import PictureResult

_SHARES = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Distribution:
    """A figure over the pictures: its least value, every tenth of the way, and its largest."""

    deciles: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.deciles) != len(_SHARES) or list(self.deciles) != sorted(self.deciles):
            raise InputError(f"a distribution is {len(_SHARES)} rising numbers")

    @classmethod
    def of(cls, values: Sequence[float]) -> "Distribution":
        """That of some pictures' values, rounded to four places."""
        found = np.quantile(np.asarray(values, dtype=np.float64), _SHARES)
        return cls(tuple(round(float(value), 4) for value in found))

    @property
    def median(self) -> float:
        """As many pictures lie below as above."""
        return self.deciles[len(self.deciles) // 2]

    def share_below(self, value: float) -> float:
        """The share of pictures whose value is smaller, from 0 to 1; between tenths in proportion.

        In the middle of those that tie.
        """
        places = [np.searchsorted(self.deciles, value, side) for side in ("left", "right")]
        if places[0] != places[1]:
            return float(_SHARES[places[0]] + _SHARES[places[1] - 1]) / 2
        return float(np.interp(value, self.deciles, _SHARES))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.deciles[1]:.2f} to {self.deciles[-2]:.2f})"


#: By map and figure; see `Sanity.figures`.
Distributions = Mapping[str, Mapping[str, Distribution]]


class Checked:
    """Gathers the checks' figures of pictures; of each only its figures are kept."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = {}

    def add(self, result: PictureResult) -> None:
        """Take one picture's figures, if it was checked."""
        for name, figures in result.sanity.items():
            for figure, value in figures.items():
                self._values.setdefault((name, figure), []).append(value)

    def distributions(self) -> dict[str, dict[str, Distribution]]:
        """Those of each map and figure; empty where nothing was checked."""
        found: dict[str, dict[str, Distribution]] = {}
        for (name, figure), values in self._values.items():
            found.setdefault(name, {})[figure] = Distribution.of(values)
        return found


def as_plain(found: Distributions) -> dict[str, dict[str, list[float]]]:
    """For JSON: eleven numbers a figure."""
    return {
        name: {figure: list(one.deciles) for figure, one in figures.items()}
        for name, figures in found.items()
    }


def from_plain(plain: Mapping[str, Mapping[str, Iterable[float]]]) -> Distributions:
    """What `as_plain` made this of.

    Raises:
        InputError: it is of something else.
    """
    return {
        name: {figure: Distribution(tuple(of)) for figure, of in figures.items()}
        for name, figures in plain.items()
    }
