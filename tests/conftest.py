"""Fixtures shared by the tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sima_core

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))  # for `weights`, the builder of the reference checkpoints


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest deviation over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="session")
def model() -> torch.nn.Module:
    """The bundled trained model; tests leave it as they found it."""
    return sima_core.load_model()


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A picture with structure at several scales, made here: 96 × 64, a bright disc on a ramp."""
    y, x = np.mgrid[:64, :96]
    disc = ((x - 60) ** 2 + (y - 30) ** 2 < 15**2) * 120
    channels = [(x * 2 + disc), (y * 3 + disc // 2), ((x + y) % 64 * 2)]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


@pytest.fixture
def photo_file(photo: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    photo.save(path)
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for tests of many tiny models: on a busy machine two wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
