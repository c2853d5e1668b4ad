"""SimA against softmax attention and XCA over sizes: the paper's figures 1 and A1."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sima_core.attention.operation import sima_attention
from sima_core.bench.orders import ORDERS
from sima_core.bench.references import (
    cross_covariance_attention,
    fused_softmax_attention,
    published_sima,
    softmax_attention,
)
from sima_core.bench.timing import Candidate, Timings, measure, measurement_dict, quartiles
from sima_core.errors import InputError
from sima_core.figures import new_figure, save_png
from sima_core.files import writing
from sima_core.machine import require_memory

#: Number types to sweep in, by name.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def require_device(device: str) -> None:
    """Refuse a device that this machine lacks.

    Raises:
        InputError: it is not there; the message names what is.
    """
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device not in there:
        raise InputError(f"this machine has no device {device!r}: choose {' or '.join(there)}")


@dataclass(frozen=True)
class SweepPoint:
    """Times of every candidate at one size."""

    num_tokens: int
    head_dim: int
    num_heads: int
    timings: Timings

    def as_dict(self) -> dict[str, object]:
        """Plain numbers for JSON, times in seconds."""
        return {
            "num_tokens": self.num_tokens,
            "head_dim": self.head_dim,
            "num_heads": self.num_heads,
            "times": {n: measurement_dict(m) for n, m in self.timings.measurements.items()},
        }


#: Fixed-order pairs differ only in softmax and normalisation; the others are free to choose.
SWEEP_CANDIDATES: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "MSA softmax(QKᵀ)V": softmax_attention,
    "SimA (Q̂K̂ᵀ)V": lambda qkv, heads: published_sima(qkv, heads, "qk_first"),
    "XCA V·softmax(KᵀQ)": cross_covariance_attention,
    "SimA Q̂(K̂ᵀV)": lambda qkv, heads: published_sima(qkv, heads, "kv_first"),
    "MSA fused": fused_softmax_attention,
    "SimA auto": lambda qkv, heads: sima_attention(qkv, heads, "auto"),
}
SWEEP_SIZES: Mapping[str, Sequence[int]] = {
    "tokens": (16, 49, 196, 576, 1024, 2304),
    "dim": (16, 32, 64, 128, 256, 512),
}


def sweep(
    over: str,
    seconds: float = 2.0,
    num_tokens: int = 196,
    head_dim: int = 48,
    num_heads: int = 8,
    sizes: Sequence[int] | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[SweepPoint]:
    """Time SimA against softmax attention and XCA over tokens or channels, point by point.

    Args:
        over: ``tokens`` (figure 1) or ``dim`` (figure A1: channels of a head).
        seconds: time budget of one point.

    Raises:
        InputError: unknown sweep, or sizes, a device or a type that this machine lacks.
    """
    if over not in SWEEP_SIZES:
        raise InputError(f"sweep must be one of {', '.join(SWEEP_SIZES)}; got {over!r}")
    for size in sizes or SWEEP_SIZES[over]:
        tokens, channels = (size, head_dim) if over == "tokens" else (num_tokens, size)
        require_memory(4 * 3 * num_heads * tokens**2)
        qkv = torch.randn(1, tokens, 3 * num_heads * channels, device=device, dtype=dtype)
        candidates = {
            name: functools.partial(run, qkv, num_heads) for name, run in SWEEP_CANDIDATES.items()
        }
        yield SweepPoint(tokens, channels, num_heads, measure(candidates, seconds))


def orders_over_tokens(
    sizes: Sequence[int], num_heads: int, head_dim: int, seconds: float = 0.5
) -> Iterator[SweepPoint]:
    """Time both orders of SimA over the number of tokens, point by point."""
    for num_tokens in sizes:
        qkv = torch.randn(1, num_tokens, 3 * num_heads * head_dim)
        candidates: dict[str, Candidate] = {
            order: functools.partial(sima_attention, qkv, num_heads, order) for order in ORDERS
        }
        timings = measure(candidates, seconds, min_rounds=3)
        yield SweepPoint(num_tokens, head_dim, num_heads, timings)


def plot_sweep(results: Mapping[str, Sequence[SweepPoint]], over: str, file: Path) -> None:
    """Draw a sweep as a PNG: one panel a device, median and quartiles, both axes logarithmic.

    Raises:
        DiskError: the file cannot be written.
    """
    figure = new_figure(7 * len(results), 5)
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for panel, (device, points) in zip(panels, results.items(), strict=True):
        sizes = [p.num_tokens if over == "tokens" else p.head_dim for p in points]
        for name in points[0].timings.measurements:
            fixed = not name.endswith(("fused", "auto"))
            times = [p.timings.measurements[name] for p in points]
            mid = [1e3 * m.median for m in times]
            low, high = zip(*([1e3 * q for q in quartiles(m.times)] for m in times), strict=True)
            [line] = panel.plot(sizes, mid, "o--" if fixed else "o-", label=name)
            panel.fill_between(sizes, low, high, color=line.get_color(), alpha=0.15)
        first = points[0]
        held = f"head_dim {first.head_dim}" if over == "tokens" else f"{first.num_tokens} tokens"
        panel.set(
            xscale="log",
            yscale="log",
            xlabel="tokens N" if over == "tokens" else "channels of a head d",
            ylabel="milliseconds",
            title=f"{device}: {held}, {first.num_heads} heads, batch 1",
        )
        panel.set_xticks(sizes, map(str, sizes))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    with writing("the plot"):
        save_png(figure, file, dpi=150)
