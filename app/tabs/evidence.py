"""The Evidence tab: how well the bundled weights' maps find objects, over a whole split of COCO."""

import functools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from app.charts import Series, linear_chart
from app.handlers import QUIET
from app.standing import distributions_html
from app.templating import render
from sima_core.files import ASSETS
from sima_core.lens.maps import MAPS
from sima_core.scoring.results import BASELINES
from sima_core.scoring.summary import METRIC_NAMES, skipped_in_words

#: The splits that were scored.
SPLITS = ("val2017", "train2017")
_NAMES = {
    **{name: of.title for name, of in MAPS.items()},
    "query": "Q̂ (query)",
    "key": "K̂ (key)",
    "centre": "Centre blob",
    "random": "Random map",
    "uniform": "Uniform map",
}
_UNTRAINED = "untrained_"
_MEANINGS = {
    "pointing_game": "share of pictures whose brightest spot (± 15 pixels) lies on an object",
    "energy": "share of the map’s total that lies on objects",
    "energy_lift": "energy over that of an even map; 1 is chance",
    "rank_accuracy": "of as many brightest pixels as objects have, the share on objects",
    "auc": "how often a pixel on an object outshines one beside it; 0.5 is chance",
}


@functools.cache
def evidence(split: str) -> dict[str, Any]:
    """What `evaluate` found; the command that made it stands in it."""
    found: dict[str, Any] = json.loads((ASSETS / f"evidence_{split}.json").read_text("utf-8"))
    return found


def evidence_html(split: str) -> Markup:
    """Sentences, a table, and charts of every metric by layer."""
    found = evidence(split)
    return render(
        "evidence/page",
        split=split,
        found=found,
        verdict=verdict(found),
        skipped=skipped_in_words(found["skipped"]),
        groups=groups(found),
        names=_NAMES,
        formulas={name: of.formula for name, of in MAPS.items()},
        metrics=METRIC_NAMES,
        meanings=_MEANINGS,
        charts={metric: metric_chart(found, metric) for metric in METRIC_NAMES},
    )


@dataclass(frozen=True)
class Cell:
    """What one map scores in one metric."""

    mean: float
    low: float
    high: float
    #: Whether no other map, of the model or of none, scores higher; random weights are left out.
    best: bool
    #: ``better`` or ``worse`` than Q̂ on the same pictures, where the interval tells.
    than_query: str


def groups(found: Mapping[str, Any]) -> dict[str, dict[str, list[Cell]]]:
    """A cell a metric for each map of the model, of no model, and of random weights, by name.

    Files that were written before there were more maps have the paper's two.
    """
    maps, best = found["maps"], leaders(found)
    differences = found.get("against_query", {})

    def cells(name: str) -> list[Cell]:
        found = []
        for metric in METRIC_NAMES:
            low, high = maps[name][f"{metric}_ci"]
            than_query = _sign(differences[name], metric) if name in differences else ""
            found.append(Cell(maps[name][metric], low, high, best[metric] == name, than_query))
        return found

    return {
        "Maps of the model": {name: cells(name) for name in maps if name in MAPS},
        "Maps of no model": {name: cells(name) for name in maps if name in BASELINES},
        "The same with random weights": {
            name.removeprefix(_UNTRAINED): cells(name)
            for name in maps
            if name.startswith(_UNTRAINED)
        },
    }


def leaders(found: Mapping[str, Any]) -> dict[str, str]:
    """The map that scores highest in each metric, random weights left out."""
    maps = {name: of for name, of in found["maps"].items() if not name.startswith(_UNTRAINED)}
    return {metric: max(maps, key=lambda name: maps[name][metric]) for metric in METRIC_NAMES}


def verdict(found: Mapping[str, Any]) -> Markup:
    """What the figures mean, good or bad, in plain words."""
    maps = found["maps"]
    side = "query" if maps["query"]["auc"] >= maps["key"]["auc"] else "key"
    trained, untrained = maps[side], maps[f"untrained_{side}"]
    [(leader, leads)] = Counter(leaders(found).values()).most_common(1)
    against_query = found.get("against_query", {})
    return render(
        "evidence/verdict",
        name=_NAMES[side],
        layer=found["layer"],
        auc=trained["auc"],
        untrained_auc=untrained["auc"],
        learnt=trained["auc_ci"][0] > untrained["auc_ci"][1],
        unlearnt=trained["auc_ci"][1] < untrained["auc_ci"][0],
        against_centre=_against(found["against_centre"][side], "it"),
        leader=_NAMES[leader],
        leads=f"{leads} of {len(METRIC_NAMES)}",
        against_query={_NAMES[n]: _against(of, "Q̂") for n, of in against_query.items()},
        arrives=_NAMES["received"],
    )


def _against(differences: Mapping[str, Any], other: str) -> str:
    """In which metrics a map beats another one, loses to it, and neither."""
    signs = {metric: _sign(differences, metric) for metric in METRIC_NAMES}
    better, worse, close = (
        [metric for metric, sign in signs.items() if sign == wanted]
        for wanted in ("better", "worse", "")
    )
    clauses = (
        (f"beats {other} in", better),
        (f"loses to {other} in", worse),
        (f"cannot be told from {other} in", close),
    )
    return "; it ".join(f"{says} {_listed(metrics)}" for says, metrics in clauses if metrics)


def _sign(differences: Mapping[str, Any], metric: str) -> str:
    """Whether a map is ``better`` or ``worse``; empty where the interval holds zero."""
    low, high = differences[f"{metric}_ci"]
    return "better" if low > 0 else "worse" if high < 0 else ""


def _listed(metrics: list[str]) -> str:
    names = [METRIC_NAMES[metric] for metric in metrics]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def metric_chart(found: Mapping[str, Any], metric: str) -> Markup:
    """One metric over the layers: both maps, the same without training, and the centre blob."""
    layers = sorted(found["layers"], key=int)
    series = []
    for name, color, dashed in (
        ("query", 0, False),
        ("key", 1, False),
        (f"{_UNTRAINED}query", 0, True),
        (f"{_UNTRAINED}key", 1, True),
    ):
        values = [found["layers"][layer][name] for layer in layers]
        points = [(int(n), v[metric]) for n, v in zip(layers, values, strict=True)]
        spread = [] if dashed else [tuple(v[f"{metric}_ci"]) for v in values]
        title = _NAMES[name.removeprefix(_UNTRAINED)] + (", random weights" if dashed else "")
        series.append(Series(title, points, spread, dashed, not dashed, color))
    centre = found["maps"]["centre"][metric]
    ends = [(int(layers[0]), centre), (int(layers[-1]), centre)]
    series.append(Series(_NAMES["centre"], ends, dashed=False, marks=False, color=4))
    alt = (
        f"{METRIC_NAMES[metric]} by layer; layer {found['layer']}: query "
        f"{found['maps']['query'][metric]:.2f}, key {found['maps']['key'][metric]:.2f}, centre "
        f"{centre:.2f}"
    )
    return linear_chart(series, "layer", METRIC_NAMES[metric], alt)


def build() -> None:
    """Lay the tab out inside the current Blocks."""
    with gr.Column(elem_id="evidence"):
        split = gr.Radio(SPLITS, value=SPLITS[0], label="Split of COCO", elem_id="ev-split")
        shown = gr.HTML(evidence_html(SPLITS[0]))
        gr.HTML(distributions_html(), elem_id="ev-sanity")
    split.input(evidence_html, split, shown, **QUIET)
