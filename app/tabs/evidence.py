"""The Evidence tab: how well the bundled weights' maps find objects, over a whole split of COCO."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from markupsafe import Markup

from app.charts import Series, linear_chart
from app.handlers import QUIET
from app.standing import distributions_html
from app.templating import render
from sima_core.files import ASSETS
from sima_core.scoring.summary import METRIC_NAMES, skipped_in_words

#: The splits that were scored.
SPLITS = ("val2017", "train2017")
_NAMES = {
    "query": "Q̂ (query)",
    "key": "K̂ (key)",
    "centre": "Centre blob",
    "random": "Random map",
    "uniform": "Uniform map",
    "untrained_query": "Q̂, random weights",
    "untrained_key": "K̂, random weights",
}
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
        map_names=_NAMES,
        metrics=METRIC_NAMES,
        meanings=_MEANINGS,
        charts={metric: metric_chart(found, metric) for metric in METRIC_NAMES},
    )


def verdict(found: Mapping[str, Any]) -> Markup:
    """What the figures mean, good or bad, in plain words."""
    maps = found["maps"]
    side = "query" if maps["query"]["auc"] >= maps["key"]["auc"] else "key"
    trained, untrained = maps[side], maps[f"untrained_{side}"]
    return render(
        "evidence/verdict",
        name=_NAMES[side],
        layer=found["layer"],
        auc=trained["auc"],
        untrained_auc=untrained["auc"],
        learnt=trained["auc_ci"][0] > untrained["auc_ci"][1],
        unlearnt=trained["auc_ci"][1] < untrained["auc_ci"][0],
        against_centre=_against_centre(found["against_centre"][side]),
    )


def _against_centre(differences: Mapping[str, Any]) -> str:
    """In which metrics a map beats the centre blob, loses to it, and neither."""
    better = [m for m in METRIC_NAMES if differences[f"{m}_ci"][0] > 0]
    worse = [m for m in METRIC_NAMES if differences[f"{m}_ci"][1] < 0]
    close = [m for m in METRIC_NAMES if m not in (*better, *worse)]
    clauses = (
        ("beats it in", better),
        ("loses to it in", worse),
        ("cannot be told from it in", close),
    )
    return "; it ".join(f"{says} {_listed(metrics)}" for says, metrics in clauses if metrics)


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
        ("untrained_query", 0, True),
        ("untrained_key", 1, True),
    ):
        values = [found["layers"][layer][name] for layer in layers]
        points = [(int(n), v[metric]) for n, v in zip(layers, values, strict=True)]
        spread = [] if dashed else [tuple(v[f"{metric}_ci"]) for v in values]
        series.append(Series(_NAMES[name], points, spread, dashed, not dashed, color))
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
