"""What a model's attention layers are, read once from the model itself.

Models say what they are: timm's `feature_info` tells how many pixels a token stands for, and
`has_class_token` whether a class token goes with the patches. No family of models is known here.
"""

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sima_core.errors import InputError
from sima_core.lens.kinds import ATTENTION_KINDS, AttentionKind, kind_of
from sima_core.time_limit import check_time, is_limited
from sima_core.words import plain

#: A layer counted from 1 (negative: from the end), several of them, or all.
Layers = int | Sequence[int] | Literal["all"]
#: Rows and columns of tokens.
Grid = tuple[int, int]
#: Whose norms: those of the queries, or of the keys.
Side = Literal["query", "key"]
SIDES: tuple[Side, ...] = ("query", "key")

#: Class, distillation and register tokens before those of the patches are never more.
MOST_PREFIX_TOKENS = 16

_HAT = "\N{COMBINING CIRCUMFLEX ACCENT}"


@dataclass(frozen=True)
class Layer:
    """One attention layer: facts, which hold as long as the model has the layer."""

    #: Counted from 1 over the layers of patch tokens; class attention has numbers of its own.
    number: int
    #: The module's name in the model, such as ``blocks.11.attn``.
    name: str
    kind: AttentionKind
    num_heads: int
    #: Channels of a head.
    head_dim: int
    #: The row of the class token among the queries; None where it takes no part.
    class_row: int | None
    #: Pixels of the picture from one query, and from one key, to the next.
    query_stride: int
    key_stride: int

    @property
    def attention(self) -> str:
        """ "SimA", "softmax", "XCA" or "plain QKᵀV"."""
        return self.kind.name

    @property
    def normalizes(self) -> bool:
        """Whether Q and K become Q̂ and K̂."""
        return self.kind.normalizes

    @property
    def has_two_orders(self) -> bool:
        """Whether the product may be taken in either order."""
        return self.kind.has_two_orders

    def symbol(self, side: Side) -> str:
        """``Q̂`` or ``K̂``; without the hat where nothing is normalised."""
        return side[0].upper() + (_HAT if self.normalizes else "")

    def grids(self, height: int, width: int) -> tuple[Grid, Grid]:
        """(rows, cols) of the queries and of the keys, for a picture of so many pixels."""
        return (
            (-(-height // self.query_stride), -(-width // self.query_stride)),
            (-(-height // self.key_stride), -(-width // self.key_stride)),
        )

    def is_in(self, model: nn.Module) -> bool:
        """Whether `model` still has this layer; a conversion may have taken its place."""
        try:
            return kind_of(model.get_submodule(self.name)) is self.kind
        except AttributeError:
            return False

    def module(self, model: nn.Module) -> Any:
        """The layer itself."""
        return model.get_submodule(self.name)


def find_layers(
    model: nn.Module, over_patches: bool = True, required: bool = True
) -> tuple[Layer, ...]:
    """The model's attention layers over patch tokens, first layer first; through CvT's stages.

    Args:
        over_patches: False gives its layers of class attention instead.
        required: False gives none where there are none.

    Raises:
        InputError: there is no attention, or there are no patches, that are known.
    """
    found = [
        (name, module, kind)
        for name, module in model.named_modules()
        if (kind := kind_of(module)) is not None and kind.over_patches == over_patches
    ]
    if not found and not required:
        return ()
    if not found:
        known = (kind.module for kind in ATTENTION_KINDS if kind.over_patches == over_patches)
        listed = ", ".join(f"{module.__module__}.{module.__name__}" for module in known)
        raise InputError(
            f"{type(model).__name__} has no attention layers that are known: looked for {listed}"
        )
    strides = _strides(model)
    layers = []
    for number, (name, module, kind) in enumerate(found, 1):
        stride = _of_nearest(name, strides)
        layers.append(
            Layer(
                number,
                name,
                kind,
                int(module.num_heads),
                int(module.head_dim) if hasattr(module, "head_dim") else _head_dim(module),
                _class_row(model, name, kind),
                stride,
                stride * kind.key_stride,
            )
        )
    return tuple(layers)


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Let a model be run without changing it: no gradients, and in eval mode as long as it lasts.

    A model in training would otherwise drop tokens at random, and learn statistics of its batches.

    Raises:
        OutOfTimeError: out of the model, where there is a `time_limit`.
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad(), _watching_the_time(model):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _watching_the_time(model: nn.Module) -> Iterator[None]:
    """Look at the clock before each block, where there is a limit; each module would cost more."""
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential))
    blocks = {block for found in lists for block in found} if is_limited() else ()
    hooks = [b.register_forward_pre_hook(lambda module, args: check_time()) for b in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def patch_size(model: nn.Module) -> int:
    """The side of the model's patches in pixels; a picture's sides are multiples of it.

    Where tokens grow through the stages, as in CvT, that of the last stage's.

    Raises:
        InputError: the model has no patches.
    """
    return max(_strides(model).values())


def require_pixels(pixels: object) -> None:
    """Refuse what no model takes in place of pictures.

    Raises:
        InputError: it is no tensor of real numbers in four dimensions.
    """
    if not (isinstance(pixels, Tensor) and pixels.ndim == 4 and pixels.is_floating_point()):
        raise InputError(
            "pixels must be a tensor of real numbers, (batch, 3, height, width), as "
            "Lens.preprocess makes it of a picture"
        )


def require_fitting(model: Any, height: int, width: int) -> None:
    """Refuse a picture's sides, in pixels, that the model does not take.

    Raises:
        InputError: the patch does not divide them, or the model was made for other ones alone.
    """
    size, embedding = patch_size(model), getattr(model, "patch_embed", None)
    fixed = getattr(embedding, "img_size", None)
    if fixed and getattr(embedding, "strict_img_size", False) and tuple(fixed) != (height, width):
        raise InputError(
            f"this model takes pictures of {fixed[0]} × {fixed[1]} pixels alone, and got "
            f"{height} × {width}: make it with dynamic_img_size=True"
        )
    if height % size or width % size:
        raise InputError(
            f"the input's sides must be multiples of the patch ({size}); got {height} × {width}"
        )


def layer_numbers(layers: Layers, depth: int) -> list[int]:
    """Resolve `layers` to numbers from 1 to `depth`.

    Raises:
        InputError: a layer that does not exist; the message names the range.
    """
    if isinstance(layers, str):
        if layers != "all":
            raise InputError(
                f'layer must be a number, several numbers or "all"; got {plain(layers)!r}'
            )
        return list(range(1, depth + 1))
    if isinstance(layers, Sequence) and not layers:
        raise InputError("no layer was asked for: name at least one")
    numbers = []
    for layer in layers if isinstance(layers, Sequence) else [layers]:
        number = _whole(layer, "layer")
        if not 1 <= abs(number) <= depth:
            raise InputError(
                f"there is no layer {plain(layer)}: layers run from 1 to {depth} "
                f"(or -{depth} to -1)"
            )
        numbers.append(number if number > 0 else depth + 1 + number)
    return numbers


def require_head(head: int | None, num_heads: int) -> None:
    """Refuse a head, counted from 1, that does not exist; None means all of them.

    Raises:
        InputError: it does not exist.
    """
    if head is not None and not 1 <= _whole(head, "head") <= num_heads:
        raise InputError(f"there is no head {plain(head)}: heads run from 1 to {num_heads}")


def _whole(number: object, what: str) -> int:
    try:
        return operator.index(number)  # type: ignore[arg-type]  # anything else is a TypeError
    except TypeError:
        raise InputError(f"a {what} is a whole number; got {plain(repr(number))}") from None


def on_grid(tokens: Tensor, grid: Grid) -> Tensor:
    """The patch tokens, (..., N), as (..., rows, cols): the last ones, since others come first.

    Raises:
        InputError: fewer tokens than the grid has, or so many more that it must be another grid.
    """
    rows, cols = grid
    if not 0 <= tokens.shape[-1] - rows * cols <= MOST_PREFIX_TOKENS:
        raise InputError(
            f"the layer has {tokens.shape[-1]} tokens, and the picture {rows} × {cols} patches: "
            "this model drops or merges patches, lets them overlap, or has several grids"
        )
    return tokens[..., -rows * cols :].reshape(*tokens.shape[:-1], rows, cols)


def _strides(model: Any) -> dict[str, int]:
    """Pixels from one token to the next, by the name of the part of the model where they hold."""
    size: Any = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if isinstance(size, Sequence) and len(set(size)) > 1:
        raise InputError(f"patches must be square, and this model's are {size[0]} × {size[1]}")
    told = getattr(model, "feature_info", None)
    if isinstance(told, list) and told:
        return {str(part["module"]): int(part["reduction"]) for part in told}
    if size is None:
        raise InputError(
            f"{type(model).__name__} has no patches that are known: looked for feature_info, as "
            "timm's models have it, and for patch_embed.patch_size"
        )
    return {"": size[0] if isinstance(size, Sequence) else int(size)}


def _of_nearest(name: str, strides: dict[str, int]) -> int:
    """The stride that holds for the module `name`: that of the part it lies in, else the last."""
    parts = [part for part in strides if not part or f"{name}.".startswith(f"{part}.")]
    return strides[max(parts, key=len)] if parts else list(strides.values())[-1]


def _class_row(model: nn.Module, name: str, kind: AttentionKind) -> int | None:
    """0 if the nearest module around the layer that speaks of a class token says there is one."""
    if not kind.over_patches:
        return 0
    while name:
        name = name.rpartition(".")[0]
        has_class_token = getattr(model.get_submodule(name), "has_class_token", None)
        if has_class_token is not None:
            return 0 if has_class_token else None
    return None


def _head_dim(module: Any) -> int:
    """Channels of a head, by what the output projection takes in."""
    return int(module.proj.in_features) // int(module.num_heads)
