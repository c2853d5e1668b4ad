"""Where a number stands among the evidence pictures: in words, and as a small strip."""

import functools
import json
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
    span = (high - low) or 1.0

    def place(of: float) -> float:
        return 100 * (of - low) / span

    start, end = place(distribution.deciles[1]), place(distribution.deciles[-2])
    return render(
        "strip",
        distribution=distribution,
        value=value,
        level=level,
        start=start,
        width=end - start,
        median=place(distribution.median),
        at=place(value),
    )


def distributions_html() -> Markup:
    """The checks over the evidence pictures: the bundled model's maps, and the softmax twin's."""
    bundled, twin = yardstick(), yardstick("twins")
    compared = [(MAPS[name].title, bundled, name) for name in bundled.maps]
    compared += [(f"{MAPS[name].title}, softmax twin", twin, name) for name in SIDES]
    rows = [
        {"title": title, "of": [of.of(name, figure) for figure in _FIGURES]}
        for title, of, name in compared
    ]
    return render("evidence/sanity", yardstick=bundled, figures=_FIGURES, rows=rows)
