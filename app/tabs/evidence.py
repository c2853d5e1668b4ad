"""The Evidence tab: how well the bundled weights' maps find objects, over a whole split of COCO."""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from sima_core.files import ASSETS
from sima_core.scoring.summary import METRIC_NAMES, skipped_in_words

from .charts import Series, linear_chart
from .viewer import escape
from .visitors import capitalized

#: What `evaluate` found, by split; the commands that made them stand in them.
FOUND: dict[str, dict[str, Any]] = {
    split: json.loads((ASSETS / f"evidence_{split}.json").read_text("utf-8"))
    for split in ("val2017", "train2017")
}
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


def evidence_html(split: str) -> str:
    """Sentences, a table, and charts of every metric by layer."""
    found = FOUND[split]
    charts = "".join(
        f'<section class="sl-card"><h3>{capitalized(name)} by layer</h3>'
        f"{metric_chart(found, metric)}<p class='sl-fine'>{capitalized(_MEANINGS[metric])}.</p>"
        "</section>"
        for metric, name in METRIC_NAMES.items()
    )
    return (
        '<section class="sl-card sl-verdicts"><h3>Do the maps find the objects?</h3>'
        f"{verdict(found)}"
        f'<div class="sl-wide">{table_html(found)}</div>'
        f'<p class="sl-fine">Layer {found["layer"]} of {escape(found["checkpoint"])} at '
        f"{found['resolution']} px; means over {found['images']} pictures of COCO {split}, with "
        f"95 % bootstrap intervals; left out: {skipped_in_words(found['skipped'])}. Made by "
        f"<code>{escape(found['command'])}</code> on a small subset of the split; the same "
        "command with your own copy of COCO gives the whole.</p></section>"
        f'<div class="sl-grid-of-charts">{charts}</div>'
    )


def verdict(found: Mapping[str, Any]) -> str:
    """What the figures mean, good or bad, in plain words."""
    maps, against = found["maps"], found["against_centre"]
    auc = {name: maps[name]["auc"] for name in maps}
    side = "query" if auc["query"] >= auc["key"] else "key"
    twin = f"untrained_{side}"
    trained, untrained = maps[side]["auc_ci"], maps[twin]["auc_ci"]
    if trained[0] > untrained[1]:
        learnt = (
            f"Training put it there: the same model with random weights reaches {auc[twin]:.2f}."
        )
    elif trained[1] < untrained[0]:
        learnt = f"The same model with random weights does better ({auc[twin]:.2f})."
    else:
        learnt = f"The same model with random weights is no different ({auc[twin]:.2f})."
    better = [METRIC_NAMES[m] for m in METRIC_NAMES if against[side][f"{m}_ci"][0] > 0]
    worse = [METRIC_NAMES[m] for m in METRIC_NAMES if against[side][f"{m}_ci"][1] < 0]
    close = [METRIC_NAMES[m] for m in METRIC_NAMES if METRIC_NAMES[m] not in (*better, *worse)]
    clauses = []
    if better:
        clauses.append(f"beats it in {_listed(better)}")
    if worse:
        clauses.append(f"loses to it in {_listed(worse)}")
    if close:
        clauses.append(f"cannot be told from it in {_listed(close)}")
    return (
        f"<p>A pixel on an object outshines one beside it in <b>{100 * auc[side]:.0f} %</b> of "
        f"pairs in the {_NAMES[side]} map of layer {found['layer']}; chance is 50 %. {learnt}</p>"
        "<p>But photographers put things in the middle, so a plain blob there is the one to beat. "
        f"The map of {_NAMES[side]} {'; it '.join(clauses)}.</p>"
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def table_html(found: Mapping[str, Any]) -> str:
    """Every map's means with intervals."""
    head = "".join(f"<th>{capitalized(name)}</th>" for name in METRIC_NAMES.values())
    rows = ""
    for name, values in found["maps"].items():
        cells = "".join(
            f"<td>{values[m]:.2f}<small>{values[f'{m}_ci'][0]:.2f} to "
            f"{values[f'{m}_ci'][1]:.2f}</small></td>"
            for m in METRIC_NAMES
        )
        rows += f"<tr><th>{_NAMES[name]}</th>{cells}</tr>"
    return f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"


def metric_chart(found: Mapping[str, Any], metric: str) -> str:
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
        split = gr.Radio(list(FOUND), value="val2017", label="Split of COCO", elem_id="ev-split")
        shown = gr.HTML(evidence_html("val2017"))
    split.input(evidence_html, split, shown, api_visibility="private", show_progress="hidden")
