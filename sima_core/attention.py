"""SimA attention: softmax-free, each channel of Q and K ℓ1-normalised over the tokens.

Source: Koohpayegani & Pirsiavash, "SimA: Simple Softmax-free Attention for Vision Transformers",
arXiv 2206.08898, section 3. Shapes: B images, N tokens, H heads, d channels per head, C = H·d.
"""

from collections.abc import Mapping
from typing import Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from . import kernels

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
        ValueError: `order` is none of the four names.
    """
    if order == "qk_first" or order == "kv_first":
        return order
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {', '.join(get_args(Order))}; got {order!r}")
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
        ValueError: unknown `order`.
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
        ValueError: unknown `order`.
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
        plain: `kernels.is_plain_inference`, asked once by the caller.
    """
    if plain and kernels.supports(qkv, matrix):
        return kernels.divide_by_norms(qkv, matrix, floor)
    batch, _, width = qkv.shape
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    norms = qkv[..., : 2 * width // 3].abs().sum(dim=1, dtype=dtype).clamp_min(floor)
    q, k = norms.view(batch, 2, width // 3).unbind(1)
    return (matrix / (q * k).view(*matrix.shape[:-1], 1)).to(qkv.dtype)


def _kv_first(qkv: Tensor, num_heads: int) -> Tensor:
    """Q·diag(1/n)·(KᵀV): (B, N, 3·C) to (B, N, C)."""
    plain = kernels.is_plain_inference(qkv)
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
    plain = kernels.is_plain_inference(qkv)
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
        ValueError: unknown `order`.
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


class SimAttention(nn.Module):
    """SimA self-attention with the signature of `timm.layers.Attention` (``attn_layer=``).

    (B, N, dim) to (B, N, dim_out). `order` may be changed at any time; see `choose_order`.
    `normalizes` says whether Q and K are ℓ1-normalised.

    Raises:
        ValueError: a width that the heads do not divide, an unknown order, or an option that
            has no meaning without softmax (`qk_norm`, `scale_norm`, `gated`, `attn_drop`, masks).
    """

    normalizes = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        attn_head_dim: int | None = None,
        dim_out: int | None = None,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        gated: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: type[nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        order: Order = "auto",
    ) -> None:
        super().__init__()
        if qk_norm or scale_norm or gated or attn_drop:
            raise ValueError(
                "SimA attention has no qk_norm, scale_norm, gate or attention dropout: "
                "leave them off"
            )
        if attn_head_dim is None and dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide a width of {dim}")
        choose_order(order, 1, 1)  # reject an unknown name here rather than at the first forward
        self.num_heads = num_heads
        self.head_dim = attn_head_dim or dim // num_heads
        self.order: Order = order
        width = num_heads * self.head_dim
        self.qkv = nn.Linear(dim, 3 * width, bias=qkv_bias, device=device, dtype=dtype)
        self.proj = nn.Linear(width, dim_out or dim, bias=proj_bias, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    @classmethod
    def from_attention(cls, attention: nn.Module) -> Self:
        """SimA in place of another attention with fused `qkv`, `proj` and `proj_drop`.

        The projections are shared with `attention`, not copied.
        """
        qkv, num_heads = cast(nn.Linear, attention.qkv), cast(int, attention.num_heads)
        head_dim = qkv.out_features // (3 * num_heads)
        sima = cls(qkv.in_features, num_heads, head_dim, device="meta")
        sima.qkv, sima.proj = qkv, cast(nn.Linear, attention.proj)
        sima.proj_drop = cast(nn.Dropout, attention.proj_drop)
        sima.training = attention.training
        return sima

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("SimA attention takes no mask: there is no softmax to mask")
        x = self.product(self.qkv(x), order=self.order)
        return cast(Tensor, self.proj_drop(self.proj(x)))

    def product(self, qkv: Tensor, *, order: Order) -> Tensor:
        """What attention makes of its projections: (B, N, 3·width) to (B, N, width)."""
        return sima_attention(qkv, self.num_heads, order)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, order={self.order!r}"


class PlainAttention(SimAttention):
    """QKᵀV: SimA without its ℓ1-normalisation, to show what that is for. (B, N, dim) alike.

    Its size grows with the number of tokens, which the paper gives as the reason to normalise
    (section 3). It has no use but in the comparison of `twins`.
    """

    normalizes = False

    def product(self, qkv: Tensor, *, order: Order) -> Tensor:
        return bare_products(qkv, self.num_heads, order)


class SimAClassAttention(nn.Module):
    """Class attention (CaiT) with SimA: (B, 1 + N, dim) to the class token's row (B, 1, dim).

    q and k are ℓ1-normalised over all 1 + N tokens; only the class token's row of Q̂K̂ᵀV is
    computed, so the order of the product does not matter.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, device=device, dtype=dtype)
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        q, k, v = split_heads(qkv, self.num_heads)
        batch, num_heads, _, head_dim = q.shape
        # Only one row of Q̂ is needed, and K̂ not at all: that row takes both norms.
        row = q[:, :, 0].clone().view(batch * num_heads, head_dim, 1)  # it is divided in place
        plain = kernels.is_plain_inference(qkv)
        row = _divide_by_norms(qkv, row, plain, CLASS_NORM_FLOOR)
        x = row.view(batch, num_heads, 1, head_dim) @ k.transpose(-2, -1) @ v
        return cast(Tensor, self.proj_drop(self.proj(x.transpose(1, 2).flatten(2))))
