"""Attention maps of the class token, as users of softmax models know them; for comparison.

Where the class token looks in the last layer, and attention rollout over all layers. The weights
are computed from the queries and keys that the model makes, so fused attention stays as it is.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sima_core.errors import InputError
from sima_core.lens.layers import (
    Layer,
    find_layers,
    looking,
    on_grid,
    require_fitting,
    require_head,
    require_pixels,
)
from sima_core.words import plain

#: The class token's attention in the last layer, or rolled out over all layers.
ClassMap = Literal["cls", "rollout"]


def attention_maps(
    model: nn.Module,
    pixels: Tensor,
    kind: ClassMap = "cls",
    head: int | None = None,
) -> Tensor:
    """How the class token attends to the patches: float32 (batch, rows, cols), unscaled.

    ``cls`` gives the class token's row of the last layer's attention weights. Softmax weights are
    not negative, and with those of the class, distillation and register tokens, which are left out,
    add up to 1; SimA's, the row of Q̂K̂ᵀ, may be negative. XCiT's last layer is one of class
    attention; CvT's map has the coarser grid of its keys.

    ``rollout`` multiplies (W + 1)/2 over all layers, W being a layer's weights (averaged over heads
    if `head` is None), and takes the class token's row. It needs softmax over the same tokens in
    every layer, with a class token from the first on.

    Args:
        model: any with attention that is known.
        pixels: (batch, 3, rows·patch, cols·patch), normalised.
        head: counted from 1; None takes the mean over heads.

    Raises:
        InputError: an unknown kind, a head that does not exist, sides that are not multiples of the
            patch, or a model without what the kind needs; says what was looked for.

    Source: Abnar & Zuidema, "Quantifying Attention Flow in Transformers", arXiv 2005.00928.
    """
    if kind not in get_args(ClassMap):
        raise InputError(
            f"kind must be one of {', '.join(get_args(ClassMap))}; got {plain(kind)!r}"
        )
    require_pixels(pixels)
    known = find_layers(model, required=False)
    over_class = find_layers(model, over_patches=False, required=False)
    if kind == "rollout":
        layers = _rolled_out(model, known, over_class)
    else:
        layers = [_last_layer(model, known, over_class)]
    require_head(head, layers[-1].num_heads)
    size = pixels.shape[-2:]
    require_fitting(model, *size)
    with _queries_keys(model, layers) as captured, looking(model):
        model(pixels)
        if kind == "rollout":
            row = _roll_out(model, layers, captured, head)
        else:
            row = _class_row(model, layers[-1], *captured[-1], head)
    return on_grid(row, layers[-1].grids(*size)[1])


@contextmanager
def _queries_keys(
    model: nn.Module, layers: Sequence[Layer]
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Q (B, N, C) and K (B, M, C) of each layer, once the model has run inside."""
    captured: list[tuple[Tensor, Tensor]] = []
    with ExitStack() as stack:
        for layer in layers:
            record = layer.kind.watch(layer.module(model), lambda q, k: captured.append((q, k)))
            for handle in record:
                stack.callback(handle.remove)
        yield captured


def _last_layer(model: nn.Module, known: Sequence[Layer], over_class: Sequence[Layer]) -> Layer:
    """The last attention layer, if the class token takes part in it."""
    last = next(reversed(over_class or known), None)
    if last and last.class_row is not None and last.kind.has_token_weights:
        return last
    raise InputError(
        f"{type(model).__name__} has no class token in a last attention layer: looked for a timm "
        "VisionTransformer with a class token, CvT, or class attention as XCiT has"
    )


def _rolled_out(
    model: nn.Module, known: Sequence[Layer], over_class: Sequence[Layer]
) -> Sequence[Layer]:
    """All layers, if rollout can follow the class token through them."""
    in_turn = all(layer.name == f"blocks.{i}.attn" for i, layer in enumerate(known))
    followed = (
        layer.kind.rolls_out
        and type(layer.module(model)) is layer.kind.module
        and layer.class_row is not None
        for layer in known
    )
    if known and in_turn and all(followed) and not over_class:
        return known
    raise InputError(
        "rollout needs softmax attention over the same tokens in every layer, with a class token "
        "from the first, as in deit_small_patch16_224: choose such a model, or another map"
    )


def _by_head(tokens: Tensor, num_heads: int, head: int | None) -> Tensor:
    """(B, N, C) to (B, H, N, d), float32; H is 1 if one `head` (from 1) is meant."""
    heads = tokens.float().reshape(*tokens.shape[:2], num_heads, -1).transpose(1, 2)
    return heads if head is None else heads[:, head - 1 : head]


def _class_row(
    model: nn.Module, layer: Layer, query: Tensor, key: Tensor, head: int | None
) -> Tensor:
    """The class token's attention weights: (B, N, C) and (B, M, C) to (B, M)."""
    assert layer.class_row is not None  # `_last_layer` gives no other
    query = layer.kind.normalized(query)[:, layer.class_row : layer.class_row + 1]
    key = layer.kind.normalized(key)
    query, key = (_by_head(tokens, layer.num_heads, head) for tokens in (query, key))
    scale = layer.kind.scale(layer.module(model))
    return layer.kind.weights(query * scale, key)[:, :, 0].mean(dim=1)


def _roll_out(
    model: nn.Module,
    layers: Sequence[Layer],
    captured: list[tuple[Tensor, Tensor]],
    head: int | None,
) -> Tensor:
    """The class token's row of the product over layers: to (B, N).

    From the last layer back, so that only a row is multiplied, head by head.
    """
    query = captured[0][0]
    row = query.new_zeros(query.shape[:2], dtype=torch.float32)
    row[:, 0] = 1
    for layer, (q, k) in zip(reversed(layers), reversed(captured), strict=True):
        q, k = (_by_head(tokens, layer.num_heads, head) for tokens in (q, k))
        q = q * layer.kind.scale(layer.module(model))
        mixed = torch.zeros_like(row)
        for one_q, one_k in zip(q.unbind(1), k.unbind(1), strict=True):
            weights = layer.kind.weights(one_q, one_k)
            mixed += (row.unsqueeze(1) @ weights).squeeze(1) / q.shape[1]
        row = (row + mixed) / 2
    return row
