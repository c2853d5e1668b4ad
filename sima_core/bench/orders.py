"""Both orders of the product on one picture: its real Q, K and V, timed side by side."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sima_core.attention.modules import SimAttention
from sima_core.attention.operation import Order, choose_order, crossover, mean_tokens
from sima_core.bench.timing import Candidate, Ratio, Timings, interleave, measurement_dict
from sima_core.lens.norms import layer_numbers, sima_layers, token_grids
from sima_core.machine import Machine, require_memory
from sima_core.models.cvt import SimAConvAttention

ORDERS: tuple[Literal["qk_first"], Literal["kv_first"]] = ("qk_first", "kv_first")


#: What is timed in both orders: the product alone, the whole layer, the whole model.
Level = Literal["attention", "block", "model"]


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
        both = self.num_tokens + self.num_keys
        return 2 * self.num_tokens * self.num_keys / (both * self.head_dim)

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
        return (
            f"{tokens} are {'fewer than' if few else 'at least'} the "
            f"{self.crossover:.0f} from which on Q̂(K̂ᵀV) was faster when this machine was "
            f"calibrated (the rule says {self.head_dim}, the channels of a head), so auto "
            f"multiplies {'Q̂K̂ᵀ' if few else 'K̂ᵀV'} first."
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


def compare_orders(
    model: nn.Module,
    pixels: Tensor,
    layer: int = 12,
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
        ValueError: a model without SimA, a layer that does not exist, or more memory needed than is
            free.
    """
    attentions = sima_layers(model)
    [number] = layer_numbers(layer, len(attentions))
    attention, first = attentions[number - 1], attentions[0]
    rows, cols = token_grids(model, 1, *pixels.shape[-2:])[0]
    # About what a forward pass holds at its widest, in the convolutions before the first layer.
    require_memory(4 * 40 * rows * cols * first.num_heads * first.head_dim)
    block, block_inputs, projected = _layer_inputs(model, attention, pixels)
    num_heads, head_dim = attention.num_heads, attention.head_dim
    num_tokens, num_keys = projected[0].shape[1], projected[-1].shape[1]

    def product(order: Order) -> Tensor:
        return attention.product(*projected, order=order)

    outputs = [product(order).double() for order in ORDERS]
    difference = (outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max()

    runs: dict[Level, Callable[[Order], object]] = {
        "attention": product,
        "block": lambda order: _with_order([attention], order, lambda: block(*block_inputs)),
        "model": lambda order: _with_order(attentions, order, lambda: model(pixels)),
    }
    done: dict[Level, Timings] = {}
    for level in levels:
        candidates: dict[str, Candidate] = {
            order: functools.partial(runs[level], order) for order in ORDERS
        }
        for timings in interleave(candidates, seconds / len(levels), min_rounds=3):
            done = {**done, level: timings}
            yield OrderComparison(
                num_tokens,
                num_keys,
                head_dim,
                num_heads,
                number,
                done,
                difference.item(),
                choose_order("auto", mean_tokens(num_tokens, num_keys), head_dim, projected[0]),
                crossover(head_dim, projected[0]),
                Machine.here(projected[0]),
            )


def _layer_inputs(
    model: nn.Module, attention: SimAttention | SimAConvAttention, pixels: Tensor
) -> tuple[nn.Module, tuple[object, ...], list[Tensor]]:
    """The block around `attention`, what it is called with, and what its projections give.

    That is the fused projection's output, or q, k and v.
    """
    block = next(m for m in model.modules() if any(c is attention for c in m.children()))
    if isinstance(attention, SimAConvAttention):
        projections = [attention.proj_q, attention.proj_k, attention.proj_v]
    else:
        projections = [attention.qkv]
    seen: dict[str, Any] = {}
    projected: list[Tensor] = []
    handles = [
        block.register_forward_pre_hook(lambda module, args: seen.update(args=args)),
        *(
            p.register_forward_hook(lambda module, args, out: projected.append(out))
            for p in projections
        ),
    ]
    try:
        with torch.inference_mode():
            model(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return block, seen["args"], projected


def _with_order(
    layers: Sequence[SimAttention | SimAConvAttention], order: Order, run: Candidate
) -> object:
    before = [layer.order for layer in layers]
    try:
        for layer in layers:
            layer.order = order
        return run()
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.order = own
