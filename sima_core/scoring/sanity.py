"""When not to believe a map: checks on one picture that need no labels, and a verdict.

A map may look right for reasons that have nothing to do with what the model learnt: the network's
build alone, where photographers put things, a few tokens that the model misuses. Each check is one
number with a limit past which it is said.

What no check can find: the norms of a layer are computed before any later layer and any label, so
that they cannot depend on either, and a good map says nothing of why a label was chosen.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sima_core.defaults import LAYER
from sima_core.errors import InputError
from sima_core.lens.heatmaps import heatmap
from sima_core.lens.kinds import on_output
from sima_core.lens.layers import SIDES, Layer, on_grid
from sima_core.lens.lens import Lens
from sima_core.lens.maps import MAPS, Maps
from sima_core.scoring.metrics import centre_map
from sima_core.scoring.ranks import spearman
from sima_core.time_limit import check_time

#: A token is an outlier beyond so many times the median (Darcet et al. 2023, "Vision transformers
#: need registers", arXiv 2309.16588, where artefacts lie far above all other norms).
OUTLIER = 3.0
#: The limits are of rank correlations, whose square is the share of the ranks that is explained.
#: From the first on, over a third of the map's order is there without what was learnt; from the
#: second on, nearly two thirds.
RANDOM_CARE, RANDOM_NO = 0.6, 0.8
#: Below it, a map explains less than a quarter of its own order in the mirror.
MIRROR_CARE = 0.5
#: From it on, a blob in the middle explains nearly two thirds of the map's order.
CENTRE_CARE = 0.8
#: Below it, a norm explains less than a quarter of the order of what it is taken for.
AGREEMENT_CARE = 0.5

#: The last step of the cascade: patch embedding, positions and whatever else is in no layer.
EVERYTHING = "everything"

#: What the ranks of each map are held against: the exact sizes that it is read as; for the others
#: there are none, or they are exact themselves.
_EXACT = {
    "query": ("received", "gathered"),
    "key": ("sent",),
    "query_key": ("received", "sent"),
    "value_weighted": ("sent",),
}

CheckName = Literal["random", "mirror", "centre", "outliers", "agreement"]
Level = Literal["fine", "care", "no"]
LEVELS: tuple[Level, ...] = ("fine", "care", "no")
_ADVICE = {"fine": "fine to read", "care": "read with care", "no": "do not read"}

_Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Step:
    """The map after one more layer was made random."""

    #: Which: ``layer 12``, ``class attention``, or `EVERYTHING`; those before it are random too.
    random: str
    #: (rows, cols), unscaled.
    map: _Map
    #: Of the map's ranks with the trained model's: −1 to 1.
    correlation: float


@dataclass(frozen=True)
class Check:
    """One number, and what it means for whoever reads the map."""

    name: CheckName
    #: None where the model has no such number.
    value: float | None
    level: Level = "fine"
    #: Why the map should be read with care or not at all; empty where nothing is wrong.
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether to read a map, and why not."""

    level: Level
    reasons: tuple[str, ...]

    @property
    def advice(self) -> str:
        """``fine to read``, ``read with care`` or ``do not read``."""
        return _ADVICE[self.level]

    def __str__(self) -> str:
        """Such as ``read with care: mirroring the picture changes the map``."""
        return f"{self.advice}: {'; '.join(self.reasons)}" if self.reasons else self.advice


@dataclass(frozen=True, eq=False)
class Sanity:
    """What the checks found of one map on one picture; holds no model."""

    #: A name of `maps.MAPS`.
    name: str
    layer: int
    head: int | None
    #: The map itself, unscaled: (rows, cols).
    map: _Map
    #: Whether the weights were trained; None where nobody knows.
    trained: bool | None
    #: Layers made random from the map's own down to the first, one after another, then all else.
    steps: tuple[Step, ...]
    #: Rank correlation with the map of the mirrored picture, mirrored back.
    mirror: float
    #: Rank correlation with a Gaussian in the middle, `metrics.centre_map`.
    centre: float
    #: The tokens beyond `OUTLIER` times the map's median, as (row, column) from 1.
    outliers: tuple[tuple[int, int], ...]
    #: The map's largest value over its median.
    largest: float
    #: The same of the norms of the tokens that leave the layer's block, where artefacts are found
    #: in large models; None where the block gives no tokens.
    output_largest: float | None
    #: Rank correlation with exact sizes, by the name of `FlowTotals`; none where no token hears
    #: another, or where the map is exact itself.
    agreement: Mapping[str, float]
    #: How much of the layer's weights, by size, is negative; None where no flow was looked at.
    negative: float | None

    @property
    def random(self) -> float:
        """The correlation once every layer is random, down to the first; the embedding is kept."""
        return self.steps[-2].correlation

    def figures(self) -> dict[str, float]:
        """Its numbers by name, for distributions over pictures: ``random``, ``mirror``, …

        The correlation after each step too, such as ``random/layer 12``.
        """
        found = {
            "random": self.random,
            "mirror": self.mirror,
            "centre": self.centre,
            "largest": self.largest,
            **self.agreement,
            **{f"random/{step.random}": step.correlation for step in self.steps},
        }
        there = {"output": self.output_largest, "negative": self.negative}
        return found | {name: value for name, value in there.items() if value is not None}

    def checks(self) -> tuple[Check, ...]:
        """Each number with what it means."""
        exact = next(iter(self.agreement), None)
        agreement = None if exact is None else self.agreement[exact]
        disagrees = agreement is not None and agreement < AGREEMENT_CARE
        return (
            self._random(),
            _judged("mirror", self.mirror, self.mirror < MIRROR_CARE, _MIRRORED),
            _judged("centre", self.centre, abs(self.centre) > CENTRE_CARE, _CENTRED),
            self._outliers(),
            _judged("agreement", agreement, disagrees, f"{_DISAGREES} what is {exact}"),
        )

    def _random(self) -> Check:
        # The same order the other way round is the same map in other colours.
        if abs(self.random) > RANDOM_NO:
            return Check("random", self.random, "no", "random layers draw nearly the same map")
        against = abs(self.random) > RANDOM_CARE
        return _judged("random", self.random, against, "random layers draw much of it")

    def _outliers(self) -> Check:
        # Products and contributions may well be lopsided; it is norms in which artefacts show.
        if not self.outliers or self.name not in SIDES:
            return Check("outliers", self.largest)
        number = len(self.outliers)
        said = "one token stands" if number == 1 else f"{number} tokens stand"
        return Check("outliers", self.largest, "care", f"{said} out as artefacts do")

    def verdict(self) -> Verdict:
        """Whether to read the map: as bad as the worst of the checks."""
        if heatmap(self.map).flat:
            return Verdict("no", ("the map is flat",))
        if self.trained is False:
            return Verdict("no", ("the weights are untrained",))
        against = [check for check in self.checks() if check.reason]
        against.sort(key=lambda check: LEVELS.index(check.level), reverse=True)  # the worst first
        level: Level = against[0].level if against else "fine"
        return Verdict(level, tuple(check.reason for check in against))


_MIRRORED = "mirroring the picture changes the map"
_CENTRED = "it shows little but the distance from the middle"
_DISAGREES = "it ranks tokens otherwise than"


def _judged(name: CheckName, value: float | None, against: bool, reason: str) -> Check:
    return Check(name, value, "care", reason) if against else Check(name, value)


def sanity(
    model: Lens | nn.Module,
    pixels: Tensor,
    layer: int = LAYER,
    names: Sequence[str] | None = SIDES,
    head: int | None = None,
) -> dict[str, Sanity]:
    """Check maps of one layer on one picture, all in the same passes: three, and one a layer.

    The model is left as it is. The same random weights are drawn each time.

    Args:
        pixels: one picture, (1, 3, height, width), normalised; `Lens.preprocess` makes it.
        layer: counted from 1; negative from the end.
        names: maps of `maps.MAPS`, which are checked together; None for all that the model has.
        head: counted from 1; None takes all heads together.

    Returns:
        What was found, by the map's name.

    Raises:
        InputError: as `Lens.maps` and `Maps.of`; no map is named; or a model whose random twin
            cannot be made, as `Lens.untrained` says it.
        OutOfTimeError: where there is a `time_limit`.

    Sources: Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv 1810.03292, section 3.1
    (the cascade); Darcet et al. 2023, arXiv 2309.16588 (outliers).
    """
    if names is not None and not names:
        raise InputError(f"no map was asked for: name one of {', '.join(MAPS)}")
    lens = Lens.of(model)
    chosen = lens.layer(layer)
    found, output = _looked_at(lens, pixels, chosen, names)
    own = {name: _finite(found.of(name, head)) for name in names or tuple(found)}
    mirrored = lens.maps(pixels.flip(-1), chosen.number, tuple(own))
    check_time()
    steps = _cascade(lens, pixels, found, own, head)
    size = None if output is None else _largest(output)
    return {
        name: Sanity(
            name,
            chosen.number,
            head,
            values,
            lens.provenance.trained if lens.provenance else None,
            tuple(steps[name]),
            spearman(values, mirrored.of(name, head)[:, ::-1]),
            spearman(values, centre_map(*values.shape[::-1])),
            outliers(values),
            _largest(values),
            size,
            _agreement(found, name, values, head),
            found.totals(head).negative_share if found.flow else None,
        )
        for name, values in own.items()
    }


def outliers(values: _Map) -> tuple[tuple[int, int], ...]:
    """The tokens beyond `OUTLIER` times the median, as (row, column) from 1."""
    at = np.argwhere(values > OUTLIER * np.median(values)) + 1
    return tuple((int(row), int(col)) for row, col in at)


def _looked_at(
    lens: Lens, pixels: Tensor, layer: Layer, names: Sequence[str] | None
) -> tuple[Maps, _Map | None]:
    """The trained maps with the layer's flow, and the norms of the tokens that leave its block."""
    outputs: list[Tensor] = []
    wanted = None if names is None else (*names, *(e for n in names for e in _flows(n)))
    with ExitStack() as hooks:
        block = layer.name.rpartition(".")[0]
        if block:
            keep = on_output(lens.model.get_submodule(block), outputs.append)
            hooks.callback(keep.remove)
        found = lens.maps(pixels, layer.number, wanted)
    output = outputs[-1] if outputs else None
    if not isinstance(output, Tensor) or output.ndim != 3:
        return found, None
    norms = torch.linalg.vector_norm(output[0].float(), dim=-1)
    grid, _ = layer.grids(*pixels.shape[-2:])
    return found, np.asarray(on_grid(norms, grid).cpu().numpy())


def _flows(name: str) -> tuple[str, ...]:
    """A map for which the layer's flow is taken, where the map is held against exact sizes."""
    return ("sent",) if name in _EXACT else ()


def _finite(values: _Map) -> _Map:
    heatmap(values)  # refuses others
    return values


def _largest(values: _Map) -> float:
    median = float(np.median(values))
    return float(values.max()) / median if median else 1.0


def _agreement(found: Maps, name: str, values: _Map, head: int | None) -> dict[str, float]:
    """Rank correlations of a map with the exact sizes that have its grid."""
    if found.flow is None:
        return {}
    totals = found.totals(head)
    grids = {"sent": found.flow.key_grid}
    return {
        exact: spearman(values, on_grid(torch.as_tensor(getattr(totals, exact)), grid).numpy())
        for exact in _EXACT.get(name, ())
        if (grid := grids.get(exact, found.flow.query_grid)) == values.shape
    }


def _cascade(
    lens: Lens, pixels: Tensor, found: Maps, own: Mapping[str, _Map], head: int | None
) -> dict[str, list[Step]]:
    """The maps as layers become random, from each map's own layer down to the first."""
    layer, of_class = found.layer, found.class_flow.layer if found.class_flow else None
    steps: dict[str, list[Step]] = {name: [] for name in own}
    blocks = [*reversed(lens.layers[: layer.number])]
    above = set()
    if of_class and not of_class.kind.over_patches:  # it stands above all layers
        above = {name for name in own if MAPS[name].needs == "class"}
    if above and of_class:
        blocks = [of_class, *reversed(lens.layers)]
    for random, number, model in _randomised(lens, blocks):
        names = [n for n in own if n in above or number <= layer.number]
        if not names:
            break  # what is above the norms' layer changes none of them
        maps = Lens(model).maps(pixels, layer.number, names)
        for name in names:
            values = maps.of(name, head)
            if not np.isfinite(values).all():  # plain QKᵀV with random weights may overflow
                values = np.zeros_like(values)
            steps[name].append(Step(random, values, spearman(own[name], values)))
        check_time()
    return {name: [*reversed(of)] for name, of in steps.items()}


def _randomised(lens: Lens, layers: Sequence[Layer]) -> Iterator[tuple[str, int, nn.Module]]:
    """The model with ever fewer blocks random, from everything to the first of `layers` alone.

    It is the random twin, into which what was learnt comes back block by block: one model more in
    memory, and the trained one is only read. Each comes with what is random last, and its number.
    """
    like = next(lens.model.parameters())
    model = lens.untrained().model.to(like.device, like.dtype)
    learnt, state = lens.model.state_dict(), model.state_dict()  # the twin's own memory
    blocks = {f"{layer.name.rpartition('.')[0] or layer.name}.": layer for layer in layers}

    def restore(names: Iterable[str]) -> None:
        for name in names:
            # A classifier of other classes has another shape; no map depends on it.
            if state[name].shape == learnt[name].shape:
                state[name].copy_(learnt[name])

    yield EVERYTHING, 0, model
    restore(name for name in state if not name.startswith(tuple(blocks)))
    for block, layer in reversed(blocks.items()):
        if layer.kind.over_patches:
            yield f"layer {layer.number}", layer.number, model
        else:
            yield "class attention", lens.depth + 1, model
        restore(name for name in state if name.startswith(block))
