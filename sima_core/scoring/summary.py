"""A split's results in figures: means over pictures, tables, JSON, a plot."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sima_core.lens.layers import SIDES
from sima_core.scoring.metrics import (
    METRICS,
    Estimate,
    Scores,
)

#: What a picture can be left out for.
SKIPPED = ("small", "large", "unannotated", "unreadable")


#: Metric names as people write them.
METRIC_NAMES = {
    "pointing_game": "pointing game",
    "energy": "energy",
    "energy_lift": "energy lift",
    "rank_accuracy": "rank accuracy",
    "auc": "AUC",
}


BASELINES = ("centre", "random", "uniform")


_MODEL_MAPS = ("query", "key", "untrained_query", "untrained_key")


@dataclass(frozen=True)
class PictureResult:
    """What was found on one picture: why it was skipped, or its scores."""

    id: int
    skipped: str | None = None
    #: Scores by map: ``query/12``, ``untrained_key/3``, ``centre``.
    scores: Mapping[str, Scores] = field(default_factory=dict)
    #: Insertion and deletion AUC by map, where asked for.
    faithfulness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    #: Seconds of both models' forward passes, and of everything that scoring adds to them.
    forward_seconds: float = 0.0
    scoring_seconds: float = 0.0
    #: A sentence on what was wrong with an unreadable picture.
    problem: str = ""


def main_layer(layers: Sequence[int]) -> int:
    """The layer that the summary is about: the paper's 12 if it is among them, else the last."""
    return 12 if 12 in layers else layers[-1]


@dataclass(frozen=True)
class Summary:
    """A split's results in figures: means over the pictures that were scored."""

    layer: int
    layers: tuple[int, ...]
    images: int
    skipped: Mapping[str, int]
    #: Map name as in `PictureResult.scores` to metric to mean.
    estimates: Mapping[str, Mapping[str, Estimate]]
    #: Mean of query − centre and key − centre over the same pictures, by metric.
    against_centre: Mapping[str, Mapping[str, Estimate]]
    faithfulness: Mapping[str, Mapping[str, Estimate]]
    #: Time that scoring adds to both forward passes, as a share of theirs.
    scoring_ratio: float

    @classmethod
    def of(cls, results: Iterable[PictureResult], layers: Sequence[int]) -> "Summary":
        """Summarise results; of each only its figures are kept, so that memory stays bounded.

        Raises:
            ValueError: no picture was scored.
        """
        layer = main_layer(layers)
        counted: Counter[str | None] = Counter()
        forward = scoring = 0.0
        maps: list[str] = []
        followed: list[tuple[str, str]] = []
        rows: list[NDArray[np.float64]] = []
        for result in results:
            counted[result.skipped] += 1
            if result.skipped is not None:
                continue
            if not rows:
                maps = list(result.scores)
                followed = [(n, curve) for n, of in result.faithfulness.items() for curve in of]
            scores = [getattr(result.scores[name], m) for name in maps for m in METRICS]
            areas = [result.faithfulness[name][curve] for name, curve in followed]
            rows.append(np.array([*scores, *areas]))
            forward += result.forward_seconds
            scoring += result.scoring_seconds
        if not rows:
            raise ValueError("no picture could be scored: " + skipped_in_words(counted))
        values = np.stack(rows)
        width = len(METRICS)

        def columns(name: str) -> NDArray[np.float64]:
            start = width * maps.index(name)
            return values[:, start : start + width]

        differences = [columns(f"{side}/{layer}") - columns("centre") for side in SIDES]
        found = iter(Estimate.of_columns(np.hstack([values, *differences])))
        estimates = {name: {m: next(found) for m in METRICS} for name in maps}
        faithfulness: dict[str, dict[str, Estimate]] = {}
        for name, curve in followed:
            faithfulness.setdefault(name, {})[curve] = next(found)
        return cls(
            layer,
            tuple(layers),
            len(rows),
            {reason: counted[reason] for reason in SKIPPED},
            estimates,
            {side: {m: next(found) for m in METRICS} for side in SIDES},
            faithfulness,
            scoring / forward,
        )

    def main_maps(self) -> dict[str, Mapping[str, Estimate]]:
        """The maps of the main layer and the baselines, by plain name."""
        ours = {name: f"{name}/{self.layer}" for name in ("query", "key")}
        twins = {name: f"{name}/{self.layer}" for name in ("untrained_query", "untrained_key")}
        names = {**ours, **{b: b for b in BASELINES}, **twins}
        return {name: self.estimates[full] for name, full in names.items()}

    def as_dict(self) -> dict[str, Any]:
        """For JSON; see `evaluate` in the README."""
        found = {
            "layer": self.layer,
            "images": self.images,
            "skipped": dict(self.skipped),
            "maps": {name: _plain(estimates) for name, estimates in self.main_maps().items()},
            "layers": {
                str(layer): {
                    side: _plain(self.estimates[f"{side}/{layer}"]) for side in _MODEL_MAPS
                }
                for layer in self.layers
            },
            "against_centre": {n: _plain(e) for n, e in self.against_centre.items()},
        }
        if self.faithfulness:
            found["faithfulness"] = {n: _plain(e) for n, e in self.faithfulness.items()}
        return found

    def table(self) -> str:
        """For people: a row a map, a column a metric, means with 95 % intervals."""
        return _table(self.main_maps(), METRIC_NAMES)

    def layers_table(self) -> str:
        """The same for every layer, where there are several."""
        names = {f"{s}/{n}" for n in self.layers for s in _MODEL_MAPS}
        rows = {n.replace("/", ", "): e for n, e in self.estimates.items() if n in names}
        return _table(rows, METRIC_NAMES)

    def faithfulness_table(self) -> str:
        """The same for insertion (higher is better) and deletion (lower is better)."""
        names = {n: n.replace("_", ", ") for n in next(iter(self.faithfulness.values()))}
        return _table(self.faithfulness, names)


def skipped_in_words(skipped: Mapping[str | None, int] | Mapping[str, int]) -> str:
    """Such as ``2 with objects under 1 % of the picture, 1 unannotated``, or ``none``."""
    words = {
        "small": "with objects under 1 % of the picture",
        "large": "with objects over 80 % of it",
        "unannotated": "unannotated",
        "unreadable": "unreadable",
    }
    parts = [f"{n} {word}" for k, word in words.items() if (n := dict(skipped).get(k, 0))]
    return ", ".join(parts) or "none"


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, estimate in estimates.items():
        found[name] = round(estimate.mean, 6)
        found[f"{name}_ci"] = [round(estimate.low, 6), round(estimate.high, 6)]
    return found


def _table(rows: Mapping[str, Mapping[str, Estimate]], columns: Mapping[str, str]) -> str:
    width = max(16, *(len(name) + 1 for name in rows))
    lines = [f"{'map':<{width}}" + "".join(f"{name:>25}" for name in columns.values())]
    for name, estimates in rows.items():
        lines.append(f"{name:<{width}}" + "".join(f"{estimates[c]!s:>25}" for c in columns))
    return "\n".join(lines)


def plot(summary: Summary, title: str, file: Path) -> None:
    """Draw every metric by layer, or as bars where there is one layer, with intervals, as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(15, 3.6), layout="constrained")
        all_axes = figure.subplots(1, len(METRICS))
        for axes, (metric, name) in zip(all_axes, METRIC_NAMES.items(), strict=True):
            centre = summary.estimates["centre"][metric].mean
            axes.axhline(centre, color="0.4", linestyle="--", label="centre")
            for color, side in zip(("tab:purple", "tab:orange"), SIDES, strict=True):
                for prefix, style in (("", "o-"), ("untrained_", "x:")):
                    of_layer = (summary.estimates[f"{prefix}{side}/{n}"] for n in summary.layers)
                    found = [estimates[metric] for estimates in of_layer]
                    means = [e.mean for e in found]
                    errors = [[e.mean - e.low for e in found], [e.high - e.mean for e in found]]
                    label = f"{prefix.replace('_', ' ')}{side}"
                    look = {"fmt": style, "color": color, "label": label, "capsize": 2}
                    axes.errorbar(summary.layers, means, errors, **look)
            axes.set(title=name, xlabel="layer", xticks=summary.layers)
        all_axes[-1].legend(fontsize=7)
        figure.suptitle(title)
        figure.savefig(file, dpi=120)
