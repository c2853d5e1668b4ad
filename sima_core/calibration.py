"""Measure once from how many tokens on K̂ᵀV first is faster here, and let ``auto`` follow it.

The rule N < head_dim counts multiplications; a machine also spends time on memory and on starting
each operation. The result is kept in the user's cache folder, by processor, threads and torch.
"""

import hashlib
import json
import math
import os
from pathlib import Path

import torch

from .attention import set_crossovers
from .latency import Machine, orders_over_tokens
from .runtime import cache_folder

#: Channels of a head to calibrate for, with as many heads as make up `WIDTH`.
HEAD_DIMS = (32, 48, 64, 128, 384)
WIDTH = 384
#: Tokens to measure at, relative to head_dim: the crossover lies between.
RELATIVE_TOKENS = (0.35, 0.6, 1.0, 1.6, 2.8)
#: Seconds for each point; there are 25.
POINT_SECONDS = 0.06


def calibrate() -> dict[int, float]:
    """Measure the crossovers on this machine in about two seconds: tokens by head_dim."""
    crossovers = {}
    for head_dim in HEAD_DIMS:
        sizes = [max(2, round(head_dim * factor)) for factor in RELATIVE_TOKENS]
        points = orders_over_tokens(sizes, WIDTH // head_dim, head_dim, POINT_SECONDS)
        ratios = {p.num_tokens: p.timings.ratio("qk_first", to="kv_first").median for p in points}
        crossovers[head_dim] = crossing(ratios)
    return crossovers


def crossing(ratios: dict[int, float]) -> float:
    """Where the ratio of qk_first to kv_first passes 1, by a straight line through the logarithms.

    Args:
        ratios: the ratio by number of tokens. A least-squares line forgives a point that noise
            has moved; the result stays within the sizes measured.
    """
    x = [math.log(n) for n in ratios]
    y = [math.log(r) for r in ratios.values()]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )
    if slope <= 0:  # nothing but noise: neither order is reliably better
        return math.exp(mean_x)
    return math.exp(min(max(mean_x - mean_y / slope, min(x)), max(x)))


def apply(folder: Path | None = None) -> dict[int, float]:
    """Let ``auto`` follow this machine, measuring it first if it never was; returns crossovers."""
    file = (folder or cache_folder()) / f"crossovers-{_machine_key()}.json"
    try:
        found = {int(k): float(v) for k, v in json.loads(file.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        found = calibrate()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(found), "utf-8")
            temporary.replace(file)
        except OSError:
            pass  # a read-only home: measure again next time
    set_crossovers(found)
    return found


def _machine_key() -> str:
    return hashlib.sha256(str(Machine.here(torch.empty(0))).encode()).hexdigest()[:16]
