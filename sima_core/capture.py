"""Capture how large each token is in Q̂ and K̂, without changing the model.

With no softmax, a token's magnitude in Q̂ and K̂ is its influence (arXiv 2206.08898, section 3.3).
"""

import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, overload

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .attention import SimAttention, l1_normalize

#: A layer counted from 1 (negative: from the end), several of them, or all.
Layers = int | Sequence[int] | Literal["all"]


@dataclass(frozen=True)
class TokenNorms:
    """ℓ2-norms of the patch tokens of Q̂ and K̂ in one layer, float32.

    Each is (batch, rows, cols) over all heads and channels, or (batch, heads, rows, cols).
    """

    query: Tensor
    key: Tensor

    def over_heads(self) -> Self:
        """Norms over all heads from per-head norms: (batch, heads, rows, cols) loses `heads`."""
        return type(self)(
            torch.linalg.vector_norm(self.query, dim=1), torch.linalg.vector_norm(self.key, dim=1)
        )


def attention_layers(model: nn.Module) -> list[SimAttention]:
    """The model's SimA layers over patch tokens, first layer first; class attention is left out.

    Raises:
        ValueError: there is none.
    """
    layers = [m for m in model.modules() if isinstance(m, SimAttention)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no SimA layers: looked for sima_core.SimAttention modules"
        )
    return layers


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


class NormRecorder:
    """Context manager that records the token norms of the forward passes inside it.

    Only the layers asked for are hooked, at the projection that makes Q and K; outputs are not
    changed, and the hooks are removed on leaving, also on an error. Forward passes of other threads
    through the same model are not recorded.

    Raises:
        ValueError: no SimA layers in the model, or a layer that does not exist.
    """

    def __init__(self, model: nn.Module, layers: Layers = 12) -> None:
        self._modules = attention_layers(model)
        self._patch_size = patch_size(model)
        self._model = model
        self._numbers = layer_numbers(layers, len(self._modules))
        self._handles: list[RemovableHandle] = []
        self._norms: dict[int, tuple[Tensor, Tensor]] = {}
        self._grid = (0, 0)
        self._thread = threading.get_ident()

    def __enter__(self) -> Self:
        self._handles.append(self._model.register_forward_pre_hook(self._note_grid))
        for number in set(self._numbers):
            module = self._modules[number - 1]
            hook = self._norm_hook(number, module.num_heads)
            self._handles.append(module.qkv.register_forward_hook(hook))
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

    def _note_grid(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread:
            return
        height, width = args[0].shape[-2:]
        if height % self._patch_size or width % self._patch_size:
            raise ValueError(
                f"the input's sides must be multiples of the patch ({self._patch_size}); "
                f"got {height} × {width}"
            )
        self._grid = (height // self._patch_size, width // self._patch_size)

    def _norm_hook(
        self, number: int, num_heads: int
    ) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], qkv: Tensor) -> None:
            if threading.get_ident() == self._thread:
                self._norms[number] = _token_norms(qkv, num_heads)

        return hook

    def norms(self, per_head: bool = False) -> dict[int, TokenNorms]:
        """The last forward pass's norms by layer number; shapes as in `TokenNorms`."""
        found = {}
        num_patches = self._grid[0] * self._grid[1]
        for number in self._numbers:
            # Class, distillation and register tokens come first; they count in the ℓ1-norms above
            # but have no place in the picture.
            q, k = (
                n[..., -num_patches:].reshape(*n.shape[:-1], *self._grid)
                for n in self._norms[number]
            )
            norms = TokenNorms(q, k)
            found[number] = norms if per_head else norms.over_heads()
        return found


def patch_size(model: nn.Module) -> int:
    """The side of the model's square patches, in pixels."""
    size: Any = model.patch_embed.patch_size  # type: ignore[union-attr]
    return int(size[0] if isinstance(size, Sequence) else size)


def _token_norms(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """ℓ2-norm of each token of Q̂ and K̂, head by head: (B, N, 3·C) to twice (B, H, N), float32.

    Works in the projection's own layout, so that every pass runs through memory in order.
    """
    batch, num_tokens, width = qkv.shape
    queries_keys = qkv.detach()[..., : 2 * width // 3].float()
    normalized = l1_normalize(queries_keys)  # channel by channel, so heads do not matter yet
    norms = torch.linalg.vector_norm(
        normalized.view(batch, num_tokens, 2, num_heads, width // (3 * num_heads)), dim=-1
    )
    query, key = norms.permute(2, 0, 3, 1).unbind(0)
    return query, key


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
    """The ℓ2-norm of every patch token of Q̂ and of K̂, from one forward pass.

    Args:
        model: a SimA model; put it in eval mode first.
        pixels: (batch, 3, rows·patch, cols·patch), normalised.
        layer: an int counted from 1 (negative: from the end), a sequence of them, or ``"all"``.
        per_head: one map a head instead of one over all heads.

    Returns:
        One `TokenNorms` for an int; otherwise a dict from layer number (1 and up) to one.

    Raises:
        ValueError: a layer that does not exist, a model without SimA layers, or sides that are not
            multiples of the patch.

    Source: arXiv 2206.08898, section 3.3 and figure 2 (layer 12).
    """
    with NormRecorder(model, layer) as recorder, torch.no_grad():
        model(pixels)
    norms = recorder.norms(per_head)
    return norms if isinstance(layer, Sequence) else next(iter(norms.values()))
