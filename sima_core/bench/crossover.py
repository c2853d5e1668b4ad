"""From how many tokens on Q̂(K̂ᵀV) is faster: one definition, for calibration and for charts."""

import itertools
import math
from collections.abc import Mapping


def crossing(ratios: Mapping[int, float]) -> float:
    """The number of tokens from which on kv_first is the better choice.

    Of all thresholds between the measured sizes, below the smallest and above the largest, the one
    that costs least in all, so that one noisy point moves it little. Between two sizes it lies
    where the line between their ratios, both axes logarithmic, meets 1.

    Args:
        ratios: the time of qk_first over that of kv_first, by number of tokens.

    Returns:
        The smallest size where kv_first is better from the start, twice the largest where never.
    """
    sizes = sorted(ratios)
    logs = {n: math.log(ratios[n]) for n in sizes}
    between = [_meeting(a, b, logs[a], logs[b]) for a, b in itertools.pairwise(sizes)]
    thresholds = [float(sizes[0]), *between, 2.0 * sizes[-1]]

    def lost(threshold: float) -> float:
        return sum(max(0.0, log if n < threshold else -log) for n, log in logs.items())

    return min(thresholds, key=lost)


def crossing_between(ratios: Mapping[int, float]) -> float | None:
    """`crossing`; None where it does not lie between two of the measured sizes."""
    found = crossing(ratios)
    return found if min(ratios) < found < max(ratios) else None


def _meeting(a: int, b: int, log_a: float, log_b: float) -> float:
    """Where the ratio becomes 1 between two sizes; in their middle if it does not."""
    share = -log_a / (log_b - log_a) if log_a < 0 < log_b else 0.5
    return math.exp(math.log(a) + share * (math.log(b) - math.log(a)))
