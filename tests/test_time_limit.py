"""A limit of time ends what computes for long, and nothing else."""

import time
from types import SimpleNamespace

import pytest
import torch

from sima_core import Lens
from sima_core import time_limit as time_limit_module
from sima_core.bench.timing import interleave
from sima_core.scoring.faithfulness import curves
from sima_core.time_limit import OutOfTimeError, check_time, is_limited, time_limit


def test_without_a_limit_there_is_always_time() -> None:
    assert not is_limited()
    check_time()


def test_the_limit_holds_inside_the_block_alone() -> None:
    with time_limit(time.monotonic() - 1):
        assert is_limited()
        with pytest.raises(OutOfTimeError, match="lower resolution"):
            check_time()
    check_time()


def test_a_model_that_is_looked_through_stops_and_is_left_as_it_was(model, photo) -> None:
    lens = Lens(model)
    with time_limit(time.monotonic() - 1), pytest.raises(OutOfTimeError):
        lens.analyze(photo, 64)
    assert not any(module._forward_pre_hooks for module in model.modules())
    lens.analyze(photo, 64)


def test_a_model_stops_between_its_blocks(model, photo, monkeypatch) -> None:
    """Not only before and after the pass: what is slow may be slow inside."""
    now = [0.0]
    monkeypatch.setattr(time_limit_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    passed: list[str] = []

    def slow(module: torch.nn.Module, args: object) -> None:
        passed.append("slow")
        now[0] = 2.0

    hook = model.blocks[1].register_forward_pre_hook(slow)
    last = model.blocks[-1].register_forward_hook(lambda *a: passed.append("last"))
    with time_limit(1.0), pytest.raises(OutOfTimeError):
        Lens(model).analyze(photo, 32)
    hook.remove()
    last.remove()
    assert passed == ["slow"]


def test_the_timing_loop_stops() -> None:
    rounds = interleave({"a": lambda: time.sleep(0.01)}, seconds=1e9)
    next(rounds)
    with time_limit(time.monotonic() - 1), pytest.raises(OutOfTimeError):
        next(rounds)


def test_curves_stop(model, photo) -> None:
    pixels = Lens(model).preprocess(photo, 32)
    with time_limit(time.monotonic() - 1), pytest.raises(OutOfTimeError):
        curves(model, pixels, torch.rand(2, 3))
