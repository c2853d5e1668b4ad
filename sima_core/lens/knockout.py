"""What the model would say if some tokens took no part in attention: predicted, and real."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sima_core.errors import InputError
from sima_core.lens.flow import Flow
from sima_core.lens.flowing import flowing, require_picture
from sima_core.lens.heatmaps import NOT_FINITE
from sima_core.lens.layers import Grid, Layer, looking, patch_size
from sima_core.lens.tokens import place_on
from sima_core.words import plain


@dataclass(frozen=True, eq=False)
class KnockOut:
    """Probabilities of all classes, float32 (classes,), with and without some tokens."""

    #: (row, column) of each token that was taken away, from 1.
    tokens: tuple[tuple[int, int], ...]
    #: (rows, cols) of the patches.
    grid: Grid
    before: NDArray[np.float32]
    #: The model run again, the tokens absent from every attention: they count in no norm.
    real: NDArray[np.float32]
    #: What the tokens sent taken away, all norms and sums as they are with them; None where no
    #: token hears another (XCA).
    predicted: NDArray[np.float32] | None


def knock_out(
    model: nn.Module, pixels: Tensor, tokens: Sequence[tuple[int, int]], layers: Sequence[Layer]
) -> KnockOut:
    """Take `tokens` away from the attention of `layers`; see `Lens.without`.

    Raises:
        InputError: as `Lens.without`.
    """
    require_picture(model, pixels)
    height, width = pixels.shape[-2:]
    patch = patch_size(model)
    gone = _mask(tokens, (height // patch, width // patch))
    masks = {
        layer: tuple(
            torch.from_numpy(_on_grid(gone, patch, grid, stride)).flatten()
            for grid, stride in zip(
                layer.grids(height, width), (layer.query_stride, layer.key_stride), strict=True
            )
        )
        for layer in layers
    }

    def run() -> NDArray[np.float32]:
        with looking(model):
            found = model(pixels)[0].float().softmax(dim=-1).cpu()
        if not found.isfinite().all():
            raise InputError(NOT_FINITE)
        return np.asarray(found.numpy())

    before = run()
    with ExitStack() as hooks:
        for layer, (queries, keys) in masks.items():
            for hook in layer.kind.thin(layer.module(model), ~queries, ~keys):
                hooks.callback(hook.remove)
        real = run()
    predicted = None
    if all(layer.kind.sums_over_tokens(layer.module(model)) for layer in layers):
        with flowing(model, layers, pixels, _silenced(masks)):
            predicted = run()
    rows, cols = np.nonzero(gone)
    named = tuple(zip((rows + 1).tolist(), (cols + 1).tolist(), strict=True))
    return KnockOut(named, gone.shape, before, real, predicted)


def _silenced(masks: dict[Layer, tuple[Tensor, ...]]) -> Callable[[Flow], Tensor]:
    """A layer's output where some tokens send nothing, and get nothing."""

    def output(flow: Flow) -> Tensor:
        queries, keys = masks[flow.layer]
        others = keys.new_zeros(flow.key.shape[1] - len(keys))
        found = flow.without(torch.cat([others, keys]).to(flow.key.device))
        if flow.layer.kind.over_patches:
            found[len(found) - len(queries) :][queries.to(found.device)] = 0
        return found

    return output


def _mask(tokens: Sequence[tuple[int, int]], grid: Grid) -> NDArray[np.bool_]:
    """Which of the grid's tokens are named.

    Raises:
        InputError: none, all, or one that does not exist.
    """
    gone = np.zeros(grid, dtype=bool)
    if not isinstance(tokens, Iterable):
        raise InputError(f"tokens are (row, column) each; got {plain(repr(tokens))}")
    for token in tokens:
        row, col = place_on(grid, token)
        gone[row - 1, col - 1] = True
    if not gone.any():
        raise InputError("no token was named: name at least one to take away")
    if gone.all():
        raise InputError("no token would be left: leave at least one")
    return gone


def _on_grid(gone: NDArray[np.bool_], patch: int, grid: Grid, stride: int) -> NDArray[np.bool_]:
    """Which tokens of another grid are gone: those that lie on nothing but what is gone.

    CvT's first stages have finer tokens than its last, and its keys coarser ones.
    """
    kept = ~gone
    for axis, count in enumerate(grid):
        first = [n * stride // patch for n in range(count)]
        last = [min(kept.shape[axis], -(-(n + 1) * stride // patch)) for n in range(count)]
        parts = [
            kept.take(range(a, max(b, a + 1)), axis).any(axis)
            for a, b in zip(first, last, strict=True)
        ]
        kept = np.stack(parts, axis)
    return ~kept
