"""SimA attention as layers: in place of timm's attention, and of class attention."""

from typing import Self, cast

import torch
from torch import Tensor, nn

from sima_core.attention import kernel
from sima_core.attention.operation import (
    CLASS_NORM_FLOOR,
    Order,
    _divide_by_norms,
    bare_products,
    choose_order,
    sima_attention,
    split_heads,
)
from sima_core.errors import InputError


class SimAttention(nn.Module):
    """SimA self-attention with the signature of `timm.layers.Attention` (``attn_layer=``).

    (B, N, dim) to (B, N, dim_out). `order` may be changed at any time; see `choose_order`.

    Raises:
        InputError: a width that the heads do not divide, an unknown order, or an option that
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
            raise InputError(
                "SimA attention has no qk_norm, scale_norm, gate or attention dropout: "
                "leave them off"
            )
        if attn_head_dim is None and dim % num_heads:
            raise InputError(f"{num_heads} heads do not divide a width of {dim}")
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
            raise InputError("SimA attention takes no mask: there is no softmax to mask")
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
        plain = kernel.is_plain_inference(qkv)
        row = _divide_by_norms(qkv, row, plain, CLASS_NORM_FLOOR)
        x = row.view(batch, num_heads, 1, head_dim) @ k.transpose(-2, -1) @ v
        return cast(Tensor, self.proj_drop(self.proj(x.transpose(1, 2).flatten(2))))
