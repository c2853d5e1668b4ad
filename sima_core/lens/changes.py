"""How the labels change when tokens take no part in attention."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sima_core.lens.export import about
from sima_core.lens.knockout import KnockOut
from sima_core.lens.lens import Lens
from sima_core.machine import versions

#: How many of the most probable labels of an answer are shown.
NUM_LABELS = 5


@dataclass(frozen=True)
class Change:
    """One label's probabilities, from 0 to 1: with all tokens, and without some, both ways."""

    index: int
    label: str
    before: float
    #: None where nothing can be predicted (XCA).
    predicted: float | None
    real: float


def changes(found: KnockOut, labels: Sequence[str], others: int = NUM_LABELS) -> list[Change]:
    """The most probable labels before, then those that are among them only without the tokens.

    Args:
        others: so many of the most probable without the tokens.
    """
    answers = [(found.before, NUM_LABELS), (found.real, others), (found.predicted, others)]
    order = [
        int(index)
        for answer, most in answers
        if answer is not None
        for index in (-answer).argsort(kind="stable")[:most]
    ]
    return [
        Change(
            index,
            labels[index],
            float(found.before[index]),
            None if found.predicted is None else float(found.predicted[index]),
            float(found.real[index]),
        )
        for index in dict.fromkeys(order)
    ]


def describe(
    found: KnockOut, lens: Lens, image_name: str, layer: int | None, resolution: int
) -> dict[str, Any]:
    """The tokens, the model and the labels' probabilities, for JSON; no path.

    Args:
        layer: where the tokens were taken away; None for all layers.
    """
    labels, label_set = lens.class_names(len(found.before))
    return {
        **about(image_name, lens),
        "layer": "all" if layer is None else lens.layer(layer).number,
        "resolution": resolution,
        "grid": found.grid,
        "tokens": found.tokens,
        "label_set": label_set,
        "labels": [dataclasses.asdict(change) for change in changes(found, labels)],
        "versions": versions(),
    }
