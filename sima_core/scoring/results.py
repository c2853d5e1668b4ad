"""What evaluation finds on one picture: the scores of each map, or why there are none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from sima_core import defaults
from sima_core.lens.maps import MAPS
from sima_core.scoring.metrics import Scores

#: Maps of no model, to compare with.
Baseline = Literal["centre", "random", "uniform"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
#: What a picture can be left out for.
Skipped = Literal["small", "large", "unannotated", "unreadable"]
SKIPPED: tuple[Skipped, ...] = get_args(Skipped)

_UNTRAINED = "untrained_"


@dataclass(frozen=True)
class ModelMap:
    """A model's heatmap: a map of `MAPS` in one layer, from 1."""

    name: str
    layer: int
    #: Whether the weights are the model's own; else random ones.
    trained: bool = True

    @property
    def kind(self) -> str:
        """The map's name, and whether it is trained: ``query``, ``untrained_query``, …"""
        return self.name if self.trained else _UNTRAINED + self.name

    def __str__(self) -> str:
        return f"{self.kind}/{self.layer}"


#: What is scored. As text, by `str` and `parse_map`: ``centre``, ``query/12``, ``untrained_key/3``.
MapKey = ModelMap | Baseline


def parse_map(text: str) -> MapKey:
    """The map that `str` made this text of.

    Raises:
        ValueError: there is no such map.
    """
    if text in BASELINES:
        return text
    kind, layer = text.split("/")
    name = kind.removeprefix(_UNTRAINED)
    if name not in MAPS:
        raise ValueError(text)
    return ModelMap(name, int(layer), name == kind)


@dataclass(frozen=True)
class PictureResult:
    """What was found on one picture: why it was skipped, or its scores."""

    id: int
    skipped: Skipped | None = None
    scores: Mapping[MapKey, Scores] = field(default_factory=dict)
    #: Insertion and deletion AUC by order and curve, where asked for; see `faithfulness`.
    faithfulness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    #: Figures of the checks by map, where asked for; see `sanity.Sanity.figures`.
    sanity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    #: Seconds of both models' forward passes, and of everything that scoring adds to them.
    forward_seconds: float = 0.0
    scoring_seconds: float = 0.0
    #: A sentence on what was wrong with an unreadable picture.
    problem: str = ""


def main_layer(layers: Sequence[int]) -> int:
    """The layer that a summary is about: the paper's 12 if it is among them, else the last."""
    return defaults.LAYER if defaults.LAYER in layers else layers[-1]
