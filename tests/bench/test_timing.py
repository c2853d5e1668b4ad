"""The bench: candidates in turn, ratios round by round."""

import pytest
import torch
from torch.utils.benchmark import Measurement

from sima_core.bench.timing import Ratio, Timings, interleave
from sima_core.errors import InputError


def timings(**times: list[float]) -> Timings:
    from torch.utils.benchmark import TaskSpec

    return Timings({n: Measurement(1, t, TaskSpec(n, "")) for n, t in times.items()})


def test_ratios_are_taken_round_by_round():
    found = timings(a=[2.0, 30.0, 4.0], b=[1.0, 10.0, 2.0])
    assert found.ratio("a", to="b") == Ratio(2.0, 2.0, 2.5, 3)
    assert found.seconds("a") == 4.0
    assert found.unsteady == ["a", "b"]


def test_candidates_are_interleaved():
    calls: list[str] = []

    def busy(name: str) -> None:
        calls.append(name)
        torch.randn(300, 300) @ torch.randn(300, 300)

    rounds = list(interleave({n: lambda n=n: busy(n) for n in "ab"}, 0.0, min_rounds=6))
    assert len(rounds) == 6
    assert [len(m.raw_times) for m in rounds[-1].measurements.values()] == [6, 6]
    blocks = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert blocks.count("a") >= 3  # back and forth, not one after the other


def test_inference_mode_does_not_leak_between_rounds():
    for _ in interleave({"a": lambda: None}, 0.0, min_rounds=2):
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_time_that_never_ends_is_refused(seconds):
    with pytest.raises(InputError, match="not endless"):
        next(interleave({"a": lambda: None}, seconds))
