"""Attention maps of the class token, as users of softmax models know them; for comparison.

Where the class token looks in the last layer, and attention rollout over all layers. The weights
are computed from the queries and keys that the model makes, so fused attention stays as it is.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from timm.layers import Attention
from timm.models import VisionTransformer
from timm.models.xcit import XCA
from torch import Tensor, nn

from sima_core.attention.modules import SimAClassAttention
from sima_core.attention.operation import CLASS_NORM_FLOOR, NORM_FLOOR, l1_normalize
from sima_core.lens.norms import (
    CLASS_KINDS,
    KINDS,
    SIMA_KINDS,
    attention_layers,
    hook_queries_keys,
    on_grid,
    require_whole_patches,
    token_grids,
)
from sima_core.models.cvt import Cvt

#: The class token's attention in the last layer, or rolled out over all layers.
Kind = Literal["cls", "rollout"]


def attention_maps(
    model: nn.Module, pixels: Tensor, kind: Kind = "cls", head: int | None = None
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
        model: put it in eval mode first.
        pixels: (batch, 3, rows·patch, cols·patch), normalised.
        head: counted from 1; None takes the mean over heads.

    Raises:
        ValueError: an unknown kind, a head that does not exist, sides that are not multiples of the
            patch, or a model without what the kind needs; says what was looked for.

    Source: Abnar & Zuidema, "Quantifying Attention Flow in Transformers", arXiv 2005.00928.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}; got {kind!r}")
    layers = _softmax_layers(model) if kind == "rollout" else [_last_layer(model)]
    num_heads = layers[-1].num_heads
    if head is not None and not 1 <= head <= num_heads:
        raise ValueError(f"there is no head {head}: heads run from 1 to {num_heads}")
    size = pixels.shape[-2:]
    require_whole_patches(model, *size)
    with _queries_keys(layers) as captured, torch.no_grad():
        model(pixels)
        if kind == "rollout":
            row = _roll_out(layers, captured, head)
        else:
            row = _class_row(layers[-1], *captured[-1], head)
    depth = len(attention_layers(model))
    return on_grid(row, token_grids(model, depth, *size)[1])


@contextmanager
def _queries_keys(layers: list[Any]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Q (B, N, C) and K (B, M, C) of each layer, once the model has run inside."""
    captured: list[tuple[Tensor, Tensor]] = []
    with ExitStack() as stack:
        for layer in layers:
            for handle in hook_queries_keys(layer, lambda q, k: captured.append((q, k))):
                stack.callback(handle.remove)
        yield captured


def _last_layer(model: nn.Module) -> Any:
    """The last attention layer, if the class token takes part in it."""
    layers = [module for module in model.modules() if isinstance(module, (*KINDS, *CLASS_KINDS))]
    last = layers[-1] if layers else None
    if isinstance(last, CLASS_KINDS) or (
        isinstance(last, KINDS)
        and not isinstance(last, XCA)
        and (isinstance(model, Cvt) or (isinstance(model, VisionTransformer) and _has_class(model)))
    ):
        return last
    raise ValueError(
        f"{type(model).__name__} has no class token in a last attention layer: looked for a timm "
        "VisionTransformer with a class token, CvT, or class attention as XCiT has"
    )


def _softmax_layers(model: nn.Module) -> list[Any]:
    """All layers, if rollout can follow the class token through them."""
    if isinstance(model, VisionTransformer) and _has_class(model):
        layers = attention_layers(model)
        in_turn = [getattr(block, "attn", None) for block in model.blocks]
        if layers == in_turn and all(type(layer) is Attention for layer in layers):
            return layers
    raise ValueError(
        "rollout needs softmax attention over the same tokens in every layer, with a class token "
        "from the first, as in deit_small_patch16_224: choose such a model, or another map"
    )


def _has_class(model: Any) -> bool:
    return model.cls_token is not None


def _by_head(tokens: Tensor, num_heads: int, head: int | None) -> Tensor:
    """(B, N, C) to (B, H, N, d), float32; H is 1 if one `head` (from 1) is meant."""
    heads = tokens.float().reshape(*tokens.shape[:2], num_heads, -1).transpose(1, 2)
    return heads if head is None else heads[:, head - 1 : head]


def _class_row(layer: Any, q: Tensor, k: Tensor, head: int | None) -> Tensor:
    """The class token's attention weights: (B, N, C) and (B, M, C) to (B, M)."""
    sima = isinstance(layer, (*SIMA_KINDS, SimAClassAttention))
    if sima and getattr(layer, "normalizes", True):
        floor = CLASS_NORM_FLOOR if isinstance(layer, SimAClassAttention) else NORM_FLOOR
        q, k = l1_normalize(q.float(), floor), l1_normalize(k.float(), floor)
    q, k = (_by_head(tokens, layer.num_heads, head) for tokens in (q[:, :1], k))
    weights = q @ k.transpose(-2, -1)
    if not sima:
        weights = (weights * layer.scale).softmax(dim=-1)
    return weights[:, :, 0].mean(dim=1)


def _roll_out(layers: list[Any], captured: list[tuple[Tensor, Tensor]], head: int | None) -> Tensor:
    """The class token's row of the product over layers: to (B, N).

    From the last layer back, so that only a row is multiplied, head by head.
    """
    query = captured[0][0]
    row = query.new_zeros(query.shape[:2], dtype=torch.float32)
    row[:, 0] = 1
    for layer, (q, k) in zip(reversed(layers), reversed(captured), strict=True):
        q, k = (_by_head(tokens, layer.num_heads, head) for tokens in (q, k))
        mixed = torch.zeros_like(row)
        for one_q, one_k in zip(q.unbind(1), k.unbind(1), strict=True):
            weights = (one_q @ one_k.transpose(-2, -1) * layer.scale).softmax(dim=-1)
            mixed += (row.unsqueeze(1) @ weights).squeeze(1) / q.shape[1]
        row = (row + mixed) / 2
    return row
