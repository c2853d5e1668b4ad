"""Capture how large each token is in the queries and keys, without changing the model.

With no softmax, a token's magnitude in Q̂ and K̂ is its influence (arXiv 2206.08898, section 3.3).
For comparison, models with other attention give the same for Q and K as they are projected.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from sima_core.defaults import LAYER
from sima_core.errors import InputError
from sima_core.lens.layers import (
    Layer,
    Layers,
    find_layers,
    layer_numbers,
    on_grid,
    require_fitting,
)


@dataclass(frozen=True)
class TokenNorms:
    """ℓ2-norms of the patch tokens of the queries and of the keys in one layer, float32.

    Each is (batch, rows, cols) over all heads and channels, or (batch, heads, rows, cols). In CvT
    the keys have fewer rows and columns than the queries.
    """

    query: Tensor
    key: Tensor

    def over_heads(self) -> Self:
        """Norms over all heads from per-head norms: (batch, heads, rows, cols) loses `heads`."""
        return type(self)(
            torch.linalg.vector_norm(self.query, dim=1), torch.linalg.vector_norm(self.key, dim=1)
        )


class NormRecorder:
    """Context manager that records the token norms of the forward passes inside it.

    Only the layers asked for are hooked, at the projections that make Q and K; outputs are not
    changed, and the hooks are removed on leaving, also on an error. Forward passes of other threads
    through the same model are not recorded. `Lens.norms` says which tensors are measured.

    Args:
        known: what `find_layers` gives of the model, where it was asked already.

    Raises:
        InputError: no known attention layers in the model, or a layer that does not exist.
    """

    def __init__(
        self, model: nn.Module, layers: Layers = LAYER, known: Sequence[Layer] | None = None
    ) -> None:
        known = find_layers(model) if known is None else known
        self._model = model
        self._layers = {n: known[n - 1] for n in layer_numbers(layers, len(known))}
        self._hooks = ExitStack()
        self._norms: dict[int, tuple[Tensor, Tensor]] = {}
        self._size = (0, 0)
        self._thread = 0

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        with ExitStack() as hooks:  # left by an error, they are removed
            hooks.callback(self._model.register_forward_pre_hook(self._note_size).remove)
            for layer in self._layers.values():
                for hook in layer.kind.watch(layer.module(self._model), self._recorder(layer)):
                    hooks.callback(hook.remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.close()

    def _note_size(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == self._thread:
            height, width = args[0].shape[-2:]
            require_fitting(module, height, width)
            self._size = (height, width)

    def _recorder(self, layer: Layer) -> Callable[[Tensor, Tensor], None]:
        def record(query: Tensor, key: Tensor) -> None:
            self._norms[layer.number] = _norms_per_head(layer, query), _norms_per_head(layer, key)

        return record

    def norms(self, per_head: bool = False) -> dict[int, TokenNorms]:
        """The last forward pass's norms by layer number; shapes as in `TokenNorms`.

        Raises:
            InputError: nothing was recorded of a layer, or its tokens are no grid of patches.
        """
        found = {}
        for number, layer in self._layers.items():
            if number not in self._norms:
                raise InputError(
                    f"nothing was heard of layer {number} ({layer.name}): the model has not run, "
                    f"or the layer does not call what its kind, {layer.attention}, listens to"
                )
            # Class, distillation and register tokens come first; they count in the ℓ1-norms above
            # but have no place in the picture.
            pairs = zip(self._norms[number], layer.grids(*self._size), strict=True)
            norms = TokenNorms(*(on_grid(norms, grid) for norms, grid in pairs))
            found[number] = norms if per_head else norms.over_heads()
        return found


def _norms_per_head(layer: Layer, tokens: Tensor) -> Tensor:
    """ℓ2-norm of each token, head by head: (B, N, C) to (B, H, N), float32.

    Works in the projection's own layout, so that every pass runs through memory in order.
    """
    tokens = layer.kind.normalized(tokens)  # channel by channel, so heads do not matter yet
    by_head = tokens.reshape(*tokens.shape[:2], layer.num_heads, -1)
    norms: Tensor = torch.linalg.vector_norm(by_head, dim=-1)
    return norms.transpose(1, 2)
