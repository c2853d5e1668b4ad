"""Fixtures for fetching COCO: a server, what it has, and a disk that is soon full."""

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sima_core.coco import annotations, http
from tests.support import mounted

from .support import ARCHIVE, BLOCK, SPLIT, Server, archive, jpeg, listing, name_of


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def bucket(server: Server) -> Server:
    """The server with six pictures and, in the archive, their list and two large other members."""
    for i in range(1, 7):
        server.files[f"/{SPLIT}/{name_of(i)}"] = jpeg(32, 24, seed=i)
    noise = np.random.default_rng(2).bytes(2_000_000)
    server.files[ARCHIVE] = archive(
        {
            "instances_train2017.json": noise,
            f"instances_{SPLIT}.json": listing([6, 3, 1, 2, 4, 5]),
            "captions_val2017.json": noise,
        }
    )
    return server


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(http, "MAX_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(annotations, "BLOCK_BYTES", BLOCK)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes no file above 200 kB: a disk of that size, or else a limit on files."""
    folder = tmp_path / "disk"
    with mounted(folder, "size=200k") as small:
        if small:
            yield folder
            return
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        yield folder
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
