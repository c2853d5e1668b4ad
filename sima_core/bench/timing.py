"""Measure attention side by side: candidates interleaved in random order, ratios round by round.

Times come as `torch.utils.benchmark.Measurement` (raw times kept; median, IQR, a warning of its own
when the spread is wide). A ratio is the median over rounds of two neighbouring times, so that a
slower moment of the machine falls on both.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.benchmark import Measurement, TaskSpec
from torch.utils.benchmark import timer as device_timer

from sima_core.time_limit import check_time

#: A thing to time: called without arguments, its result is thrown away.
Candidate = Callable[[], object]
#: Tells seconds; only differences count.
Clock = Callable[[], float]

#: Seconds that one timed block should last at least; shorter ones drown in the clock's own noise.
BLOCK_SECONDS = 2e-3
#: The spread (IQR over median) from which a measurement is called unsteady.
WIDE_SPREAD = 0.1
#: Seconds of a call from which on so few rounds are enough.
SLOW_CALL, SLOW_ROUNDS = 1.0, 3


@dataclass(frozen=True)
class Ratio:
    """How many times as long one candidate takes as another: median and quartiles over rounds."""

    median: float
    p25: float
    p75: float
    rounds: int


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and third quartile, interpolated linearly between neighbours."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


@dataclass(frozen=True)
class Timings:
    """Times of several candidates, taken in the same rounds."""

    measurements: Mapping[str, Measurement]
    #: What `interleave`'s own clocks counted of the same calls, for the candidates that have one.
    within: Mapping[str, Measurement] = field(default_factory=dict)

    def seconds(self, name: str) -> float:
        """The median time of one call."""
        return self.measurements[name].median

    def ratio(self, name: str, to: str) -> Ratio:
        """How many times as long `name` takes as `to`, round by round."""
        pairs = zip(self.measurements[name].times, self.measurements[to].times, strict=True)
        ratios = [a / b for a, b in pairs]
        return Ratio(statistics.median(ratios), *quartiles(ratios), len(ratios))

    @property
    def unsteady(self) -> list[str]:
        """The candidates whose spread is wide; close other programs and measure again."""
        return [n for n, m in self.measurements.items() if m.iqr > WIDE_SPREAD * m.median]


def interleave(
    candidates: Mapping[str, Candidate],
    seconds: float,
    min_rounds: int = 5,
    clocks: Mapping[str, Clock] | None = None,
) -> Iterator[Timings]:
    """Time `candidates` for about `seconds`, giving what is known after every round.

    Each round takes them in a fresh random order and makes one discarded call before each timed
    block, since neighbours leave each other warm or cold caches. Where a call takes `SLOW_CALL`,
    caches do not matter: it is not warmed up again, and `SLOW_ROUNDS` are enough.

    Args:
        clocks: by candidate, a clock that runs during a part of it only; see `Timings.within`.

    Raises:
        OutOfTimeError: where there is a `time_limit`.
    """
    clocks = clocks or {}
    calls: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    within: dict[str, list[float]] = {name: [] for name in clocks}
    end = time.perf_counter() + seconds
    names = list(candidates)
    slow: set[str] = set()
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < end:
        random.shuffle(names)
        # Never on across a yield: the mode belongs to a thread, and a generator may change threads.
        with torch.inference_mode():
            for name in names:
                check_time()
                run, clock = candidates[name], clocks.get(name)
                if name not in calls:
                    calls[name] = _calls_per_block(run)  # which warms it up
                elif name not in slow:
                    run()
                before = clock() if clock else 0.0
                start = device_timer()
                for _ in range(calls[name]):
                    run()
                times[name].append(device_timer() - start)
                if clock:
                    within[name].append(clock() - before)
                if times[name][-1] >= SLOW_CALL * calls[name]:
                    slow.add(name)
                    min_rounds = min(min_rounds, SLOW_ROUNDS)
        rounds += 1
        yield Timings(
            {name: _measurement(name, calls[name], times[name]) for name in candidates},
            {name: _measurement(name, calls[name], within[name]) for name in clocks},
        )


def _measurement(name: str, calls: int, times: Sequence[float]) -> Measurement:
    about = TaskSpec(name, "", label=name, num_threads=torch.get_num_threads())
    return Measurement(calls, list(times), about)


def measure(
    candidates: Mapping[str, Candidate],
    seconds: float,
    min_rounds: int = 5,
    clocks: Mapping[str, Clock] | None = None,
) -> Timings:
    """`interleave` to its end; returns the last and fullest timings."""
    timings = None
    for timings in interleave(candidates, seconds, min_rounds, clocks):  # noqa: B007  # keep the last
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


def measurement_dict(measurement: Measurement) -> dict[str, object]:
    """Median, quartile range and raw times of one call, in seconds."""
    return {
        "median": measurement.median,
        "iqr": measurement.iqr,
        "times": measurement.times,
        "threads": measurement.num_threads,
    }
