"""A split's results in figures: means over pictures, tables, JSON, a plot."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sima_core.errors import InputError
from sima_core.figures import new_figure, save_png
from sima_core.lens.maps import MAPS
from sima_core.scoring.metrics import METRICS, Estimate
from sima_core.scoring.results import (
    BASELINES,
    SKIPPED,
    MapKey,
    ModelMap,
    PictureResult,
    main_layer,
)
from sima_core.scoring.standing import Checked, Distributions, as_plain

#: Metric names as people write them.
METRIC_NAMES = {
    "pointing_game": "pointing game",
    "energy": "energy",
    "energy_lift": "energy lift",
    "rank_accuracy": "rank accuracy",
    "auc": "AUC",
}

#: The checks' figures as people write them; all but one are rank correlations.
CHECK_NAMES = {
    "random": "layers random",
    "mirror": "mirrored",
    "centre": "centre",
    "largest": "largest / median",
    "sent": "sent",
    "received": "received",
}

#: Estimates by metric, or by curve.
Estimates = Mapping[str, Estimate]

_IN_WORDS = {
    "small": "with objects under 1 % of the picture",
    "large": "with objects over 80 % of it",
    "unannotated": "unannotated",
    "unreadable": "unreadable",
}
_Row = TypeVar("_Row")
# Columns of figures, (pictures,) each, by row and column of the table that they will be in.
_Columns = dict[tuple[_Row, str], NDArray[np.float64]]


@dataclass(frozen=True)
class Summary:
    """A split's results in figures: means over the pictures that were scored."""

    layer: int
    layers: tuple[int, ...]
    images: int
    skipped: Mapping[str, int]
    #: By map and metric.
    estimates: Mapping[MapKey, Estimates]
    #: Mean of map − centre over the same pictures, by map of the main layer and metric.
    against_centre: Mapping[str, Estimates]
    #: Mean of map − query, of all maps but that one, as before.
    against_query: Mapping[str, Estimates]
    #: By order and curve; see `PictureResult.faithfulness`.
    faithfulness: Mapping[str, Estimates]
    #: Time that scoring adds to both forward passes, as a share of theirs.
    scoring_ratio: float
    #: The checks' figures in the main layer, by map; empty where none was asked for.
    sanity: Distributions = field(default_factory=dict)

    @classmethod
    def of(cls, results: Iterable[PictureResult], layers: Sequence[int]) -> "Summary":
        """Summarise results; of each only its figures are kept, so that memory stays bounded.

        Raises:
            InputError: no picture was scored.
        """
        figures, checked = _Figures(), Checked()
        for result in results:
            figures.add(result)
            checked.add(result)
        if not figures.rows:
            words = skipped_in_words(figures.counted)
            raise InputError(f"no picture could be scored: {words}")
        layer = main_layer(layers)
        scores, areas = figures.columns()
        from_centre = _differences(scores, layer, "centre")
        from_query = _differences(scores, layer, ModelMap("query", layer))
        # All at once: of the same resamples.
        columns = [
            column for part in (scores, from_centre, from_query, areas) for column in part.values()
        ]
        found = iter(Estimate.of_columns(np.column_stack(columns)))
        return cls(
            layer,
            tuple(layers),
            len(figures.rows),
            {reason: figures.counted[reason] for reason in SKIPPED},
            _rows(scores, found),
            _rows(from_centre, found),
            _rows(from_query, found),
            _rows(areas, found),
            figures.scoring_seconds / figures.forward_seconds,
            checked.distributions(),
        )

    def main_maps(self) -> dict[str, Estimates]:
        """The maps of the main layer and the baselines, by plain name."""
        ours, random_weights = self._of_layer(self.layer, True), self._of_layer(self.layer, False)
        return {**ours, **{name: self.estimates[name] for name in BASELINES}, **random_weights}

    def _of_layer(self, layer: int, trained: bool) -> dict[str, Estimates]:
        return {
            of.kind: estimates
            for of, estimates in self.estimates.items()
            if isinstance(of, ModelMap) and (of.layer, of.trained) == (layer, trained)
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON; see docs/evidence.md."""
        layers = {n: self._of_layer(n, True) | self._of_layer(n, False) for n in self.layers}
        found = {
            "layer": self.layer,
            "images": self.images,
            "skipped": dict(self.skipped),
            "maps": _plain_rows(self.main_maps()),
            "layers": {str(layer): _plain_rows(maps) for layer, maps in layers.items()},
            "against_centre": _plain_rows(self.against_centre),
            "against_query": _plain_rows(self.against_query),
        }
        if self.faithfulness:
            found["faithfulness"] = _plain_rows(self.faithfulness)
        if self.sanity:
            found["sanity"] = as_plain(self.sanity)
        return found

    def table(self) -> str:
        """For people: a row a map, a column a metric, means with 95 % intervals."""
        return _table(self.main_maps(), METRIC_NAMES)

    def layers_table(self) -> str:
        """The same for every layer, where there are several."""
        rows = {
            f"{of.kind}, {of.layer}": estimates
            for of, estimates in self.estimates.items()
            if isinstance(of, ModelMap)
        }
        return _table(rows, METRIC_NAMES)

    def faithfulness_table(self) -> str:
        """The same for insertion (higher is better) and deletion (lower is better)."""
        names = {n: n.replace("_", ", ") for n in next(iter(self.faithfulness.values()))}
        return _table(self.faithfulness, names)

    def sanity_table(self) -> str:
        """For people: a row a map, a column a check, medians with the 10th and 90th percentile."""
        return _table(self.sanity, CHECK_NAMES)


class _Figures:
    """What a summary takes from results: a row of figures for each picture that was scored."""

    def __init__(self) -> None:
        self.counted: Counter[str | None] = Counter()
        self.forward_seconds = self.scoring_seconds = 0.0
        self.rows: list[NDArray[np.float64]] = []
        self._maps: tuple[MapKey, ...] = ()
        self._curves: tuple[tuple[str, str], ...] = ()

    def add(self, result: PictureResult) -> None:
        self.counted[result.skipped] += 1
        if result.skipped is not None:
            return
        if not self.rows:
            self._maps = tuple(result.scores)
            self._curves = tuple(
                (n, curve) for n, of in result.faithfulness.items() for curve in of
            )
        scores = [getattr(result.scores[name], m) for name in self._maps for m in METRICS]
        areas = [result.faithfulness[order][curve] for order, curve in self._curves]
        self.rows.append(np.array([*scores, *areas]))
        self.forward_seconds += result.forward_seconds
        self.scoring_seconds += result.scoring_seconds

    def columns(self) -> tuple[_Columns[MapKey], _Columns[str]]:
        """Scores by map and metric, and areas under curves by order and curve."""
        columns = iter(np.stack(self.rows, axis=1))
        scores = {(name, m): next(columns) for name in self._maps for m in METRICS}
        return scores, {name: next(columns) for name in self._curves}


def _differences(scores: _Columns[MapKey], layer: int, other: MapKey) -> _Columns[str]:
    """What each of the layer's maps scores more than another map, picture by picture."""
    return {
        (of.kind, metric): column - scores[other, metric]
        for (of, metric), column in scores.items()
        if isinstance(of, ModelMap) and of.trained and of.layer == layer and of != other
        if (other, metric) in scores
    }


def skipped_in_words(skipped: Mapping[str | None, int] | Mapping[str, int]) -> str:
    """Such as ``2 with objects under 1 % of the picture, 1 unannotated``, or ``none``."""
    parts = [f"{n} {word}" for k, word in _IN_WORDS.items() if (n := dict(skipped).get(k, 0))]
    return ", ".join(parts) or "none"


def _rows(columns: _Columns[_Row], found: Iterator[Estimate]) -> dict[_Row, Estimates]:
    """The next estimates, one for each of the columns, row by row."""
    rows: dict[_Row, dict[str, Estimate]] = {}
    for row, column in columns:
        rows.setdefault(row, {})[column] = next(found)
    return dict(rows)


def _plain_rows(rows: Mapping[str, Estimates]) -> dict[str, dict[str, Any]]:
    return {name: _plain(estimates) for name, estimates in rows.items()}


def _plain(estimates: Estimates) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, estimate in estimates.items():
        found[name] = round(estimate.mean, 6)
        found[f"{name}_ci"] = [round(estimate.low, 6), round(estimate.high, 6)]
    return found


def _table(rows: Mapping[str, Mapping[str, object]], columns: Mapping[str, str]) -> str:
    """Rows of figures under the columns' names, by the figures' keys; a dash where one is not."""
    width = max(16, *(len(name) + 1 for name in rows))
    lines = [f"{'map':<{width}}" + "".join(f"{name:>25}" for name in columns.values())]
    for name, estimates in rows.items():
        cells = (f"{estimates.get(c, '–')!s:>25}" for c in columns)
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


def plot(summary: Summary, title: str, file: Path) -> None:
    """Draw every metric by layer, or as bars where there is one layer, with intervals, as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib  # as late as `new_figure`

    with matplotlib.rc_context({"font.size": 9}):
        figure = new_figure(15, 3.6)
        all_axes = figure.subplots(1, len(METRICS))
        for axes, (metric, name) in zip(all_axes, METRIC_NAMES.items(), strict=True):
            _plot_metric(axes, summary, metric)
            axes.set(title=name, xlabel="layer", xticks=summary.layers)
        all_axes[-1].legend(fontsize=7)
        figure.suptitle(title)
        save_png(figure, file, dpi=120)


def _plot_metric(axes: Any, summary: Summary, metric: str) -> None:
    """One metric by layer: all maps, trained and not, and the centre as a level."""
    centre = summary.estimates["centre"][metric].mean
    axes.axhline(centre, color="0.4", linestyle="--", label="centre")
    for number, name in enumerate(MAPS):
        for trained, style in ((True, "o-"), (False, "x:")):
            scored = {
                layer: summary.estimates[of][metric]
                for layer in summary.layers
                if (of := ModelMap(name, layer, trained)) in summary.estimates
            }
            if not scored:
                continue
            means = [e.mean for e in scored.values()]
            errors = [
                [e.mean - e.low for e in scored.values()],
                [e.high - e.mean for e in scored.values()],
            ]
            label = name if trained else f"untrained {name}"
            look = {"fmt": style, "color": f"C{number}", "label": label, "capsize": 2}
            axes.errorbar(list(scored), means, errors, **look)
