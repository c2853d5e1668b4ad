"""What tests of several rooms share; fixtures are in conftest.py."""

import asyncio
import contextlib
import subprocess
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from sima_core import Lens

T = TypeVar("T")

TESTS = Path(__file__).parent
ROOT = TESTS.parent
#: Results of the published implementation.
GOLDEN = TESTS / "golden"


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """The modules of the lens's layers."""
    return [layer.module(model) for layer in Lens(model).layers]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest deviation over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives; in a thread of its own, since Playwright's loop runs in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """Have a disk of its own in `folder`, which is made; gives whether one may be mounted here.

    Args:
        options: of a tmpfs, such as ``size=8m``.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", str(folder)], check=True)
