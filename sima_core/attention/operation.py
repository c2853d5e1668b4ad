"""SimA attention: softmax-free, each channel of Q and K ℓ1-normalised over the tokens.

Source: Koohpayegani & Pirsiavash, "SimA: Simple Softmax-free Attention for Vision Transformers",
arXiv 2206.08898, section 3. Shapes: B images, N tokens, H heads, d channels per head, C = H·d.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from sima_core.attention import kernel
from sima_core.errors import InputError

#: How the product Q̂K̂ᵀV is taken; see `choose_order`.
Order = Literal["auto", "rule", "qk_first", "kv_first"]

#: Floor of the ℓ1-norms in the patch-token layers, as published.
NORM_FLOOR = 1e-12
#: Bytes of the largest block of the N × N matrix Q̂K̂ᵀ that ``qk_first`` holds at a time.
WEIGHTS_BUDGET = 64 * 2**20
#: Tokens that ``kv_first`` multiplies at a time once there are more than four times as many.
TOKEN_BLOCK = 1024
#: Floor of the ℓ1-norms in the class-attention layers, as published.
CLASS_NORM_FLOOR = 1e-6


def choose_order(
    order: Order, num_tokens: int, head_dim: int, like: Tensor | None = None
) -> Literal["qk_first", "kv_first"]:
    """The order in which to multiply, for N = `num_tokens` and d = `head_dim`.

    ``qk_first`` is (Q̂K̂ᵀ)V, O(N²d); ``kv_first`` is Q̂(K̂ᵀV), O(Nd²). ``rule`` takes the first if
    N < d, else the second (paper section 3); ``auto`` does so from the measured `crossover` on.

    Args:
        like: what is multiplied, or float32 on the processor if None.

    Raises:
        InputError: `order` is none of the four names.
    """
    if order == "qk_first" or order == "kv_first":
        return order
    if order not in get_args(Order):
        raise InputError(f"order must be one of {', '.join(get_args(Order))}; got {order!r}")
    fewest = head_dim if order == "rule" else crossover(head_dim, like)
    return "qk_first" if num_tokens < fewest else "kv_first"


# Measured crossovers: tokens by head_dim; empty until `calibration` sets them.
_crossovers: dict[int, float] = {}


def set_crossovers(measured: Mapping[int, float]) -> None:
    """Let ``auto`` follow this machine: from how many tokens on K̂ᵀV first is faster, by head_dim.

    An empty mapping brings the rule back.
    """
    global _crossovers
    _crossovers = dict(measured)


def crossover(head_dim: int, like: Tensor | None = None) -> float:
    """The number of tokens from which on ``auto`` takes K̂ᵀV first.

    As measured for this head_dim; for another, `head_dim` times the nearest one's deviation from
    the rule. Without measurements `head_dim` itself, as the rule has it, and likewise where `like`
    is not float32 on the processor, which is what was measured.
    """
    if not _crossovers or not (like is None or (like.is_cpu and like.dtype is torch.float32)):
        return head_dim
    if head_dim not in _crossovers:
        nearest = min(_crossovers, key=lambda measured: abs(measured - head_dim))
        return head_dim * _crossovers[nearest] / nearest
    return _crossovers[head_dim]


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The fused projection's output (B, N, 3·C) as views q, k, v, each (B, H, N, d)."""
    batch, num_tokens, width = qkv.shape
    q, k, v = (
        qkv.reshape(batch, num_tokens, 3, num_heads, width // (3 * num_heads))
        .permute(2, 0, 3, 1, 4)
        .unbind(0)
    )
    return q, k, v


def l1_normalize(x: Tensor, floor: float = NORM_FLOOR) -> Tensor:
    """Divide each channel by its ℓ1-norm over the tokens: (..., N, d) to (..., N, d).

    The norm is at least `floor`, so a channel of zeros stays zero. Paper equation 2.
    """
    # Two quick operations: torch's own ℓ1-norm over rows takes several times as long.
    return x / x.abs().sum(dim=-2, keepdim=True).clamp_min(floor)


def sima_attention(qkv: Tensor, num_heads: int, order: Order = "auto") -> Tensor:
    """Q̂K̂ᵀV of a fused projection: (B, N, 3·C) to (B, N, C), heads concatenated.

    Q̂ and K̂ are never stored. With n the product of a channel's two ℓ1-norms, Q̂(K̂ᵀV) equals
    Q·diag(1/n)·(KᵀV) and (Q̂K̂ᵀ)V equals ((Q·diag(1/n))Kᵀ)V, so only a d × d matrix per head, or Q
    by blocks of rows, is divided. The norms are taken in float32 at least.

    Raises:
        InputError: unknown `order`.
    """
    if qkv.dtype is torch.float16:  # the 1/N magnitudes of SimA leave its range
        return sima_attention(qkv.float(), num_heads, order).half()
    head_dim = qkv.shape[-1] // (3 * num_heads)
    if choose_order(order, qkv.shape[1], head_dim, qkv) == "qk_first":
        return _qk_first(qkv, num_heads)
    return _kv_first(qkv, num_heads)


def bare_products(qkv: Tensor, num_heads: int, order: Order) -> Tensor:
    """QKᵀV, nothing normalised: (B, N, 3·C) to (B, N, C), heads concatenated.

    Raises:
        InputError: unknown `order`.
    """
    q, k, v = split_heads(qkv, num_heads)
    if choose_order(order, qkv.shape[1], q.shape[-1], qkv) == "qk_first":
        x = (q @ k.transpose(-2, -1)) @ v
    else:
        x = q @ (k.transpose(-2, -1) @ v)
    return x.transpose(1, 2).flatten(2)


def _divide_by_norms(qkv: Tensor, matrix: Tensor, plain: bool, floor: float = NORM_FLOOR) -> Tensor:
    """Divide the rows of `matrix` by the products of the channels' two ℓ1-norms over the tokens.

    (B, N, 3·C) and (B·H, d, cols) to (B·H, d, cols); `matrix` may be overwritten. One pass in the
    projection's own layout, where neighbours in memory are neighbouring channels.

    Args:
        plain: `kernel.is_plain_inference`, asked once by the caller.
    """
    if plain and kernel.supports(qkv, matrix):
        return kernel.divide_by_norms(qkv, matrix, floor)
    batch, _, width = qkv.shape
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    norms = qkv[..., : 2 * width // 3].abs().sum(dim=1, dtype=dtype).clamp_min(floor)
    q, k = norms.view(batch, 2, width // 3).unbind(1)
    return (matrix / (q * k).view(*matrix.shape[:-1], 1)).to(qkv.dtype)


def _kv_first(qkv: Tensor, num_heads: int) -> Tensor:
    """Q·diag(1/n)·(KᵀV): (B, N, 3·C) to (B, N, C)."""
    plain = kernel.is_plain_inference(qkv)
    if plain and qkv.shape[0] == 1:
        return _kv_first_of_one(qkv, num_heads)
    q, k, v = split_heads(qkv, num_heads)
    kv = k.transpose(-2, -1) @ v
    kv = _divide_by_norms(qkv, kv.flatten(0, 1), plain).view_as(kv)
    return (q @ kv).transpose(1, 2).flatten(2)


def _kv_first_of_one(qkv: Tensor, num_heads: int) -> Tensor:
    """`_kv_first` for one image in plain inference: (1, N, 3·C) to (1, N, C).

    Few and plain operations, since at 196 tokens their overhead is a fifth of the time.
    """
    _, num_tokens, width = qkv.shape
    head_dim = width // (3 * num_heads)
    q, k, v = qkv.view(num_tokens, 3, num_heads, head_dim).permute(1, 2, 0, 3).unbind(0)
    kv = _divide_by_norms(qkv, torch.bmm(k.transpose(1, 2), v), plain=True)
    if num_tokens <= 4 * TOKEN_BLOCK:
        return torch.bmm(q, kv).transpose(0, 1).reshape(1, num_tokens, width // 3)
    # By blocks of tokens: the product in its own layout then stays in the cache until it is copied,
    # in a small buffer instead of a large one that the system must map page by page.
    x = qkv.new_empty(num_tokens, num_heads, head_dim)
    blocks = zip(torch.split(q, TOKEN_BLOCK, 1), torch.split(x, TOKEN_BLOCK), strict=True)
    for rows, out in blocks:
        out.copy_(torch.bmm(rows, kv).transpose(0, 1))
    return x.view(1, num_tokens, width // 3)


def _qk_first(qkv: Tensor, num_heads: int) -> Tensor:
    """((Q·diag(1/n))Kᵀ)V by blocks of Q's rows: (B, N, 3·C) to (B, N, C)."""
    batch, num_tokens, width = qkv.shape
    head_dim = width // (3 * num_heads)
    plain = kernel.is_plain_inference(qkv)
    scales = _divide_by_norms(qkv, qkv.new_ones(batch * num_heads, head_dim, 1), plain)
    rows = max(1, WEIGHTS_BUDGET // (batch * num_heads * num_tokens * qkv.element_size()))
    if plain and batch == 1 and rows >= num_tokens:  # as in `_kv_first_of_one`
        q, k, v = qkv.view(num_tokens, 3, num_heads, head_dim).permute(1, 2, 0, 3).unbind(0)
        x = torch.bmm(torch.bmm(q, k.transpose(1, 2) * scales), v)
        return x.transpose(0, 1).reshape(1, num_tokens, width // 3)
    q, k, v = split_heads(qkv, num_heads)
    scaled_keys = k.transpose(-2, -1) * scales.view(batch, num_heads, head_dim, 1)
    blocks = [(block @ scaled_keys) @ v for block in torch.split(q, rows, dim=2)]
    return torch.cat(blocks, dim=2).transpose(1, 2).flatten(2)


def sima_cross_attention(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, order: Order = "auto"
) -> Tensor:
    """Q̂K̂ᵀV where keys and values have tokens of their own: to (B, N, C), heads concatenated.

    The norms are folded away as in `sima_attention`.

    Args:
        q: (B, N, C), and k and v (B, M, C); each is normalised over its own tokens.
        order: ``rule`` and ``auto`` go by the harmonic mean of N and M, see `mean_tokens`.

    Raises:
        InputError: unknown `order`.
    """
    if q.dtype is torch.float16:
        return sima_cross_attention(q.float(), k.float(), v.float(), num_heads, order).half()
    batch, num_keys, width = k.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    q_norm, k_norm = (t.abs().sum(dim=1, dtype=dtype).clamp_min(NORM_FLOOR) for t in (q, k))
    norms = (q_norm * k_norm).view(batch, num_heads, width // num_heads, 1)
    q, k, v = (t.reshape(*t.shape[:2], num_heads, -1).transpose(1, 2) for t in (q, k, v))
    num_tokens = mean_tokens(q.shape[2], num_keys)
    if choose_order(order, num_tokens, width // num_heads, q) == "kv_first":
        x = q @ (k.transpose(-2, -1) @ v / norms).to(q.dtype)
    else:
        scaled_keys = (k.transpose(-2, -1) / norms).to(q.dtype)
        rows = max(1, WEIGHTS_BUDGET // (batch * num_heads * num_keys * q.element_size()))
        x = torch.cat([(b @ scaled_keys) @ v for b in torch.split(q, rows, dim=2)], dim=2)
    return x.transpose(1, 2).flatten(2)


def mean_tokens(num_queries: int, num_keys: int) -> int:
    """The number of tokens at which self-attention has the same choice between the orders.

    The harmonic mean: N·M·2d multiplications stand against (N + M)·d².
    """
    return 2 * num_queries * num_keys // (num_queries + num_keys)
