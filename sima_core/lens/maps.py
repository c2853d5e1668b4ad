"""Every map of tokens that a lens can draw, by name: its formula, and what it can and cannot say.

One registry, which page, command line, comparison and evaluation share. The paper's two, ``query``
and ``key``, are the default.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sima_core.errors import InputError
from sima_core.lens.class_flow import class_layer
from sima_core.lens.flow import Flow, FlowTotals
from sima_core.lens.flowing import flowing, require_picture
from sima_core.lens.layers import Layer, looking, on_grid, require_head
from sima_core.lens.norms import NormRecorder, TokenNorms
from sima_core.words import plain

#: What a map is made of: norms of Q and K, the layer's flow, or the flow to the class token.
Needs = Literal["norms", "flow", "class"]
#: What `MAPS` holds, for types.
MapName = Literal[
    "query", "key", "query_key", "value_weighted", "sent", "received", "class_contribution"
]
#: Names of maps; None stands for all that there are.
Names = Sequence[str] | None


@dataclass(frozen=True)
class NamedMap:
    """One map: how it is called, computed and read."""

    name: str
    title: str
    formula: str
    #: What it shows, and what it cannot say.
    says: str
    needs: Needs
    #: Makes the map, (rows, cols), for a head (from 1) or for all of them (None).
    of: Callable[["Maps", int | None], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Maps:
    """What the maps of one layer on one picture are made of, from one forward pass."""

    layer: Layer
    #: Per head: (1, heads, rows, cols).
    norms: TokenNorms
    #: None where no token hears another (XCA).
    flow: Flow | None
    #: The first layer of class attention, or this one where the class token is among its tokens.
    class_flow: Flow | None
    _totals: dict[int | None, FlowTotals] = field(default_factory=dict, init=False, repr=False)

    def __iter__(self) -> Iterator[str]:
        """The names of the maps that this model and layer have."""
        there = {"norms": True, "flow": self.flow, "class": self.class_flow}
        return (name for name, one in MAPS.items() if there[one.needs])

    def of(self, name: str, head: int | None = None) -> NDArray[np.float32]:
        """One map, unscaled: float32 (rows, cols); in CvT a map of keys has fewer.

        Args:
            head: counted from 1; None takes all heads together.

        Raises:
            InputError: an unknown name, a head that does not exist, or a map that this model does
                not have; says which it has.
        """
        require_map(name, self.layer, tuple(self))
        require_head(head, self.norms.query.shape[1])
        return MAPS[name].of(self, head)

    def is_of_layer(self, name: str) -> bool:
        """Whether a map is of this layer; what class attention gives is of another one."""
        return (
            MAPS[name].needs != "class"
            or self.class_flow is None
            or (self.class_flow.layer == self.layer)
        )

    def totals(self, head: int | None = None) -> FlowTotals:
        """All pairs of the layer's tokens, added up once for each head.

        Raises:
            InputError: no token hears another there, or no flow was asked for.
        """
        if self.flow is None:
            raise InputError(
                f"layer {self.layer.number} ({self.layer.attention}) has no flow here: there is "
                "nothing to add up"
            )
        if head not in self._totals:
            self._totals[head] = self.flow.totals(head)
        return self._totals[head]


def require_map(name: object, layer: Layer | None = None, there: Sequence[str] = ()) -> None:
    """Refuse a name that no map has, or none of those that are there in a layer.

    Raises:
        InputError: the name is unknown, or not there; lists those there are.
    """
    if not isinstance(name, str) or name not in MAPS:
        raise InputError(f"a map is one of {', '.join(MAPS)}; got {plain(repr(name))}")
    if layer is not None and name not in there:
        raise InputError(
            f"layer {layer.number} ({layer.attention}) has no map {name}: "
            f"choose one of {', '.join(there)}"
        )


def map_names(model: nn.Module, layer: Layer) -> tuple[str, ...]:
    """The names of the maps that a model has in one of its layers; the model is not run."""
    there = {"norms", *_flows(model, layer, _listener(model))}
    return tuple(name for name, one in MAPS.items() if one.needs in there)


def maps(
    model: nn.Module, pixels: Tensor, layers: Sequence[Layer], names: Names = None
) -> dict[int, Maps]:
    """What the maps of some layers are made of, by layer number; see `Lens.maps`.

    Args:
        names: only what these maps need; None for all.

    Raises:
        InputError: as `Lens.maps`.
    """
    with listening(model, pixels, layers, names) as heard, looking(model):
        model(pixels)
    return heard()


@contextmanager
def listening(
    model: nn.Module, pixels: Tensor, layers: Sequence[Layer], names: Names = None
) -> Iterator[Callable[[], dict[int, Maps]]]:
    """Hear what maps are made of as the model runs inside, for whoever runs it anyway.

    Gives what to call afterwards for the maps, by layer number.

    Args:
        pixels: what the model is run on.
        names: only what these maps need; None for all.

    Raises:
        InputError: as `Lens.maps`.
    """
    for name in names or ():
        require_map(name)
    require_picture(model, pixels)
    wanted = {MAPS[name].needs for name in (MAPS if names is None else names)}
    listener = _listener(model)
    asked = {
        layer: {n: of for n, of in _flows(model, layer, listener).items() if n in wanted}
        for layer in layers
    }
    found: dict[Layer, Flow] = {}

    def take(flow: Flow) -> None:
        found[flow.layer] = flow

    flowed = {of for needed in asked.values() for of in needed.values()}
    recorder = NormRecorder(model, [layer.number for layer in layers])

    def heard() -> dict[int, Maps]:
        norms = recorder.norms(per_head=True)
        return {
            layer.number: Maps(
                layer,
                norms[layer.number],
                *(found[needed[n]] if n in needed else None for n in ("flow", "class")),
            )
            for layer, needed in asked.items()
        }

    with recorder, flowing(model, list(flowed), pixels, take):
        yield heard


def _listener(model: nn.Module) -> Layer | None:
    """The layer where the class token first listens; None where it never does."""
    try:
        return class_layer(model, None)
    except InputError:
        return None


def _flows(model: nn.Module, layer: Layer, listener: Layer | None) -> dict[Needs, Layer]:
    """Which flows the maps of `layer` can be made of, and the layer of each."""
    if listener and listener.kind.over_patches:  # there, the class token is among the tokens
        listener = layer if layer.class_row is not None else None
    flows: dict[Needs, Layer | None] = {"flow": layer, "class": listener}
    return {
        need: of for need, of in flows.items() if of and of.kind.sums_over_tokens(of.module(model))
    }


def _norm(maps: Maps, side: Literal["query", "key"], head: int | None) -> NDArray[np.float32]:
    by_head = getattr(maps.norms, side)[0]
    found = torch.linalg.vector_norm(by_head, dim=0) if head is None else by_head[head - 1]
    return np.asarray(found.cpu().numpy())


def _query_key(maps: Maps, head: int | None) -> NDArray[np.float32]:
    query, key = _norm(maps, "query", head), _norm(maps, "key", head)
    if query.shape != key.shape:  # CvT: each token takes the key that it lies under
        row, col = (np.arange(n) * k // n for n, k in zip(query.shape, key.shape, strict=True))
        key = key[row][:, col]
    return query * key


def _value_weighted(maps: Maps, head: int | None) -> NDArray[np.float32]:
    assert maps.flow is not None
    flow = maps.flow.of_head(head)
    weighted = torch.linalg.vector_norm(flow.key, dim=-1) * flow.value_norm
    return _patches(weighted.sum(dim=0), flow.key_grid)


def _sent(maps: Maps, head: int | None) -> NDArray[np.float32]:
    assert maps.flow is not None
    return _patches(maps.totals(head).sent, maps.flow.key_grid)


def _received(maps: Maps, head: int | None) -> NDArray[np.float32]:
    assert maps.flow is not None
    return _patches(maps.totals(head).received, maps.flow.query_grid)


def _class_contribution(maps: Maps, head: int | None) -> NDArray[np.float32]:
    assert maps.class_flow is not None
    return maps.class_flow.received("class", head).on_grid("norms")


def _patches(values: Tensor | NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(on_grid(torch.as_tensor(values), grid).cpu().numpy())


#: Every map by its name; the paper's two come first.
MAPS = MappingProxyType(
    {
        one.name: one
        for one in (
            NamedMap(
                "query",
                "Query",
                "‖q̂ᵢ‖",
                "How large each token's query is: what it gathers is scaled by it. It does not say "
                "how much arrives, since what is gathered cancels.",
                "norms",
                lambda maps, head: _norm(maps, "query", head),
            ),
            NamedMap(
                "key",
                "Key",
                "‖k̂ⱼ‖",
                "How large each token's key is: how loudly it can be heard. It does not say what "
                "it has to say, or whether it adds or subtracts.",
                "norms",
                lambda maps, head: _norm(maps, "key", head),
            ),
            NamedMap(
                "query_key",
                "Query × key",
                "‖q̂ᵢ‖·‖k̂ᵢ‖",
                "Tokens that are large in both directions. It does not say who hears whom.",
                "norms",
                _query_key,
            ),
            NamedMap(
                "value_weighted",
                "Key × value",
                "Σ_heads ‖k̂ⱼ‖·‖vⱼW_O‖",
                "How loudly each token is heard, times the size of what it says. It does not say "
                "whether anyone listens, or whether it adds or subtracts.",
                "flow",
                _value_weighted,
            ),
            NamedMap(
                "sent",
                "Sent",
                "Σᵢ ‖cᵢⱼ‖",
                "The exact size of all that each token adds to the others in this layer. It does "
                "not say in which direction, or whether later layers use it.",
                "flow",
                _sent,
            ),
            NamedMap(
                "received",
                "Received",
                "‖Σⱼ cᵢⱼ‖",
                "The exact size of what arrives at each token in this layer, once its parts have "
                "cancelled. It does not say from whom.",
                "flow",
                _received,
            ),
            NamedMap(
                "class_contribution",
                "To the class token",
                "‖c_class,ⱼ‖",
                "The exact size of what each patch gives the class token where it first listens. "
                "It does not say for which label, or whether it speaks for or against it.",
                "class",
                _class_contribution,
            ),
        )
    }
)
