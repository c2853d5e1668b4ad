"""The architectures of the SimA paper: DeiT, XCiT and CvT, with their own attention and with SimA.

After ``import sima_core``, ``timm.create_model("sima_small_12_p16")`` builds one; `create_model`
builds timm's own ones too, ready for pictures of any size. Names, widths and hyper-parameters are
those of the published models (arXiv 2206.08898, section 4.1). Names that end in ``_1h`` are the
same with a single head.
"""

import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    VisionTransformer,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from timm.models.xcit import Xcit
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sima_core.attention.modules import PlainAttention, SimAClassAttention, SimAttention
from sima_core.defaults import RESOLUTION
from sima_core.models.cvt import Cvt, SimAConvAttention

__all__: list[str] = ["ARCHITECTURES", "Architecture", "SimAXcit", "architectures", "create_model"]


class SimAXcit(Xcit):  # type: ignore[misc]  # timm is untyped
    """timm's XCiT with SimA in place of cross-covariance attention and of class attention.

    (B, 3, rows·patch, cols·patch) to (B, num_classes); any picture whose sides are multiples of
    the patch, square or not.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for block in self.blocks:
            block.attn = SimAttention.from_attention(block.attn)
        for block in self.cls_attn_blocks:
            timm_attn = block.attn  # keeps q, k and v apart; the published weights are fused
            block.attn = SimAClassAttention(
                self.embed_dim,
                timm_attn.num_heads,
                qkv_bias=timm_attn.q.bias is not None,
                proj_drop=timm_attn.proj_drop.p,
                device=timm_attn.q.weight.device,
                dtype=timm_attn.q.weight.dtype,
            )
            block.attn.apply(self._init_weights)


def translate_names(
    state_dict: dict[str, Tensor], model: nn.Module | None = None
) -> dict[str, Tensor]:
    """Published parameter names to those used here.

    The position encoding of XCiT is spelt differently, and timm keeps q, k and v of its class
    attention apart.
    """
    state_dict = {name.replace("pos_embeder.", "pos_embed."): t for name, t in state_dict.items()}
    layers = sum(bool(re.fullmatch(r"blocks\.\d+\.attn\.qkv\.weight", n)) for n in state_dict)
    if not 0 < layers == sum(name.endswith(".attn.temperature") for name in state_dict):
        return state_dict  # SimA fuses them, as published; only XCA has a temperature a layer
    split: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        fused = name.startswith("cls_attn_blocks.") and ".qkv." in name
        if fused and tensor.dim() and len(tensor) % 3 == 0:
            for part, of in zip("qkv", tensor.chunk(3), strict=True):
                split[name.replace(".qkv.", f".{part}.")] = of
        else:
            split[name] = tensor
    return split


@dataclass(frozen=True)
class Recipe:
    """How an architecture is built."""

    family: str
    #: "softmax", "XCA", "SimA" or "plain QKᵀV".
    attention: str
    #: Heads and blocks; one number a stage where the model has stages.
    num_heads: int | tuple[int, ...]
    depth: int | tuple[int, ...]
    #: The model's class; None for timm's own architectures.
    build: type[nn.Module] | None = None
    #: Further constructor arguments.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: How the published models were evaluated, for `timm.data`.
    config: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """All constructor arguments; for timm's own, those that its name does not imply."""
        own = {} if self.build is None else {"num_heads": self.num_heads, "depth": self.depth}
        return {**own, **self.options}


_XCIT_WIDTH_HEADS = {
    "nano": (128, 4),
    "tiny": (192, 4),
    "small": (384, 8),
    "medium": (512, 8),
    "large": (768, 16),
}
_DEIT_WIDTH_HEADS = {"nano": (128, 4), "tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
_CVT_DEPTHS = {"13": (1, 2, 10), "21": (1, 4, 16)}

_XCIT_CONFIG = {"crop_pct": 1.0, "first_conv": "patch_embed.proj.0.0"}
_DEIT_CONFIG = {"crop_pct": 0.9, "first_conv": "patch_embed.proj"}
_CVT_CONFIG = {"crop_pct": 0.875, "first_conv": "stage0.patch_embed.proj"}


def _xcit_family() -> Iterator[tuple[str, Recipe]]:
    """The 14 published SimA architectures and timm's XCiT, which are alike but for attention."""
    sizes = [
        (size, depth, patch)
        for depth, names in (
            (12, ("nano", "tiny", "small")),
            (24, ("tiny", "small", "medium", "large")),
        )
        for size in names
        for patch in (16, 8)
    ]
    for size, depth, patch in sizes:
        width, heads = _XCIT_WIDTH_HEADS[size]
        options = {
            "patch_size": patch,
            "embed_dim": width,
            "eta": 1.0 if depth == 12 else 1e-5,
            "tokens_norm": size != "nano",
        }
        yield (
            f"sima_{size}_{depth}_p{patch}",
            Recipe("XCiT", "SimA", heads, depth, SimAXcit, options, _XCIT_CONFIG),
        )
    for resolution in (224, 384):  # the same network, trained at two sizes
        for size, depth, patch in sizes:
            heads = _XCIT_WIDTH_HEADS[size][1]
            yield f"xcit_{size}_{depth}_p{patch}_{resolution}", Recipe("XCiT", "XCA", heads, depth)


def _deit_family() -> Iterator[tuple[str, Recipe]]:
    """DeiT as timm has it, and with SimA and LayerScale.

    The nano size, as wide as XCiT's, is no published one: it is small enough to train on two cores
    (`twins`), with SimA without its normalisation (``plain_``) beside it.
    """
    any_size = {"dynamic_img_size": True}

    def with_attention(size: str, attn_layer: type[nn.Module], attention: str) -> Recipe:
        width, heads = _DEIT_WIDTH_HEADS[size]
        options = {
            "patch_size": 16,
            "embed_dim": width,
            "attn_layer": attn_layer,
            "init_values": 1.0,
            **any_size,
        }
        return Recipe("DeiT", attention, heads, 12, VisionTransformer, options, _DEIT_CONFIG)

    for size in _DEIT_WIDTH_HEADS:
        yield f"sima_deit_{size}_patch16_224", with_attention(size, SimAttention, "SimA")
    yield "plain_deit_nano_patch16_224", with_attention("nano", PlainAttention, "plain QKᵀV")
    for size, (width, heads) in _DEIT_WIDTH_HEADS.items():
        name = f"deit_{size}_patch16_224"
        if size == "nano":  # timm has none
            options = {"patch_size": 16, "embed_dim": width, **any_size}
            yield (
                name,
                Recipe("DeiT", "softmax", heads, 12, VisionTransformer, options, _DEIT_CONFIG),
            )
        else:
            yield name, Recipe("DeiT", "softmax", heads, 12, options=any_size)


def _cvt_family() -> Iterator[tuple[str, Recipe]]:
    """CvT with softmax and with SimA; their parameters have the same names and shapes."""
    for attention, prefix in (("softmax", ""), ("SimA", "sima_")):
        for size, depths in _CVT_DEPTHS.items():
            options = {"attn_layer": SimAConvAttention} if prefix else {}
            yield (
                f"{prefix}cvt_{size}",
                Recipe("CvT", attention, (1, 3, 6), depths, Cvt, options, _CVT_CONFIG),
            )


def _with_single_heads(family: Iterator[tuple[str, Recipe]]) -> Iterator[tuple[str, Recipe]]:
    """`family`, and after it every SimA model of it with a single head."""
    single = []
    for name, recipe in family:
        yield name, recipe
        if recipe.attention == "SimA":
            single.append((f"{name}_1h", dataclasses.replace(recipe, num_heads=1)))
    yield from single


#: How every architecture is built, by name; where two have the same parameters, the one that bare
#: weights are taken for comes first.
ARCHITECTURES: dict[str, Recipe] = {
    name: recipe
    for family in (_xcit_family(), _deit_family(), _cvt_family())
    for name, recipe in _with_single_heads(family)
}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, RESOLUTION, RESOLUTION),
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "classifier": "head",
            **recipe.config,
        }
        for name, recipe in ARCHITECTURES.items()
        if recipe.build
    }
)


def _entrypoint(name: str, recipe: Recipe) -> Callable[..., nn.Module]:
    """A timm entry point named `name`; timm keeps such functions in their module's namespace."""

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        model = build_model_with_cfg(
            recipe.build,
            name,
            pretrained,
            pretrained_filter_fn=translate_names,
            feature_cfg={"out_indices": 3, "feature_cls": "getter"},
            **{**recipe.arguments(), **kwargs},
        )
        return cast(nn.Module, model)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"The architecture {name}: {recipe.arguments()}."
    return create


for _name, _recipe in ARCHITECTURES.items():
    if _recipe.build:
        setattr(sys.modules[__name__], _name, register_model(_entrypoint(_name, _recipe)))


def create_model(architecture: str, **options: Any) -> nn.Module:
    """A model of one of `ARCHITECTURES`, untrained; pictures of any size and shape fit it.

    Args:
        options: as for `timm.create_model`, such as ``num_classes``, ``num_heads=1``, ``device``.
    """
    arguments = {**ARCHITECTURES[architecture].arguments(), **options}
    return cast(nn.Module, timm.create_model(architecture, **arguments))


@functools.cache
def parameter_shapes(architecture: str, num_classes: int = 1000) -> dict[str, torch.Size]:
    """Name and shape of every parameter and buffer that `architecture` has; no memory is taken."""
    shapes: dict[str, torch.Size] = {}
    depths = dict(_stages(architecture))
    for name, tensor in _shallow(architecture, num_classes=num_classes).state_dict().items():
        block = next((block for block in depths if name.startswith(f"{block}.")), None)
        for i in range(depths[block] if block else 1):  # the blocks of a stage are alike
            numbered = block and name.replace(block, f"{block.removesuffix('0')}{i}", 1)
            shapes[numbered or name] = tensor.shape
    return shapes


@dataclass(frozen=True)
class Architecture:
    """What the `models` command lists of an architecture."""

    name: str
    family: str
    #: "softmax", "XCA", "SimA" or "plain QKᵀV".
    attention: str
    #: One number a stage where they differ.
    num_heads: int | tuple[int, ...]
    parameters: int
    #: Multiply-accumulates of one 224 × 224 picture, class head with 1000 classes included.
    macs: int


def describe(name: str, image_size: int = RESOLUTION) -> Architecture:
    """Count the parameters and multiply-accumulates of one of `ARCHITECTURES`.

    The blocks of a stage are alike, so one block a stage is counted, as often as there are blocks.
    """
    recipe = ARCHITECTURES[name]
    model = _shallow(name).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    parameters, operations = num_parameters(model), counter.get_total_flops()
    by_module = counter.get_flop_counts()
    for block, depth in _stages(name):
        parameters += (depth - 1) * num_parameters(model.get_submodule(block))
        operations += (depth - 1) * sum(by_module[f"{type(model).__name__}.{block}"].values())
    return Architecture(
        name,
        recipe.family,
        recipe.attention,
        recipe.num_heads,
        parameters,
        operations // 2,  # a multiply-accumulate is two operations
    )


def num_parameters(module: nn.Module) -> int:
    """How many numbers the module learns."""
    return sum(p.numel() for p in module.parameters())


def _shallow(name: str, **options: Any) -> nn.Module:
    """The architecture without memory and with one block a stage, made several times as quickly."""
    depth = ARCHITECTURES[name].depth
    one = 1 if isinstance(depth, int) else (1,) * len(depth)
    return create_model(name, depth=one, device="meta", **options)


def _stages(name: str) -> list[tuple[str, int]]:
    """The name of each stage's first block, and how many such blocks the stage has."""
    depth = ARCHITECTURES[name].depth
    if isinstance(depth, int):
        return [("blocks.0", depth)]
    return [(f"stage{stage}.blocks.0", number) for stage, number in enumerate(depth)]


def architectures() -> Iterator[Architecture]:
    """Every one of `ARCHITECTURES`, described one by one."""
    yield from map(describe, ARCHITECTURES)
