"""Why one label and not the other: what each token says for the one, or for the other."""

from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from gradio.events import Dependency
from markupsafe import Markup

from app.handlers import COMPUTE, QUIET, plainly
from app.tabs.explore.again import look_again
from app.tabs.explore.named_map import layer_in_words
from app.templating import render
from app.turns import TURNS
from app.viewer import ShownMap, figure_html, linked_html, viewer
from app.visit import Look, Visit, require_look
from sima_core import Analysis
from sima_core.errors import InputError
from sima_core.lens.class_flow import class_layer
from sima_core.lens.flow import Parts
from sima_core.lens.heatmaps import DIVERGING
from sima_core.lens.layers import Layer

#: In place of a class: against no other label.
NO_LABEL = -1


def explain(
    seen: Look | None, model_key: str | None, label: int | None, over: int | None
) -> Markup:
    """The map of what each token says for a label and not for another, and a sentence on it."""
    seen = require_look(seen)
    names = {one.index: one.label for one in seen.analysis.predictions}
    if label not in names or over not in (*names, NO_LABEL, None):
        raise InputError("choose labels among those that the model sees in this photo.")
    if label == over:
        raise InputError("choose two labels that differ.")
    against = None if over in (NO_LABEL, None) else over
    lens, pixels = look_again(seen, model_key)
    try:
        layer = class_layer(lens.model, None)
    except InputError:
        return render("explore/no_why")
    with TURNS.turn():
        parts = lens.why(pixels, label, against)
    other = names[against] if against is not None else None
    return why_html(seen, parts, layer, names[label], other)


def why_html(seen: Look, parts: Parts, layer: Layer, label: str, other: str | None) -> Markup:
    """The signed map over the photo, and what it says in words."""
    along = parts.on_grid("along")
    row, col = np.unravel_index(along.argmax(), along.shape)
    size = float(np.abs(along).sum(dtype=np.float64))
    against = -float(along.clip(max=0).sum(dtype=np.float64))
    question = f"Why {label}" + (f" and not {other}" if other else "")
    shown = ShownMap(
        along,
        question,
        "red speaks for it, blue against",
        f"what each token says: {question}",
        signed=True,
    )
    return render(
        "explore/why",
        figure=linked_html(seen.photo, [figure_html(seen.photo, shown, DIVERGING)]),
        label=label,
        other=other,
        row=int(row) + 1,
        col=int(col) + 1,
        speaks=bool(along[row, col] > 0),
        share=against / size if size else 0.0,
        layer=layer_in_words(layer),
        trained=seen.analysis.trained,
    )


def choices_for(analysis: Analysis) -> tuple[dict[str, Any], dict[str, Any]]:
    """Choices and values of both boxes: the most probable label, and not the next one."""
    labels = [(one.label, one.index) for one in analysis.predictions]
    others = [*labels, ("(none)", NO_LABEL)]
    return (
        {"choices": labels, "value": labels[0][1]},
        {"choices": others, "value": others[1][1]},
    )


def begin(seen: Look | None) -> tuple[dict[str, Any], dict[str, Any], Markup]:
    """The labels of a new look to choose among, and no map."""
    first, second = choices_for(require_look(seen).analysis)
    return gr.update(**first), gr.update(**second), render("explore/why_hint")


@dataclass(frozen=True)
class Why:
    """The two labels, and the map of why one and not the other."""

    visit: Visit
    label: gr.Dropdown
    over: gr.Dropdown
    shown: gr.HTML
    #: The run that explains.
    run: Dependency

    @classmethod
    def lay_out(cls, visit: Visit, first: Look) -> "Why":
        """Inside the current column."""
        labels, others = choices_for(first.analysis)
        with gr.Column(elem_id="why"):
            with gr.Row(elem_id="why-labels"):
                label = gr.Dropdown(**labels, label="Why", filterable=False, min_width=120)
                over = gr.Dropdown(**others, label="and not", filterable=False, min_width=120)
                ask = gr.Button("Show why", size="sm", min_width=90)
            shown = viewer(render("explore/why_hint"), elem_id="why-map")
        run = ask.click(
            plainly(explain),
            [visit.look, visit.model_key, label, over],
            shown,
            **COMPUTE,
            show_progress_on=shown,
            trigger_mode="always_last",
        )
        return cls(visit, label, over, shown, run)

    def begin_after(self, looked: Dependency) -> None:
        """A new look has labels of its own, and an older one's map is no longer waited for."""
        looked.success(
            plainly(begin), self.visit.look, [self.label, self.over, self.shown], **QUIET
        )
        looked.success(None, cancels=[self.run])
