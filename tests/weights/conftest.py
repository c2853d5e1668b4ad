"""Fixtures of the tests of weights."""

import json

import pytest

from tests.golden import weights
from tests.support import GOLDEN

SPEC = json.loads((GOLDEN / "sima_nano_12_p16.keys.json").read_text())


@pytest.fixture
def published() -> dict:
    return weights.checkpoint(SPEC)
