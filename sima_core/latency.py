"""Measure attention side by side: candidates interleaved in random order, ratios round by round.

Times come as `torch.utils.benchmark.Measurement` (raw times kept; median, IQR, a warning of its own
when the spread is wide). A ratio is the median over rounds of two neighbouring times, so that a
slower moment of the machine falls on both.
"""

import functools
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.benchmark import Measurement, TaskSpec
from torch.utils.benchmark import timer as device_timer

from .attention import (
    NORM_FLOOR,
    Order,
    SimAttention,
    choose_order,
    crossover,
    mean_tokens,
    sima_attention,
    split_heads,
)
from .capture import CLASS_KINDS, KINDS, layer_numbers, sima_layers, token_grids
from .cvt import SimAConvAttention
from .runtime import available_memory, versions

#: A thing to time: called without arguments, its result is thrown away.
Candidate = Callable[[], object]

#: Seconds that one timed block should last at least; shorter ones drown in the clock's own noise.
BLOCK_SECONDS = 2e-3
#: The spread (IQR over median) from which a measurement is called unsteady.
WIDE_SPREAD = 0.1


@dataclass(frozen=True)
class Ratio:
    """How many times as long one candidate takes as another: median and quartiles over rounds."""

    median: float
    p25: float
    p75: float
    rounds: int


@dataclass(frozen=True)
class Timings:
    """Times of several candidates, taken in the same rounds."""

    measurements: Mapping[str, Measurement]

    def seconds(self, name: str) -> float:
        """The median time of one call."""
        return self.measurements[name].median

    def ratio(self, name: str, to: str) -> Ratio:
        """How many times as long `name` takes as `to`, round by round."""
        pairs = zip(self.measurements[name].times, self.measurements[to].times, strict=True)
        ratios = sorted(a / b for a, b in pairs)
        quartiles = (
            statistics.quantiles(ratios, n=4, method="inclusive")
            if len(ratios) > 1
            else (ratios * 3)
        )
        return Ratio(statistics.median(ratios), quartiles[0], quartiles[2], len(ratios))

    @property
    def unsteady(self) -> list[str]:
        """The candidates whose spread is wide; close other programs and measure again."""
        return [n for n, m in self.measurements.items() if m.iqr > WIDE_SPREAD * m.median]


def interleave(
    candidates: Mapping[str, Candidate], seconds: float, min_rounds: int = 5
) -> Iterator[Timings]:
    """Time `candidates` for about `seconds`, giving what is known after every round.

    Each round takes them in a fresh random order and makes one discarded call before each timed
    block, since neighbours leave each other warm or cold caches.
    """
    # Never on across a yield: the mode belongs to a thread, and a generator may change threads.
    with torch.inference_mode():
        calls = {name: _calls_per_block(run) for name, run in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    names = list(candidates)
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < end:
        random.shuffle(names)
        with torch.inference_mode():
            for name in names:
                run = candidates[name]
                run()
                start = device_timer()
                for _ in range(calls[name]):
                    run()
                times[name].append(device_timer() - start)
        rounds += 1
        yield Timings(
            {
                name: Measurement(
                    calls[name],
                    list(times[name]),
                    TaskSpec(name, "", label=name, num_threads=torch.get_num_threads()),
                )
                for name in candidates
            }
        )


def measure(candidates: Mapping[str, Candidate], seconds: float, min_rounds: int = 5) -> Timings:
    """`interleave` to its end; returns the last and fullest timings."""
    timings = None
    for timings in interleave(candidates, seconds, min_rounds):  # noqa: B007  # keep the last
        pass
    assert timings is not None
    return timings


def _calls_per_block(run: Candidate) -> int:
    """How often to call `run` in a block of `BLOCK_SECONDS`, from the quicker of two calls."""
    quickest = float("inf")
    for _ in range(2):
        start = device_timer()
        run()
        quickest = min(quickest, device_timer() - start)
        if quickest > BLOCK_SECONDS:
            return 1
    return max(1, round(BLOCK_SECONDS / max(quickest, 1e-7)))


# ---- Reference formulations: what SimA is measured against --------------------------------------


def published_sima(qkv: Tensor, num_heads: int, order: Order) -> Tensor:
    """SimA as published: normalise Q and K, then multiply. (B, N, 3·C) to (B, N, C)."""
    q, k, v = split_heads(qkv, num_heads)
    q, k = (F.normalize(t, p=1.0, dim=-2, eps=NORM_FLOOR) for t in (q, k))
    x: Tensor
    if choose_order(order, q.shape[-2], q.shape[-1], qkv) == "qk_first":
        x = (q @ k.transpose(-2, -1)) @ v
    else:
        x = q @ (k.transpose(-2, -1) @ v)
    return x.transpose(1, 2).flatten(2)


def softmax_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """softmax(QKᵀ/√d)V, written out (MSA): (B, N, 3·C) to (B, N, C)."""
    q, k, v = split_heads(qkv, num_heads)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    x: Tensor = (weights @ v).transpose(1, 2).flatten(2)
    return x


def fused_softmax_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """The same by `scaled_dot_product_attention`, torch's fastest: (B, N, 3·C) to (B, N, C)."""
    q, k, v = split_heads(qkv, num_heads)
    x: Tensor = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return x


def cross_covariance_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """XCA: attention between channels, softmax over d × d. (B, N, 3·C) to (B, N, C).

    Source: El-Nouby et al. 2021, arXiv 2106.09681, section 3.2 (temperature 1).
    """
    q, k, v = split_heads(qkv, num_heads)
    q, k = F.normalize(q, dim=-2), F.normalize(k, dim=-2)
    weights = (k.transpose(-2, -1) @ q).softmax(dim=-2)
    x: Tensor = (v @ weights).transpose(1, 2).flatten(2)
    return x


# ---- One picture: both orders on its real Q, K and V --------------------------------------------


@dataclass(frozen=True)
class Machine:
    """Where something was measured; times mean nothing without it."""

    processor: str
    threads: int
    device: str
    dtype: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls, like: Tensor) -> "Machine":
        """This machine, computing with the device and type of `like`."""
        name = like.device.type
        if name == "cuda":
            name = torch.cuda.get_device_name(like.device)
        return cls(
            _processor_name(), torch.get_num_threads(), name, str(like.dtype)[6:], versions()
        )

    def __str__(self) -> str:
        on = self.processor if self.device == "cpu" else self.device
        return (
            f"{on}, {self.threads} threads, {self.dtype}, torch {self.versions['torch']}, "
            f"SimA Lens {self.versions['sima_lens']}"
        )


@functools.cache
def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


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


def measurement_dict(measurement: Measurement) -> dict[str, object]:
    """Median, quartile range and raw times of one call, in seconds."""
    return {
        "median": measurement.median,
        "iqr": measurement.iqr,
        "times": measurement.times,
        "threads": measurement.num_threads,
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


# ---- Whole models, whatever their attention -----------------------------------------------------


@dataclass(frozen=True)
class ModelTime:
    """How long a model takes over a picture, and its attention layers within that; seconds."""

    forward: Measurement
    attention: Measurement

    def as_dict(self) -> dict[str, object]:
        """Plain numbers for JSON, in seconds."""
        return {
            "forward": measurement_dict(self.forward),
            "attention": measurement_dict(self.attention),
        }

    def __str__(self) -> str:
        forward, attention = (1e3 * m.median for m in (self.forward, self.attention))
        return f"forward {forward:.1f} ms, attention {attention:.1f} ms"


#: Seconds of a forward pass from which on cold caches do not matter and three rounds are enough.
SLOW_PASS = 1.0


def time_models(
    models: Sequence[nn.Module], pixels: Sequence[Tensor], seconds: float = 3.0
) -> list[ModelTime]:
    """Time the models side by side, warmed up, in rounds of random order.

    At least five rounds, or three once a model takes `SLOW_PASS`; that one is warmed up only once.

    Args:
        pixels: the input of each.
    """
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in models]
    order = list(range(len(models)))
    slow: set[int] = set()
    end = time.perf_counter() + seconds
    with ExitStack() as stack, torch.inference_mode():
        clocks = [stack.enter_context(_attention_clock(model)) for model in models]
        while len(times[0][0]) < (3 if slow else 5) or time.perf_counter() < end:
            random.shuffle(order)
            for i in order:
                if i not in slow:
                    models[i](pixels[i])  # neighbours leave each other cold caches
                before, start = clocks[i](), device_timer()
                models[i](pixels[i])
                times[i][0].append(device_timer() - start)
                times[i][1].append(clocks[i]() - before)
                if times[i][0][-1] >= SLOW_PASS:
                    slow.add(i)
    return [ModelTime(_measured(forward), _measured(attention)) for forward, attention in times]


def _measured(times: list[float]) -> Measurement:
    return Measurement(1, times, TaskSpec("", "", num_threads=torch.get_num_threads()))


@contextmanager
def _attention_clock(model: nn.Module) -> Iterator[Callable[[], float]]:
    """A clock that runs while the model's attention layers do, projections included; seconds."""
    total = start = 0.0

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal start
        start = device_timer()

    def finish(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        nonlocal total
        total += device_timer() - start

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (*KINDS, *CLASS_KINDS)):
                stack.callback(module.register_forward_pre_hook(begin).remove)
                stack.callback(module.register_forward_hook(finish).remove)
        yield lambda: total


# ---- Sweeps: the paper's figures 1 and A1 -------------------------------------------------------


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
        ValueError: unknown sweep, or sizes, a device or a type that this machine lacks.
    """
    if over not in SWEEP_SIZES:
        raise ValueError(f"sweep must be one of {', '.join(SWEEP_SIZES)}; got {over!r}")
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


#: Number types to sweep in, by name.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def require_device(device: str) -> None:
    """Refuse a device that this machine lacks.

    Raises:
        ValueError: it is not there; the message names what is.
    """
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device not in there:
        raise ValueError(f"this machine has no device {device!r}: choose {' or '.join(there)}")


def quartiles(measurement: Measurement) -> tuple[float, float]:
    """The first and third quartile of the time of one call, in seconds."""
    low, high = torch.tensor(measurement.times).quantile(torch.tensor([0.25, 0.75])).tolist()
    return low, high


def plot_sweep(results: Mapping[str, Sequence[SweepPoint]], over: str, file: Path) -> None:
    """Draw a sweep as a PNG: one panel a device, median and quartiles, both axes logarithmic.

    Raises:
        ValueError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(7 * len(results), 5), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for panel, (device, points) in zip(panels, results.items(), strict=True):
        sizes = [p.num_tokens if over == "tokens" else p.head_dim for p in points]
        for name in points[0].timings.measurements:
            fixed = not name.endswith(("fused", "auto"))
            times = [p.timings.measurements[name] for p in points]
            mid = [1e3 * m.median for m in times]
            low, high = zip(*([1e3 * q for q in quartiles(m)] for m in times), strict=True)
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
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        raise ValueError(f"the plot cannot be written: {error.strerror or error}") from None


def require_memory(num_bytes: int) -> None:
    """Refuse work that would not fit into this machine's memory.

    Raises:
        ValueError: more than half of the memory that is free now is needed.
    """
    free = available_memory()
    if num_bytes > free / 2:
        raise ValueError(
            f"this needs about {num_bytes / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB "
            "are free: choose a lower resolution or fewer tokens"
        )
