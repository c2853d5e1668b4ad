"""Ranks, and how far two orders of the same things agree."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sima_core.errors import InputError


def mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """The rank of each value, from 1; those that tie share the mean of their places: (n,)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (counts.cumsum() - (counts - 1) / 2)[inverse.ravel()]
    return ranks


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """How far two maps put the same tokens first: −1 to 1, ties averaged.

    Its square is the share of the one's ranks, as variance, that the other's explain. 0 where all
    values of either tie, and no order is there to agree with.

    Raises:
        InputError: they are of different shapes.

    Source: Spearman 1904, "The proof and measurement of association between two things".
    """
    if np.shape(one) != np.shape(other):
        raise InputError(f"maps of {np.shape(one)} and {np.shape(other)} cannot be compared")
    a, b = (ranks - ranks.mean() for ranks in (mean_ranks(one), mean_ranks(other)))
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / length, -1, 1)) if length else 0.0
