"""Both orders on one picture, and sweeps over sizes."""

import json

import pytest
import torch

from sima_core import load_model
from sima_core.attention import operation as attention
from sima_core.attention.modules import SimAttention
from sima_core.bench.orders import compare_orders
from sima_core.bench.sweeps import require_device, sweep
from sima_core.machine import require_memory


def test_compare_orders(model):
    pixels = torch.randn(1, 3, 64, 64)
    orders = [m.order for m in model.modules() if isinstance(m, SimAttention)]
    *_, found = compare_orders(model, pixels, layer=-1, seconds=0.3)
    assert (found.num_tokens, found.head_dim, found.num_heads, found.layer) == (16, 32, 4, 12)
    assert found.predicted_ratio == 0.5
    assert found.intermediate_bytes("qk_first") == 4 * 4 * 16**2
    assert found.intermediate_bytes("kv_first") == 4 * 4 * 32**2
    assert found.relative_difference < 1e-5
    assert list(found.levels) == ["attention", "block", "model"]
    assert ("auto multiplies Q̂K̂ᵀ first" in found.reason) == (found.chosen == "qk_first")
    assert orders == [m.order for m in model.modules() if isinstance(m, SimAttention)]
    json.dumps(found.as_dict())


def test_each_kind_of_layer_is_timed_as_it_multiplies(monkeypatch):
    plain = load_model("plain_deit_nano_patch16_224").double()
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    monkeypatch.setattr(attention, "sima_attention", None)  # would fail if it were called
    *_, found = compare_orders(plain, pixels, seconds=0.1, levels=["attention"])
    assert found.relative_difference < 1e-12
    assert found.intermediate_bytes("qk_first") == 8 * found.num_heads * found.num_tokens**2


def test_pictures_of_other_sides_than_the_patchs_multiples_are_refused(model):
    with pytest.raises(ValueError, match="multiples of the patch"):
        next(compare_orders(model, torch.randn(1, 3, 64, 72)))


def test_sweeps():
    [point] = sweep("dim", seconds=0.01, sizes=[8], num_tokens=20)
    assert (point.num_tokens, point.head_dim) == (20, 8)
    assert len(point.timings.measurements) == 6
    with pytest.raises(ValueError, match="sweep must be one of"):
        next(sweep("heads"))


def test_a_device_that_is_not_there_is_refused():
    require_device("cpu")
    with pytest.raises(ValueError, match="no device 'abacus': choose cpu"):
        require_device("abacus")


def test_memory_is_checked_before_any_work():
    require_memory(1)
    with pytest.raises(ValueError, match="choose a lower resolution"):
        require_memory(10**15)


def test_pictures_that_do_not_fit_are_refused_before_any_work(model, monkeypatch):
    monkeypatch.setattr("sima_core.machine.available_memory", lambda: 10**6)
    monkeypatch.setattr(model, "forward", None)  # would fail if it were called
    with pytest.raises(ValueError, match="choose a lower resolution"):
        next(compare_orders(model, torch.randn(1, 3, 224, 224)))
