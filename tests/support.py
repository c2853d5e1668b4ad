"""What tests of several rooms share; fixtures are in conftest.py."""

from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent
ROOT = TESTS.parent
#: Results of the published implementation.
GOLDEN = TESTS / "golden"


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest deviation over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
