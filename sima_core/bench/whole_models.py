"""How long whole models take, whatever their attention."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.benchmark import Measurement
from torch.utils.benchmark import timer as device_timer

from sima_core.bench.timing import Candidate, measure, measurement_dict
from sima_core.lens.kinds import kind_of


@dataclass(frozen=True)
class ModelTime:
    """How long a model takes over a picture, and its attention layers within that; seconds."""

    forward: Measurement
    attention: Measurement

    def as_dict(self) -> dict[str, object]:
        """Plain numbers for JSON, in seconds."""
        return {
            "forward": measurement_dict(self.forward),
            "attention": measurement_dict(self.attention),
        }

    def __str__(self) -> str:
        forward, attention = (1e3 * m.median for m in (self.forward, self.attention))
        return f"forward {forward:.1f} ms, attention {attention:.1f} ms"


def time_models(
    models: Sequence[nn.Module], pixels: Sequence[Tensor], seconds: float = 3.0
) -> list[ModelTime]:
    """Time the models side by side, as `interleave` does.

    Args:
        pixels: the input of each.
    """
    names = [str(i) for i in range(len(models))]
    with ExitStack() as stack:
        candidates: dict[str, Candidate] = {
            name: functools.partial(model, inputs)
            for name, model, inputs in zip(names, models, pixels, strict=True)
        }
        clocks = {
            name: stack.enter_context(_attention_clock(model))
            for name, model in zip(names, models, strict=True)
        }
        timings = measure(candidates, seconds, clocks=clocks)
    return [ModelTime(timings.measurements[name], timings.within[name]) for name in names]


@contextmanager
def _attention_clock(model: nn.Module) -> Iterator[Callable[[], float]]:
    """A clock that runs while the model's attention layers do, projections included; seconds."""
    total = start = 0.0

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal start
        start = device_timer()

    def finish(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        nonlocal total
        total += device_timer() - start

    with ExitStack() as stack:
        for module in model.modules():
            if kind_of(module):
                stack.callback(module.register_forward_pre_hook(begin).remove)
                stack.callback(module.register_forward_hook(finish).remove)
        yield lambda: total
