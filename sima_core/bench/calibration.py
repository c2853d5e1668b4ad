"""Measure once from how many tokens on K̂ᵀV first is faster here, and let ``auto`` follow it.

The rule N < head_dim counts multiplications; a machine also spends time on memory and on starting
each operation. The result is kept in the user's cache folder, by processor, threads and torch.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import torch

from sima_core.attention import kernel
from sima_core.attention.operation import set_crossovers
from sima_core.bench.crossover import crossing
from sima_core.bench.orders import ORDERS
from sima_core.bench.sweeps import orders_over_tokens
from sima_core.bench.timing import Timings
from sima_core.files import cache_folder, open_regular, write_text
from sima_core.machine import Machine

# To be raised whenever the operation or this measurement changes: older results are not used then.
_FORMAT = 5
#: Channels of a head to calibrate for, with as many heads as make up `WIDTH`.
HEAD_DIMS = (32, 48, 64, 128, 384)
WIDTH = 384
#: Tokens to measure at, relative to head_dim; the crossover lies between or outside.
RELATIVE_TOKENS = (0.04, 0.09, 0.18, 0.35, 0.7, 1.0, 1.4, 2.8)
#: Seconds for each of these points.
POINT_SECONDS = 0.12

#: Of what is kept: bytes of the largest file, and tokens that no crossover reaches.
_MAX_BYTES, _MAX_TOKENS = 10_000, 1_000_000


def calibrate() -> dict[int, float]:
    """Measure the crossovers on this machine in about five seconds: tokens by head_dim."""
    crossovers = {}
    for head_dim in HEAD_DIMS:
        sizes = sorted({max(2, round(head_dim * factor)) for factor in RELATIVE_TOKENS})
        points = orders_over_tokens(sizes, WIDTH // head_dim, head_dim, POINT_SECONDS)
        ratios = {point.num_tokens: _quickest_ratio(point.timings) for point in points}
        crossovers[head_dim] = crossing(ratios)
    return crossovers


def _quickest_ratio(timings: Timings) -> float:
    """The ratio of the quickest times: on a busy machine other programs only ever add to them."""
    qk_first, kv_first = (min(timings.measurements[order].times) for order in ORDERS)
    return qk_first / kv_first


def apply(folder: Path | None = None) -> dict[int, float]:
    """Let ``auto`` follow this machine, measuring it first if it never was; returns crossovers."""
    file = (folder or cache_folder()) / f"crossovers-{_machine_key()}.json"
    found = _kept(file)
    if found is None:
        found = calibrate()
        with suppress(OSError):  # a read-only home: measure again next time
            file.unlink(missing_ok=True)  # a pipe in its place would wait for a reader
            write_text(file, json.dumps(found))
    set_crossovers(found)
    return found


def _kept(file: Path) -> dict[int, float] | None:
    """What was measured before; None if that is absent or damaged."""
    try:
        with open_regular(file) as source:
            read = json.loads(source.read(_MAX_BYTES))
        found = {int(head_dim): float(tokens) for head_dim, tokens in read.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    whole = found.keys() == set(HEAD_DIMS)
    return found if whole and all(0 < tokens < _MAX_TOKENS for tokens in found.values()) else None


def _machine_key() -> str:
    measured = (_FORMAT, kernel.available(), str(Machine.here(torch.empty(0))))
    return hashlib.sha256(repr(measured).encode()).hexdigest()[:16]
