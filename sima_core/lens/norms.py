"""Capture how large each token is in the queries and keys, without changing the model.

With no softmax, a token's magnitude in Q̂ and K̂ is its influence (arXiv 2206.08898, section 3.3).
For comparison, models with other attention give the same for Q and K as they are projected.
"""

import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, overload

import torch
from timm.layers import Attention
from timm.models.cait import ClassAttn
from timm.models.xcit import XCA
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sima_core.attention.modules import SimAClassAttention, SimAttention
from sima_core.attention.operation import l1_normalize
from sima_core.models.cvt import ConvAttention, Cvt, SimAConvAttention

#: A layer counted from 1 (negative: from the end), several of them, or all.
Layers = int | Sequence[int] | Literal["all"]


#: Rows and columns of tokens.
Grid = tuple[int, int]

#: The kinds of attention that SimA's orders of the product apply to.
SIMA_KINDS = (SimAttention, SimAConvAttention)
#: The kinds of attention over patch tokens whose queries and keys can be captured.
KINDS = (*SIMA_KINDS, ConvAttention, Attention, XCA)
#: The kinds of attention in which only the class token asks.
CLASS_KINDS = (SimAClassAttention, ClassAttn)


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


def attention_layers(model: nn.Module) -> list[Any]:
    """The model's layers of attention over patch tokens, first layer first; through CvT's stages.

    Class attention is left out. Each layer is one of `KINDS` and has `num_heads`.

    Raises:
        ValueError: there is none.
    """
    layers = [module for module in model.modules() if isinstance(module, KINDS)]
    if not layers:
        kinds = ", ".join(f"{kind.__module__}.{kind.__name__}" for kind in KINDS)
        raise ValueError(
            f"{type(model).__name__} has no attention layers that are known: looked for {kinds}"
        )
    return layers


def sima_layers(model: nn.Module) -> list[SimAttention | SimAConvAttention]:
    """`attention_layers` of a model in which they are SimA, so that they have an `order`.

    Raises:
        ValueError: another kind of attention; says which models have SimA.
    """
    layers = attention_layers(model)
    if other := next((layer for layer in layers if not isinstance(layer, SIMA_KINDS)), None):
        raise ValueError(
            f"only SimA attention has two orders of the product, and {type(model).__name__} has "
            f"{type(other).__name__}: choose a model whose name starts with sima_, such as "
            "sima_small_12_p16, sima_deit_small_patch16_224 or sima_cvt_13"
        )
    return layers


def has_two_orders(model: nn.Module) -> bool:
    """Whether the model's attention is SimA's plain product, which may be taken in either order."""
    return any(isinstance(module, SIMA_KINDS) for module in model.modules())


def layer_numbers(layers: Layers, depth: int) -> list[int]:
    """Resolve `layers` to numbers from 1 to `depth`.

    Raises:
        ValueError: a layer that does not exist; the message names the range.
    """
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(f'layer must be a number, several numbers or "all"; got {layers!r}')
        return list(range(1, depth + 1))
    if isinstance(layers, Sequence) and not layers:
        raise ValueError("no layer was asked for: name at least one")
    numbers = []
    for layer in layers if isinstance(layers, Sequence) else [layers]:
        number = operator.index(layer)  # type: ignore[arg-type]  # strings raise TypeError
        if not 1 <= abs(number) <= depth:
            raise ValueError(
                f"there is no layer {layer}: layers run from 1 to {depth} (or -{depth} to -1)"
            )
        numbers.append(number if number > 0 else depth + 1 + number)
    return numbers


def hook_queries_keys(
    layer: Any, record: Callable[[Tensor, Tensor], None]
) -> list[RemovableHandle]:
    """Call `record` with Q and K, (B, N, C) and (B, M, C), whenever this thread has run `layer`.

    Q and K are what the projections give, heads side by side, bias included; after q_norm and
    k_norm where the layer has them, and before every other normalisation or scale: SimA's
    ℓ1-norms, XCA's ℓ2-norms, the scale of softmax.

    Args:
        layer: one of `KINDS` or `CLASS_KINDS` (there Q may have the class token only: N = 1).

    Returns:
        The hooks, for the caller to remove.
    """
    thread = threading.get_ident()
    if isinstance(layer, SimAttention | SimAClassAttention | XCA):

        def split(module: nn.Module, args: tuple[Any, ...], qkv: Tensor) -> None:
            if threading.get_ident() == thread:
                query, key, _ = qkv.detach().chunk(3, dim=-1)
                record(query, key)

        return [layer.qkv.register_forward_hook(split)]

    seen: dict[str, Tensor] = {}

    def keep_query(module: nn.Module, args: tuple[Any, ...], query: Tensor) -> None:
        if threading.get_ident() == thread:
            seen["query"] = _tokens(query.detach())

    def give_both(module: nn.Module, args: tuple[Any, ...], key: Tensor) -> None:
        if threading.get_ident() == thread:
            record(seen.pop("query"), _tokens(key.detach()))

    if isinstance(layer, Attention):
        query, key = layer.q_norm, layer.k_norm
    elif isinstance(layer, ConvAttention):
        query, key = layer.proj_q, layer.proj_k
    else:
        query, key = layer.q, layer.k
    return [query.register_forward_hook(keep_query), key.register_forward_hook(give_both)]


def _tokens(x: Tensor) -> Tensor:
    """(B, H, N, d), (B, N, C) or one token's (B, C) as (B, N, C)."""
    if x.ndim == 4:
        return x.transpose(1, 2).flatten(2)
    return x if x.ndim == 3 else x.unsqueeze(1)


class NormRecorder:
    """Context manager that records the token norms of the forward passes inside it.

    Only the layers asked for are hooked, at the projections that make Q and K; outputs are not
    changed, and the hooks are removed on leaving, also on an error. Forward passes of other threads
    through the same model are not recorded. `token_norms` says which tensors are measured.

    Raises:
        ValueError: no known attention layers in the model, or a layer that does not exist.
    """

    def __init__(self, model: nn.Module, layers: Layers = 12) -> None:
        self._modules = attention_layers(model)
        self._model = model
        self._numbers = layer_numbers(layers, len(self._modules))
        self._handles: list[RemovableHandle] = []
        self._norms: dict[int, tuple[Tensor, Tensor]] = {}
        self._size = (0, 0)
        self._thread = threading.get_ident()
        patch_size(model)  # a model without patches is refused here

    def __enter__(self) -> Self:
        self._handles.append(self._model.register_forward_pre_hook(self._note_size))
        for number in set(self._numbers):
            module = self._modules[number - 1]
            self._handles += hook_queries_keys(module, self._recorder(number, module))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _note_size(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == self._thread:
            height, width = args[0].shape[-2:]
            require_whole_patches(module, height, width)
            self._size = (height, width)

    def _recorder(self, number: int, module: Any) -> Callable[[Tensor, Tensor], None]:
        normalized = isinstance(module, SIMA_KINDS) and module.normalizes

        def record(query: Tensor, key: Tensor) -> None:
            self._norms[number] = (
                _norms_per_head(query, module.num_heads, normalized),
                _norms_per_head(key, module.num_heads, normalized),
            )

        return record

    def norms(self, per_head: bool = False) -> dict[int, TokenNorms]:
        """The last forward pass's norms by layer number; shapes as in `TokenNorms`."""
        found = {}
        for number in self._numbers:
            # Class, distillation and register tokens come first; they count in the ℓ1-norms above
            # but have no place in the picture.
            q, k = (
                on_grid(norms, grid)
                for norms, grid in zip(
                    self._norms[number],
                    token_grids(self._model, number, *self._size),
                    strict=True,
                )
            )
            norms = TokenNorms(q, k)
            found[number] = norms if per_head else norms.over_heads()
        return found


def patch_size(model: nn.Module) -> int:
    """The side of the model's square patches in pixels; a picture's sides are multiples of it.

    For CvT, whose patches overlap, the pixels from one token of its last stage to the next.

    Raises:
        ValueError: the model has no patches.
    """
    if isinstance(model, Cvt):
        return model.stride
    size: Any = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size is None:
        raise ValueError(
            f"{type(model).__name__} has no patches that are known: looked for "
            "patch_embed.patch_size and for sima_core.cvt.Cvt"
        )
    return int(size[0] if isinstance(size, Sequence) else size)


def require_whole_patches(model: nn.Module, height: int, width: int) -> None:
    """Refuse a size in pixels that `patch_size` does not divide.

    Raises:
        ValueError: it does not.
    """
    size = patch_size(model)
    if height % size or width % size:
        raise ValueError(
            f"the input's sides must be multiples of the patch ({size}); got {height} × {width}"
        )


def token_grids(model: nn.Module, layer: int, height: int, width: int) -> tuple[Grid, Grid]:
    """(rows, cols) of the queries and of the keys of a layer, for a picture of this many pixels.

    Args:
        layer: counted from 1.
    """
    size = patch_size(model)
    query, key = size, size
    if isinstance(model, Cvt):
        query, key = list(_strides(model))[layer - 1]
    return (-(-height // query), -(-width // query)), (-(-height // key), -(-width // key))


def _strides(model: Cvt) -> Iterator[tuple[int, int]]:
    """For each layer the pixels from one query, and from one key, to the next."""
    for stage in model.stages:
        for _ in stage.blocks:
            yield stage.stride, stage.stride * ConvAttention.key_stride


def on_grid(tokens: Tensor, grid: Grid) -> Tensor:
    """The patch tokens, (..., N), as (..., rows, cols): the last ones, since others come first.

    Raises:
        ValueError: fewer tokens than the grid has.
    """
    rows, cols = grid
    if tokens.shape[-1] < rows * cols:
        raise ValueError(
            f"the layer has {tokens.shape[-1]} tokens, and the picture {rows} × {cols} patches: "
            "this model drops or merges patches"
        )
    return tokens[..., -rows * cols :].reshape(*tokens.shape[:-1], rows, cols)


def _norms_per_head(tokens: Tensor, num_heads: int, normalized: bool) -> Tensor:
    """ℓ2-norm of each token, head by head: (B, N, C) to (B, H, N), float32.

    Works in the projection's own layout, so that every pass runs through memory in order.

    Args:
        normalized: whether to divide each channel by its ℓ1-norm over the tokens first, as SimA.
    """
    tokens = tokens.float()
    if normalized:
        tokens = l1_normalize(tokens)  # channel by channel, so heads do not matter yet
    by_head = tokens.reshape(*tokens.shape[:2], num_heads, -1)
    norms: Tensor = torch.linalg.vector_norm(by_head, dim=-1)
    return norms.transpose(1, 2)


@overload
def token_norms(
    model: nn.Module, pixels: Tensor, layer: int = 12, per_head: bool = False
) -> TokenNorms: ...
@overload
def token_norms(
    model: nn.Module,
    pixels: Tensor,
    layer: Sequence[int] | Literal["all"],
    per_head: bool = False,
) -> dict[int, TokenNorms]: ...
def token_norms(
    model: nn.Module, pixels: Tensor, layer: Layers = 12, per_head: bool = False
) -> TokenNorms | dict[int, TokenNorms]:
    """The ℓ2-norm of every patch token among the queries and among the keys, in one forward pass.

    SimA layers give the norms in Q̂ and K̂: each channel divided by its ℓ1-norm over the tokens,
    class, distillation and register tokens included. Softmax layers and XCA give them in Q and K,
    as the paper does for DeiT: what the projections give, bias included. Where a softmax layer has
    q_norm and k_norm, they come first, since its product sees nothing else; the scale 1/√d does
    not. Nor do XCA's ℓ2-norms, which rescale whole channels and not tokens, and its temperature.

    Class, distillation and register tokens are left out, and so are class-attention layers. CvT's
    layers count through its stages.

    Args:
        model: a model of DeiT's, XCiT's or CvT's kind (`models.ARCHITECTURES`; any with layers of
            `KINDS`); put it in eval mode first.
        pixels: (batch, 3, rows·patch, cols·patch), normalised; `patch_size` gives the patch.
        layer: an int counted from 1 (negative: from the end), a sequence of them, or ``"all"``.
        per_head: one map a head instead of one over all heads.

    Returns:
        One `TokenNorms` for an int; otherwise a dict from layer number (1 and up) to one.

    Raises:
        ValueError: a layer that does not exist, a model without layers that are known, or sides
            that are not multiples of the patch.

    Source: arXiv 2206.08898, section 3.3 and figure 2 (layer 12).
    """
    with NormRecorder(model, layer) as recorder, torch.no_grad():
        model(pixels)
    norms = recorder.norms(per_head)
    return norms if isinstance(layer, Sequence) else next(iter(norms.values()))
