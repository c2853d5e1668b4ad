"""``auto`` follows the crossover that was measured here."""

import json
import os

import pytest
import torch
from torch.utils.benchmark import Measurement, TaskSpec

from sima_core.attention.operation import (
    choose_order,
    set_crossovers,
)
from sima_core.bench import calibration
from sima_core.bench.orders import ORDERS
from sima_core.bench.sweeps import SweepPoint
from sima_core.bench.timing import Timings


def test_auto_follows_the_measured_crossover():
    set_crossovers({32: 20.0, 64: 128.0})
    assert choose_order("auto", 19, 32) == "qk_first"
    assert choose_order("auto", 20, 32) == "kv_first"
    assert choose_order("auto", 127, 64) == "qk_first"
    assert choose_order("auto", 31, 48) == "kv_first"  # the nearest is 32: 48 · 20 / 32 = 30
    assert choose_order("rule", 31, 32) == "qk_first"
    # What was measured is float32 on the processor; elsewhere the rule holds.
    assert choose_order("auto", 20, 32, torch.empty(0)) == "kv_first"
    assert choose_order("auto", 20, 32, torch.empty(0, dtype=torch.bfloat16)) == "qk_first"
    assert choose_order("auto", 20, 32, torch.empty(0, device="meta")) == "qk_first"
    set_crossovers({})
    assert choose_order("auto", 31, 32) == "qk_first"


def test_crossing():
    ratios = {n: n / 40 for n in (10, 20, 39, 42, 80)}
    assert 39 < calibration.crossing(ratios) < 42
    assert 39 < calibration.crossing({**ratios, 10: 1.05}) < 42  # one noisy point
    assert calibration.crossing({n: n / 4 for n in (10, 20)}) == 10  # kv_first from the start
    assert calibration.crossing({n: n / 4000 for n in (10, 20)}) == 40  # never, as far as seen


def test_calibration_is_of_layers_of_one_width(monkeypatch):
    def points(sizes, num_heads, head_dim, seconds):
        assert num_heads * head_dim == calibration.WIDTH
        assert seconds == calibration.POINT_SECONDS
        # On this machine qk_first is twice as slow from 50 tokens on, whatever the head.
        times = {n: ([2.0, 2.2], [1.0, 9.0]) if n >= 50 else ([1.0], [2.0]) for n in sizes}
        for n, both in times.items():
            timed = {
                order: Measurement(1, seconds, TaskSpec(order, ""))
                for order, seconds in zip(ORDERS, both, strict=True)
            }
            yield SweepPoint(n, head_dim, num_heads, Timings(timed))

    monkeypatch.setattr(calibration, "orders_over_tokens", points)
    found = calibration.calibrate()
    assert list(found) == list(calibration.HEAD_DIMS)
    assert all(20 < tokens < 70 for tokens in found.values())


def test_calibration_is_kept(tmp_path, monkeypatch):
    measured = calibration.apply(tmp_path)
    assert measured.keys() == set(calibration.HEAD_DIMS)
    monkeypatch.setattr(calibration, "calibrate", None)  # would fail if it were called again
    assert calibration.apply(tmp_path) == measured


@pytest.mark.parametrize(
    "damaged",
    [
        "{", "", "null", "[]", "5", '{"32": null}', '{"32": "x"}', '{"x": 30}',
        '{"32": 30}', "[" * 99_999,
        *({**dict.fromkeys(map(str, calibration.HEAD_DIMS), 30), "32": wrong} for wrong in (
            None, 0, -1, float("nan"), float("inf"), 10**400, [], {}, 10**9)),
        {**dict.fromkeys(map(str, calibration.HEAD_DIMS), 30), "5": 30},
    ],
)  # fmt: skip
def test_a_damaged_calibration_is_measured_anew(tmp_path, monkeypatch, damaged):
    good = dict.fromkeys(calibration.HEAD_DIMS, 30.0)
    monkeypatch.setattr(calibration, "calibrate", lambda: good)
    calibration.apply(tmp_path)
    [file] = tmp_path.iterdir()
    file.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
    assert calibration.apply(tmp_path) == good
    monkeypatch.setattr(calibration, "calibrate", None)  # would fail if it were called again
    assert calibration.apply(tmp_path) == good


def test_a_calibration_is_applied_when_it_is_measured_and_when_it_is_found(tmp_path, monkeypatch):
    """`auto` follows it: multiplied is in the order that was quicker here, not by the rule."""
    monkeypatch.setattr(calibration, "calibrate", lambda: dict.fromkeys(calibration.HEAD_DIMS, 7.0))
    for _ in ("measured", "found"):
        set_crossovers({})
        assert choose_order("auto", 8, 32) == "qk_first"
        calibration.apply(tmp_path)
        assert choose_order("auto", 8, 32) == "kv_first"
        assert choose_order("auto", 6, 384) == "qk_first"


@pytest.mark.parametrize("home", ["a file", "a pipe in place of what is kept"])
def test_where_nothing_can_be_kept_it_is_measured_each_time(tmp_path, monkeypatch, home):
    good = dict.fromkeys(calibration.HEAD_DIMS, 30.0)
    monkeypatch.setattr(calibration, "calibrate", lambda: good)
    folder = tmp_path / "cache"
    if home == "a file":
        folder.write_text("")
    else:
        calibration.apply(folder)
        [file] = folder.iterdir()
        file.unlink()
        os.mkfifo(file)
    assert calibration.apply(folder) == good
