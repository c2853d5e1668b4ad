"""Both orders of the product on one picture: its real Q, K and V, timed side by side."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sima_core.attention.operation import Order, choose_order, crossover, mean_tokens
from sima_core.bench.timing import Candidate, Ratio, Timings, interleave, measurement_dict
from sima_core.defaults import LAYER
from sima_core.errors import InputError
from sima_core.lens.layers import Layer, require_fitting
from sima_core.lens.lens import Lens
from sima_core.machine import Machine, require_memory
from sima_core.words import plain

#: Both orders of the product, as `choose_order` names them.
ORDERS: tuple[Literal["qk_first"], Literal["kv_first"]] = ("qk_first", "kv_first")
#: What is timed in both orders: the product alone, the whole layer, the whole model.
Level = Literal["attention", "block", "model"]


def product_macs(
    order: str, num_heads: int, head_dim: int, num_tokens: int, num_keys: int | None = None
) -> float:
    """Multiply-accumulates of the product: 2·H·N·M·d for ``qk_first``, else (N + M)·H·d².

    Args:
        num_keys: M, where it is not N as in self-attention.

    Source: arXiv 2206.08898, section 3.
    """
    keys = num_tokens if num_keys is None else num_keys
    if order == "qk_first":
        return 2.0 * num_heads * num_tokens * keys * head_dim
    return float(num_heads * (num_tokens + keys) * head_dim**2)


@dataclass(frozen=True)
class OrderComparison:
    """Both orders of the product, measured side by side on one picture's real Q, K and V."""

    num_tokens: int
    #: Tokens among keys and values: as many as among queries, except in CvT.
    num_keys: int
    head_dim: int
    num_heads: int
    layer: int
    #: Times by level; the candidates in each are the two orders.
    levels: Mapping[Level, Timings]
    #: The largest absolute difference between the two outputs over the largest absolute output.
    relative_difference: float
    #: The order that ``auto`` takes here, and from how many tokens on it takes ``kv_first``.
    chosen: str
    crossover: float
    machine: Machine

    @property
    def predicted_ratio(self) -> float:
        """N / head_dim: how many times as many multiplications ``qk_first`` needs.

        Where the keys are others than the queries, N is the harmonic mean of their numbers.
        """
        first, second = (
            product_macs(order, self.num_heads, self.head_dim, self.num_tokens, self.num_keys)
            for order in ORDERS
        )
        return first / second

    def measured_ratio(self, level: Level = "attention") -> Ratio:
        """How many times as long ``qk_first`` takes."""
        return self.levels[level].ratio("qk_first", to="kv_first")

    def intermediate_bytes(self, order: str) -> int:
        """The size of the product's intermediate as a whole: H·N·M or H·d² numbers.

        ``qk_first`` holds no more than `WEIGHTS_BUDGET` of it at a time.
        """
        numbers = self.num_tokens * self.num_keys if order == "qk_first" else self.head_dim**2
        itemsize: int = getattr(torch, self.machine.dtype).itemsize
        return self.num_heads * numbers * itemsize

    @property
    def reason(self) -> str:
        """Why ``auto`` takes its order, in a sentence."""
        few = self.chosen == "qk_first"
        tokens = f"{mean_tokens(self.num_tokens, self.num_keys):,} tokens"
        if self.num_tokens != self.num_keys:
            tokens += " on average over queries and keys"
        if self.crossover == self.head_dim:  # nothing was measured for this device and type
            bound = f"{self.head_dim} channels of a head, which the rule compares them with"
        else:
            bound = (
                f"{self.crossover:.0f} from which on Q̂(K̂ᵀV) was faster when this machine was "
                f"calibrated (the rule says {self.head_dim}, the channels of a head)"
            )
        return (
            f"{tokens} are {'fewer than' if few else 'at least'} the {bound}, so auto multiplies "
            f"{'Q̂K̂ᵀ' if few else 'K̂ᵀV'} first."
        )

    def as_dict(self) -> dict[str, object]:
        """Plain numbers for JSON: seconds, ratios, bytes, raw times."""
        return {
            "num_tokens": self.num_tokens,
            "num_keys": self.num_keys,
            "head_dim": self.head_dim,
            "num_heads": self.num_heads,
            "layer": self.layer,
            "predicted_ratio": self.predicted_ratio,
            "relative_difference": self.relative_difference,
            "auto": self.chosen,
            "crossover": self.crossover,
            "intermediate_bytes": {o: self.intermediate_bytes(o) for o in ORDERS},
            "levels": {
                level: {
                    "ratio": asdict(self.measured_ratio(level)),
                    **{name: measurement_dict(m) for name, m in timings.measurements.items()},
                }
                for level, timings in self.levels.items()
            },
            "machine": asdict(self.machine),
        }


@dataclass(frozen=True)
class _Subject:
    """One layer of a model, its block, and what both get of a picture."""

    attention: Any
    block: nn.Module
    block_inputs: tuple[object, ...]
    #: What the projections give: the fused one's output, or q, k and v.
    projected: list[Tensor]

    @classmethod
    def of(cls, lens: Lens, layer: Layer, pixels: Tensor) -> "_Subject":
        """Run the model once and keep what passes by."""
        attention = layer.module(lens.model)
        block = lens.model.get_submodule(layer.name.rpartition(".")[0])
        seen: dict[str, Any] = {}
        projected: list[Tensor] = []
        with ExitStack() as stack, torch.inference_mode():
            note = block.register_forward_pre_hook(lambda module, args: seen.update(args=args))
            stack.callback(note.remove)
            for projection in layer.kind.projections(attention):
                keep = projection.register_forward_hook(lambda m, args, out: projected.append(out))
                stack.callback(keep.remove)
            lens.model(pixels)
        return cls(attention, block, seen["args"], projected)

    def product(self, order: Order) -> Tensor:
        """The attention's product alone."""
        return cast(Tensor, self.attention.product(*self.projected, order=order))

    def difference(self) -> float:
        """The largest difference between the results of both orders over the largest result."""
        first, second = (self.product(order).double() for order in ORDERS)
        return float((first - second).abs().max() / second.abs().max())


def layers_with_orders(model: nn.Module | Lens) -> list[Any]:
    """The attention layers of a model in which all are plain products, and have an `order`.

    Raises:
        InputError: another kind of attention; says which models have SimA.
    """
    lens = Lens.of(model)
    if other := next((layer for layer in lens.layers if not layer.has_two_orders), None):
        raise InputError(
            f"only SimA attention has two orders of the product, and {plain(lens.name, 30)} has "
            f"{plain(other.attention, 30)}: choose a model whose name starts with sima_, such as "
            "sima_deit_small_patch16_224"
        )
    return [layer.module(lens.model) for layer in lens.layers]


def compare_orders(
    model: nn.Module | Lens,
    pixels: Tensor,
    layer: int = LAYER,
    seconds: float = 6.0,
    levels: Sequence[Level] = ("attention", "block", "model"),
) -> Iterator[OrderComparison]:
    """Time both orders on what `model` makes of `pixels`, giving what is known after each round.

    Nothing else may use the model meanwhile: the order of its layers is switched, and put back.

    Args:
        pixels: (1, 3, rows·patch, cols·patch).
        layer: counted from 1, negative from the end.
        seconds: the time budget, shared equally by the levels.

    Raises:
        InputError: a model without SimA, a layer that does not exist, or more memory needed than is
            free.
    """
    lens = Lens.of(model)
    attentions, chosen, first = layers_with_orders(lens), lens.layer(layer), lens.layer(1)
    require_fitting(lens.model, *pixels.shape[-2:])
    rows, cols = first.grids(*pixels.shape[-2:])[0]
    # About what a forward pass holds at its widest, in the convolutions before the first layer.
    require_memory(4 * 40 * rows * cols * first.num_heads * first.head_dim)
    subject = _Subject.of(lens, chosen, pixels)
    runs: dict[Level, Callable[[Order], object]] = {
        "attention": subject.product,
        "block": lambda order: _with_order(
            [subject.attention], order, lambda: subject.block(*subject.block_inputs)
        ),
        "model": lambda order: _with_order(attentions, order, lambda: lens.model(pixels)),
    }
    found = _unmeasured(subject, chosen)
    for level in levels:
        candidates: dict[str, Candidate] = {
            order: functools.partial(runs[level], order) for order in ORDERS
        }
        for timings in interleave(candidates, seconds / len(levels), min_rounds=3):
            found = replace(found, levels={**found.levels, level: timings})
            yield found


def _unmeasured(subject: _Subject, layer: Layer) -> OrderComparison:
    """What is known before any time is taken."""
    queries, keys = subject.projected[0], subject.projected[-1]
    num_tokens, num_keys = queries.shape[1], keys.shape[1]
    return OrderComparison(
        num_tokens,
        num_keys,
        layer.head_dim,
        layer.num_heads,
        layer.number,
        {},
        subject.difference(),
        choose_order("auto", mean_tokens(num_tokens, num_keys), layer.head_dim, queries),
        crossover(layer.head_dim, queries),
        Machine.here(queries),
    )


def _with_order(layers: Sequence[Any], order: Order, run: Candidate) -> object:
    """What `run` gives while the layers take their products in this order."""
    before = [layer.order for layer in layers]
    try:
        for layer in layers:
            layer.order = order
        return run()
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.order = own
