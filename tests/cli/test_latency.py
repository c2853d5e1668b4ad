"""The ``latency`` command: a picture, a sweep, bad usage."""

import json
import math

import pytest
from PIL import Image

from tests.cli.support import run, run_here


def test_latency_of_a_picture(photo_file):
    done = run("latency", photo_file, "--seconds", 0.5, "--resolution", 64, "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["num_tokens"] == 24
    assert found["levels"]["attention"]["kv_first"]["times"]
    assert math.isfinite(found["levels"]["model"]["ratio"]["median"])
    assert found["machine"]["threads"] >= 1


def test_latency_in_bfloat16(photo_file):
    done = run_here(
        "latency", photo_file, "--seconds", 0.3, "--dtype", "bfloat16", "--json", "--resolution", 64
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["machine"]["dtype"] == "bfloat16"


def test_latency_in_words(photo_file):
    done = run_here("latency", photo_file, "--seconds", 0.5)
    assert done.returncode == 0
    assert "predicted by multiplications (N / head_dim): 9.19×" in done.stdout  # 14 · 21 / 32
    assert "intermediate: 1351 KiB (N²) against 16 KiB (d²)" in done.stdout  # 4 heads' float32
    assert "auto multiplies" in done.stdout


def test_sweep_as_table_and_plot(tmp_path):
    plot = tmp_path / "sweep.png"
    done = run("latency", "--sweep", "tokens", "--seconds", 0.03, "--device", "cpu", "--plot", plot)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2 + 6
    with Image.open(plot) as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 300


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name one picture, or --sweep, or --targets"),
        (["x.png", "--targets"], "name one picture, or --sweep, or --targets"),
        (["gone.png"], "no such file"),
        (["LICENSE"], "not a picture"),
        (["--sweep", "tokens", "--device", "abacus"], "no device 'abacus'"),
        (["LICENSE", "--device", "abacus"], "no device 'abacus'"),
        (["--sweep", "tokens", "--seconds", "0"], "from 0.001 to 3,600"),
        (["--sweep", "tokens", "--threads", "0"], "from 1 to 256"),
        (["LICENSE", "--plot", "x.png"], "--plot draws a sweep"),
        (["--sweep", "tokens", "--plot", "x.txt"], "must name a .png file"),
        (["--sweep", "tokens", "--plot", "gone/x.png"], "cannot be written"),
        (["--sweep", "dim", "--seconds", "inf"], "from 0.001 to 3,600"),
        (["--sweep", "dim", "--seconds", "nan"], "from 0.001 to 3,600"),
        (["--sweep", "dim", "--threads", "256"], "four for each processor"),
        (["--sweep", "dim", "--layer", "3"], "are about a picture"),
        (["--sweep", "dim", "--resolution", "64"], "are about a picture"),
        (["--targets", "--checkpoint", "x.pth"], "are about a picture"),
        (["--targets", "--seconds", "1"], "--targets takes none of"),
        (["--targets", "--json"], "--targets takes none of"),
    ],
)
def test_bad_usage(arguments, reason):
    done = run_here("latency", *arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_layer_that_does_not_exist(photo_file):
    done = run_here("latency", photo_file, "--layer", 13)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "from 1 to 12" in done.stderr
