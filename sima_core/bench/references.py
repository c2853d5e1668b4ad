"""Reference formulations of attention: what SimA is measured against."""

from torch import Tensor
from torch.nn import functional as F

from sima_core.attention.operation import NORM_FLOOR, Order, choose_order, split_heads


def published_sima(qkv: Tensor, num_heads: int, order: Order) -> Tensor:
    """SimA as published: normalise Q and K, then multiply. (B, N, 3·C) to (B, N, C)."""
    q, k, v = split_heads(qkv, num_heads)
    q, k = (F.normalize(t, p=1.0, dim=-2, eps=NORM_FLOOR) for t in (q, k))
    x: Tensor
    if choose_order(order, q.shape[-2], q.shape[-1], qkv) == "qk_first":
        x = (q @ k.transpose(-2, -1)) @ v
    else:
        x = q @ (k.transpose(-2, -1) @ v)
    return x.transpose(1, 2).flatten(2)


def softmax_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """softmax(QKᵀ/√d)V, written out (MSA): (B, N, 3·C) to (B, N, C)."""
    q, k, v = split_heads(qkv, num_heads)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    x: Tensor = (weights @ v).transpose(1, 2).flatten(2)
    return x


def fused_softmax_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """The same by `scaled_dot_product_attention`, torch's fastest: (B, N, 3·C) to (B, N, C)."""
    q, k, v = split_heads(qkv, num_heads)
    x: Tensor = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return x


def cross_covariance_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """XCA: attention between channels, softmax over d × d. (B, N, 3·C) to (B, N, C).

    Source: El-Nouby et al. 2021, arXiv 2106.09681, section 3.2 (temperature 1).
    """
    q, k, v = split_heads(qkv, num_heads)
    q, k = F.normalize(q, dim=-2), F.normalize(k, dim=-2)
    weights = (k.transpose(-2, -1) @ q).softmax(dim=-2)
    x: Tensor = (v @ weights).transpose(1, 2).flatten(2)
    return x
