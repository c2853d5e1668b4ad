"""Where a number stands among the evidence pictures: in words, and as a small strip."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app.templating import render
from sima_core.files import ASSETS
from sima_core.lens.layers import SIDES
from sima_core.lens.maps import MAPS
from sima_core.scoring.sanity import Level
from sima_core.scoring.standing import Distribution, Distributions, from_plain

_FIGURES = {
    "random": "Layers random",
    "mirror": "Mirrored",
    "centre": "Centre",
    "sent": "What is sent",
    "received": "What is received",
    "largest": "Largest ÷ median",
}


@dataclass(frozen=True)
class Yardstick:
    """What `evaluate --sanity` found on a split; the command that made it stands in its file."""

    images: int
    split: str
    layer: int
    resolution: int
    sha256: str
    maps: Distributions

    def of(self, name: str, figure: str) -> Distribution | None:
        """The distribution of one map's figure; None where there is none."""
        return self.maps.get(name, {}).get(figure)


@functools.cache
def yardstick(folder: str = "") -> Yardstick:
    """That of the bundled weights, or of the softmax twin, whose assets lie in `folder`."""
    found = json.loads((ASSETS / folder / "sanity_val2017.json").read_text("utf-8"))
    return Yardstick(
        found["images"],
        found["split"],
        found["layer"],
        found["resolution"],
        found["checkpoint_sha256"],
        from_plain(found["sanity"]),
    )


def standing_in_words(distribution: Distribution, value: float, images: int) -> str:
    """Such as ``lower than 80 % of 94 COCO pictures``."""
    below = distribution.share_below(value)
    how, share = ("higher", below) if below >= 0.5 else ("lower", 1 - below)
    percent = "all" if share == 1 else f"{min(99, round(100 * share))}\N{NO-BREAK SPACE}% of"
    return f"{how} than {percent} {images} COCO pictures"


def strip_html(distribution: Distribution, value: float, level: Level) -> Markup:
    """A strip from the least to the largest of all, with the middle 80 % and the median marked."""
    low, *_, high = sorted((*distribution.deciles, value))
    return _strip(distribution, low, high, value, level)


def _strip(
    distribution: Distribution,
    low: float,
    high: float,
    value: float | None = None,
    level: Level = "fine",
) -> Markup:
    """A strip from `low` to `high`: all pictures, the middle 80 %, the median, and one value."""
    span = (high - low) or 1.0

    def place(of: float) -> float:
        return 100 * (of - low) / span

    first, start, *_, end, last = map(place, distribution.deciles)
    return render(
        "strip",
        distribution=distribution,
        value=value,
        level=level,
        first=first,
        reach=last - first,
        start=start,
        width=end - start,
        median=place(distribution.median),
        at=None if value is None else place(value),
    )


def distributions_html() -> Markup:
    """The checks over the evidence pictures: the bundled model's maps, and the softmax twin's."""
    bundled, twin = yardstick(), yardstick("twins")
    compared = [(MAPS[name].title, bundled, name) for name in bundled.maps]
    compared += [(f"{MAPS[name].title}, softmax twin", twin, name) for name in SIDES]
    found = {f: [of.of(name, f) for _, of, name in compared] for f in _FIGURES}
    strips = {figure: _on_one_scale(column, figure) for figure, column in found.items()}
    rows = [
        {"title": title, "of": [(found[f][at], strips[f][at]) for f in _FIGURES]}
        for at, (title, *_) in enumerate(compared)
    ]
    return render("evidence/sanity", yardstick=bundled, figures=_FIGURES, rows=rows)


def _on_one_scale(column: Sequence[Distribution | None], figure: str) -> list[Markup]:
    """The distributions of one figure, to be compared: correlations from −1 to 1, sizes from 1."""
    if figure == "largest":
        low, high = 1.0, max(of.deciles[-1] for of in column if of)
    else:
        low, high = -1.0, 1.0
    return [_strip(of, low, high) if of else Markup() for of in column]
