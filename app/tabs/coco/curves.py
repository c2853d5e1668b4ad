"""Whether the model relies on the tokens that the maps rank highest: insertion and deletion."""

from collections.abc import Mapping

from markupsafe import Markup
from numpy.typing import ArrayLike

from app.charts import Series, linear_chart
from app.tabs.coco.picture import map_names, nearest_layer, require_shown
from app.templating import render
from app.turns import TURNS
from app.visit import CocoLook
from app.visitors import MAX_COST, lens_for, require_affordable
from sima_core.defaults import RESOLUTION
from sima_core.lens.layers import SIDES
from sima_core.scoring.evaluation import faithfulness
from sima_core.scoring.faithfulness import Curve

#: What one forward pass may cost here, where some 250 of them follow, in batches.
MAX_PASS_COST = MAX_COST / 60

_TITLES = {
    "insertion_blurred": "Insertion into a blurred picture",
    "deletion_zero": "Deletion to mean colour",
    "insertion_zero": "Insertion into mean colour",
    "deletion_blurred": "Deletion to blur",
}
_COLORS = {"query": 0, "key": 1, "centre": 2, "random": 4}


def rely_on(shown: CocoLook | None, layer: float | None) -> Markup:
    """Insertion and deletion curves of both maps, with tokens in random order beside them."""
    shown = require_shown(shown)
    number = nearest_layer(shown, layer)
    lens, seen = lens_for(shown.model_key), shown.analysis
    require_affordable(lens, seen.image, RESOLUTION, MAX_PASS_COST)
    rankings: dict[str, ArrayLike] = {s: seen.token_norms(s, number) for s in SIDES}
    with TURNS.turn():
        pixels = lens.preprocess(seen.image, seen.resolution)
        found = faithfulness(lens, pixels, rankings, seen.grid, shown.picture.id)
    names = map_names(shown.analysis)
    return render(
        "coco/curves",
        layer=number,
        answer=shown.analysis.predictions[0].label,
        charts={title: _chart(curve, title, found, names) for curve, title in _TITLES.items()},
    )


def _chart(
    curve: str, title: str, found: Mapping[str, Mapping[str, Curve]], names: Mapping[str, str]
) -> Markup:
    """One kind of curve for every ranking of the tokens."""
    series = [
        Series(
            f"{names[ranking]} ({of[curve].auc:.2f})",
            list(zip(of[curve].shares, of[curve].probabilities, strict=True)),
            dashed=ranking in ("random", "centre"),
            marks=False,
            color=_COLORS[ranking],
        )
        for ranking, of in found.items()
    ]
    areas = ", ".join(s.name for s in series)
    return linear_chart(series, "share of tokens", "probability", f"{title}: {areas}")
