"""CvT, the convolutional vision transformer, with its own attention or with SimA.

Three stages of ever fewer and wider tokens; q, k and v come through depthwise convolutions, which
halve the grid of k and v. timm has no CvT, so it is put together here from timm's layers, with the
parameter names under which the weights were published.

Source: Wu et al., "CvT: Introducing Convolutions to Vision Transformers", arXiv 2103.15808.
Shapes: B images, C channels, P class tokens (one in the last stage, none before).
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, get_act_layer, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from sima_core.attention.operation import Order, choose_order, sima_cross_attention
from sima_core.errors import InputError

#: Kernel, stride and padding of each stage's patch embedding.
_EMBEDDINGS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))


class ConvAttention(nn.Module):
    """CvT's softmax attention: (B, P + rows·cols, dim) to the same shape.

    Queries keep the grid of rows × cols; keys and values have every second row and column.
    """

    #: Steps on the tokens' grid from one key to the next.
    key_stride = 2

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise InputError(f"{num_heads} heads do not divide a width of {dim}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = dim**-0.5  # of the whole width, not of a head: as published
        for name, stride in (("q", 1), ("k", self.key_stride), ("v", self.key_stride)):
            convolution = nn.Conv2d(
                dim, dim, 3, stride, 1, groups=dim, bias=False, device=device, dtype=dtype
            )
            norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)
            layers: OrderedDict[str, nn.Module] = OrderedDict(conv=convolution, bn=norm)
            self.add_module(f"conv_proj_{name}", nn.Sequential(layers))
        self.proj_q = nn.Linear(dim, dim, bias=qkv_bias, device=device, dtype=dtype)
        self.proj_k = nn.Linear(dim, dim, bias=qkv_bias, device=device, dtype=dtype)
        self.proj_v = nn.Linear(dim, dim, bias=qkv_bias, device=device, dtype=dtype)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, rows: int, cols: int) -> Tensor:
        num_patches = rows * cols
        class_tokens, patches = torch.split(x, [x.shape[1] - num_patches, num_patches], dim=1)
        grid = torch.unflatten(patches.transpose(1, 2), 2, (rows, cols))

        def tokens(convolution: nn.Module) -> Tensor:
            found: Tensor = convolution(grid).flatten(2).transpose(1, 2)
            return torch.cat([class_tokens, found], dim=1) if class_tokens.shape[1] else found

        q = self.proj_q(tokens(cast(nn.Module, self.conv_proj_q)))
        k = self.proj_k(tokens(cast(nn.Module, self.conv_proj_k)))
        v = self.proj_v(tokens(cast(nn.Module, self.conv_proj_v)))
        return cast(Tensor, self.proj_drop(self.proj(self.attend(q, k, v))))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(QKᵀ·scale)V: (B, N, dim), (B, M, dim) twice, to (B, N, dim)."""
        q, k, v = (t.reshape(*t.shape[:2], self.num_heads, -1).transpose(1, 2) for t in (q, k, v))
        dropout = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        return x.transpose(1, 2).flatten(2)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"


class SimAConvAttention(ConvAttention):
    """SimA in place of CvT's softmax, with the same parameters and shapes.

    Q̂ and K̂ are normalised over their own tokens, a class token included. `order` may be changed at
    any time; see `attention.sima_cross_attention`.

    Raises:
        InputError: a width that the heads do not divide, attention dropout, or an unknown order.
    """

    def __init__(self, dim: int, num_heads: int, order: Order = "auto", **options: Any) -> None:
        if options.get("attn_drop"):
            raise InputError("SimA attention has no attention dropout: leave it off")
        choose_order(order, 1, 1)  # reject an unknown name here rather than at the first forward
        super().__init__(dim, num_heads, **options)
        self.order: Order = order

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.product(q, k, v, order=self.order)

    def product(self, q: Tensor, k: Tensor, v: Tensor, *, order: Order) -> Tensor:
        """What attention makes of its projections: (B, N, dim) and two (B, M, dim) to the first."""
        return sima_cross_attention(q, k, v, self.num_heads, order)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, order={self.order!r}"


class ConvEmbed(nn.Module):
    """Overlapping patches to tokens: (B, in_chans, height, width) to (B, dim, rows, cols)."""

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel: int,
        stride: int,
        padding: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel, stride, padding, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        normalized: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return normalized.permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """Attention and MLP around residuals: (B, P + rows·cols, dim) to the same shape."""

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        mlp_ratio: float = 4.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.attn = attention
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mlp = Mlp(
            dim,
            int(dim * mlp_ratio),
            act_layer=get_act_layer("quick_gelu"),
            drop=proj_drop,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor, rows: int, cols: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), rows, cols))
        return cast(Tensor, x + self.drop_path(self.mlp(self.norm2(x))))


class Stage(nn.Module):
    """Patch embedding and blocks: (B, in_chans, height, width) to the class tokens and the grid.

    Returns (B, P, dim) and (B, dim, rows, cols). `stride` is how many pixels of the picture one
    step on the grid spans.
    """

    def __init__(
        self, embedding: ConvEmbed, blocks: Sequence[nn.Module], stride: int, class_token: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.has_class_token = class_token
        self.patch_embed = embedding
        bias = embedding.norm.bias
        self.cls_token = nn.Parameter(bias.new_zeros(1, 1, len(bias))) if class_token else None
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch_embed(x)
        rows, cols = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        num_patches = x.shape[1]
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, rows, cols)
        class_tokens, x = torch.split(x, [x.shape[1] - num_patches, num_patches], dim=1)
        return class_tokens, torch.unflatten(x.transpose(1, 2), 2, (rows, cols))


class Cvt(nn.Module):
    """CvT: (B, in_chans, height, width) to (B, num_classes), for pictures of any size and shape.

    The grids come out even for sides that are multiples of `stride`.

    Args:
        embed_dim, depth, num_heads: one number a stage; one for all stages may be given as an int.
        attn_layer: `ConvAttention` or `SimAConvAttention`.
        drop_path_rate: the last block's; rises from 0 within the last stage, as published.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int | Sequence[int] = (64, 192, 384),
        depth: int | Sequence[int] = (1, 2, 10),
        num_heads: int | Sequence[int] = (1, 3, 6),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        attn_layer: type[ConvAttention] = ConvAttention,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dims, depths, heads = map(_per_stage, (embed_dim, depth, num_heads))
        place: dict[str, Any] = {"device": device, "dtype": dtype}

        def block(dim: int, num_heads: int, drop_path: float) -> nn.Module:
            drops: dict[str, Any] = {"attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate}
            attention = attn_layer(dim, num_heads, qkv_bias=qkv_bias, **drops, **place)
            return ConvBlock(dim, attention, mlp_ratio, proj_drop_rate, drop_path, **place)

        self.stride = 1
        for number, (kernel, stride, padding) in enumerate(_EMBEDDINGS):
            last = number == len(_EMBEDDINGS) - 1
            rates = calculate_drop_path_rates(drop_path_rate if last else 0.0, depths[number])
            channels, dim = dims[number - 1] if number else in_chans, dims[number]
            self.stride *= stride
            blocks = [block(dim, heads[number], rate) for rate in rates]
            embedding = ConvEmbed(channels, dim, kernel, stride, padding, **place)
            self.add_module(f"stage{number}", Stage(embedding, blocks, self.stride, last))
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = self.embed_dim = dims[-1]
        self.num_prefix_tokens = 1
        self.feature_info = [
            {"num_chs": dims[i], "reduction": stage.stride, "module": f"stage{i}"}
            for i, stage in enumerate(self.stages)
        ]
        self.norm = nn.LayerNorm(dims[-1], device=device, dtype=dtype)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._new_head(num_classes, device, dtype)
        self.apply(_init_weights)
        trunc_normal_(self.stages[-1].cls_token, std=0.02)

    @property
    def stages(self) -> list[Stage]:
        """The stages in order."""
        return [cast(Stage, getattr(self, f"stage{i}")) for i in range(len(_EMBEDDINGS))]

    def forward_features(self, x: Tensor) -> Tensor:
        """The normalised class token: (B, in_chans, height, width) to (B, 1, num_features)."""
        for stage in self.stages:
            class_tokens, x = stage(x)
        return cast(Tensor, self.norm(class_tokens))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 1, num_features) to (B, num_classes)."""
        x = self.head_drop(x[:, 0])
        return x if pre_logits else cast(Tensor, self.head(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer, as timm's training scripts ask for it."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh last layer in; only the class token can be pooled.

        Raises:
            InputError: another `global_pool` than "token".
        """
        if global_pool not in (None, "token"):
            raise InputError(f'CvT has a class token: global_pool is "token"; got {global_pool!r}')
        self.num_classes = num_classes
        self.head = self._new_head(num_classes, self.norm.weight.device, self.norm.weight.dtype)
        _init_weights(self.head)
        self.head.train(self.training)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, for timm's optimisers."""
        return {f"stage{len(_EMBEDDINGS) - 1}.cls_token"}

    def _new_head(
        self,
        num_classes: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> nn.Module:
        if not num_classes:
            return nn.Identity()
        return nn.Linear(self.num_features, num_classes, device=device, dtype=dtype)


def _per_stage(value: int | Sequence[int]) -> tuple[int, ...]:
    """One number a stage.

    Raises:
        InputError: another count of numbers than there are stages.
    """
    numbers = (value,) * len(_EMBEDDINGS) if isinstance(value, int) else tuple(value)
    if len(numbers) != len(_EMBEDDINGS):
        raise InputError(f"CvT has {len(_EMBEDDINGS)} stages: give a number for each; got {value}")
    return numbers


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
