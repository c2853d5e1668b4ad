"""SimA attention: softmax-free, each channel of Q and K ℓ1-normalised over the tokens.

Source: Koohpayegani & Pirsiavash, "SimA: Simple Softmax-free Attention for Vision Transformers",
arXiv 2206.08898, section 3. Shapes: B images, N tokens, H heads, d channels per head, C = H·d.
"""

from typing import Literal, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: How the product Q̂K̂ᵀV is taken; see `choose_order`.
Order = Literal["auto", "rule", "qk_first", "kv_first"]

#: Floor of the ℓ1-norms in the patch-token layers, as published.
NORM_FLOOR = 1e-12
#: Floor of the ℓ1-norms in the class-attention layers, as published.
CLASS_NORM_FLOOR = 1e-6


def choose_order(order: Order, num_tokens: int, head_dim: int) -> Literal["qk_first", "kv_first"]:
    """The order in which to multiply, for N = `num_tokens` and d = `head_dim`.

    ``qk_first`` is (Q̂K̂ᵀ)V, O(N²d); ``kv_first`` is Q̂(K̂ᵀV), O(Nd²). ``rule`` takes the first if
    N < d, else the second (paper section 3); ``auto`` follows the rule.

    Raises:
        ValueError: `order` is none of the four names.
    """
    if order == "qk_first" or order == "kv_first":
        return order
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {', '.join(get_args(Order))}; got {order!r}")
    return "qk_first" if num_tokens < head_dim else "kv_first"


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The fused projection's output (B, N, 3·C) as views q, k, v, each (B, H, N, d)."""
    batch, num_tokens, width = qkv.shape
    q, k, v = (
        qkv.view(batch, num_tokens, 3, num_heads, width // (3 * num_heads))
        .permute(2, 0, 3, 1, 4)
        .unbind(0)
    )
    return q, k, v


def l1_normalize(x: Tensor, floor: float = NORM_FLOOR) -> Tensor:
    """Divide each channel by its ℓ1-norm over the tokens: (..., N, d) to (..., N, d).

    The norm is at least `floor`, so a channel of zeros stays zero. Paper equation 2.
    """
    return F.normalize(x, p=1.0, dim=-2, eps=floor)


def sima_attention(qkv: Tensor, num_heads: int, order: Order = "auto") -> Tensor:
    """Q̂K̂ᵀV of a fused projection: (B, N, 3·C) to (B, N, C), heads concatenated.

    Raises:
        ValueError: unknown `order`.
    """
    q, k, v = split_heads(qkv, num_heads)
    q, k = l1_normalize(q), l1_normalize(k)
    if choose_order(order, q.shape[-2], q.shape[-1]) == "qk_first":
        x = (q @ k.transpose(-2, -1)) @ v
    else:
        x = q @ (k.transpose(-2, -1) @ v)
    return x.transpose(1, 2).flatten(2)


class SimAttention(nn.Module):
    """SimA self-attention with the signature of `timm.layers.Attention` (``attn_layer=``).

    (B, N, dim) to (B, N, dim_out). `order` may be changed at any time; see `choose_order`.

    Raises:
        ValueError: a width that the heads do not divide, an unknown order, or an option that
            has no meaning without softmax (`qk_norm`, `scale_norm`, `gated`, `attn_drop`, masks).
    """

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
        sima = cls(qkv.in_features, num_heads, device="meta")
        sima.head_dim = qkv.out_features // (3 * num_heads)
        sima.qkv, sima.proj = qkv, cast(nn.Linear, attention.proj)
        sima.proj_drop = cast(nn.Dropout, attention.proj_drop)
        return sima

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("SimA attention takes no mask: there is no softmax to mask")
        x = sima_attention(self.qkv(x), self.num_heads, self.order)
        return cast(Tensor, self.proj_drop(self.proj(x)))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, order={self.order!r}"


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
        q, k, v = split_heads(self.qkv(x), self.num_heads)
        q, k = l1_normalize(q, CLASS_NORM_FLOOR), l1_normalize(k, CLASS_NORM_FLOOR)
        x = q[:, :, :1] @ k.transpose(-2, -1) @ v
        return cast(Tensor, self.proj_drop(self.proj(x.transpose(1, 2).flatten(2))))
