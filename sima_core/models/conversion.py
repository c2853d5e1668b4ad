"""Put SimA attention into a vision transformer that has softmax attention, and take it out again.

The weights stay as they are: what a model learnt with softmax gives other results with SimA until
it is trained further.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from timm.layers import Attention
from timm.models import VisionTransformer
from torch import nn

from sima_core.attention.modules import SimAttention
from sima_core.attention.operation import Order, choose_order
from sima_core.errors import InputError

_EXPECTED = (
    "expected a timm VisionTransformer (ViT, DeiT, DeiT-III, DINOv2) whose blocks have a plain "
    "timm.layers.Attention"
)


@dataclass(frozen=True)
class Conversion:
    """What `convert_to_sima` did; as a context manager it undoes it on leaving."""

    model: nn.Module = field(repr=False)
    #: Names of the modules that SimA took the place of, such as ``blocks.0.attn``, in order.
    replaced: tuple[str, ...]
    _before: Mapping[str, nn.Module] = field(repr=False)
    _after: Mapping[str, nn.Module] = field(repr=False)

    def undo(self) -> None:
        """Put the replaced modules back, with the weights as they are now; twice does no harm."""
        for name in self.replaced:
            if self.model.get_submodule(name) is self._after[name]:
                original = self._before[name]
                original.train(self._after[name].training)
                self.model.set_submodule(name, original)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()


def convert_to_sima(model: nn.Module, order: Order = "auto") -> Conversion:
    """Put SimA in place of the softmax attention of `model`, in place, sharing its projections.

    Class, distillation and register tokens, LayerScale and the rest stay; a pooling by attention
    after the blocks keeps its softmax. Nothing is changed if any block cannot be converted.

    Args:
        model: a timm ``VisionTransformer`` whose blocks have timm's plain ``Attention``.
        order: how SimA takes the product; see `attention.operation.choose_order`.

    Raises:
        InputError: another kind of model or attention (rotary position, q_norm, k_norm, a norm or
            gate after attention, attention dropout), or one converted already; says what was
            expected. Or an unknown `order`.
    """
    choose_order(order, 1, 1)  # reject an unknown name here rather than at the first forward
    if not isinstance(model, VisionTransformer):
        raise InputError(f"{type(model).__name__} cannot be converted: {_EXPECTED}")
    before: dict[str, Any]
    before = {f"blocks.{i}.attn": getattr(b, "attn", None) for i, b in enumerate(model.blocks)}
    if not before:
        raise InputError(f"the model has no blocks: {_EXPECTED}")
    for name, attention in before.items():
        if problem := _problem(attention):
            raise InputError(f"{name} {problem}: {_EXPECTED}")
    after = {name: SimAttention.from_attention(attention) for name, attention in before.items()}
    for name, attention in after.items():
        attention.order = order
        model.set_submodule(name, attention)
    return Conversion(model, tuple(after), before, after)


def _problem(attention: Any) -> str | None:
    """Why this module cannot be replaced, as the end of a sentence; None if it can."""
    if isinstance(attention, SimAttention):
        return "is SimA attention already"
    if attention is None:
        return "is not there (its block is of another kind)"
    if type(attention) is not Attention:
        return f"is {type(attention).__module__}.{type(attention).__name__}"
    for part in ("q_norm", "k_norm", "norm", "gate"):
        if not isinstance(getattr(attention, part), nn.Identity | None):
            return f"has {part}, which SimA has not"
    if attention.attn_drop.p:
        return "has attention dropout, which SimA has not"
    return None
