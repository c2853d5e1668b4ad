"""Programs that share a cache folder, and a program whose home cannot be written."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import ROOT, mounted


def start(*arguments: object, cache: Path) -> subprocess.Popen[str]:
    """The program, with a cache folder of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "sima_core", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_programs_that_begin_with_one_empty_cache_do_not_disturb_each_other(photo_file, tmp_path):
    """Both compile the kernel and measure the crossovers, and both leave them whole."""
    cache = tmp_path / "cache"
    both = [start("latency", photo_file, "--seconds", "0.2", cache=cache) for _ in range(2)]
    for program in both:
        out, err = program.communicate(timeout=120)
        assert program.returncode == 0, err
        assert "auto" in out
    kept = sorted(path.name for path in (cache / "sima-lens").rglob("*") if path.is_file())
    assert len(kept) == 1 + bool(shutil.which("cc") or shutil.which("gcc")), kept


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk that cannot be written, where one may be mounted."""
    with mounted(tmp_path / "disk", "ro,size=1m") as closed:
        if not closed:
            pytest.skip("no disk may be mounted here")
        yield tmp_path / "disk"


def test_a_home_that_cannot_be_written_is_done_without(read_only, photo_file, tmp_path):
    found = []
    for name, cache in (("without", read_only), ("with", tmp_path / "cache")):
        arguments = ("heatmap", photo_file, "--out", tmp_path / name, "--resolution", "64")
        program = start(*arguments, cache=cache)
        _, err = program.communicate(timeout=120)
        assert program.returncode == 0, err
        assert "Traceback" not in err
        found.append(np.load(tmp_path / name / f"{photo_file.stem}.npz")["query_norm"])
    assert not list(read_only.iterdir())
    np.testing.assert_allclose(*found, rtol=1e-5)
