"""The SimA architectures, put into timm's skeletons and registered with timm.

After ``import sima_core``, ``timm.create_model("sima_small_12_p16")`` builds one. Names, widths
and hyper-parameters are those of the published SimA models (arXiv 2206.08898, section 4.1).
"""

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.xcit import Xcit
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .attention import SimAClassAttention, SimAttention

__all__: list[str] = ["ARCHITECTURES", "Architecture", "SimAXcit", "architectures"]


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
    """Published parameter names to timm's: only the position encoding is spelt differently."""
    return {name.replace("pos_embeder.", "pos_embed."): t for name, t in state_dict.items()}


_WIDTH_HEADS = {
    "nano": (128, 4),
    "tiny": (192, 4),
    "small": (384, 8),
    "medium": (512, 8),
    "large": (768, 16),
}


def _xcit_family() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and constructor arguments of each of the 14 published architectures."""
    for depth, sizes in (
        (12, ("nano", "tiny", "small")),
        (24, ("tiny", "small", "medium", "large")),
    ):
        for size in sizes:
            width, heads = _WIDTH_HEADS[size]
            for patch in (16, 8):
                yield (
                    f"sima_{size}_{depth}_p{patch}",
                    {
                        "patch_size": patch,
                        "embed_dim": width,
                        "depth": depth,
                        "num_heads": heads,
                        "eta": 1.0 if depth == 12 else 1e-5,
                        "tokens_norm": size != "nano",
                    },
                )


#: Constructor arguments of every SimA architecture by name.
ARCHITECTURES: dict[str, dict[str, Any]] = dict(_xcit_family())

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "patch_embed.proj.0.0",
            "classifier": "head",
        }
        for name in ARCHITECTURES
    }
)


def _entrypoint(name: str, config: dict[str, Any]) -> Callable[..., nn.Module]:
    """A timm entry point named `name`; timm keeps such functions in their module's namespace."""

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        model = build_model_with_cfg(
            SimAXcit,
            name,
            pretrained,
            pretrained_filter_fn=translate_names,
            feature_cfg={"out_indices": 3, "feature_cls": "getter"},
            **{**config, **kwargs},
        )
        return cast(nn.Module, model)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"The published architecture {name}: {config}."
    return create


for _name, _config in ARCHITECTURES.items():
    setattr(sys.modules[__name__], _name, register_model(_entrypoint(_name, _config)))


@functools.cache
def parameter_shapes(architecture: str, num_classes: int = 1000) -> dict[str, torch.Size]:
    """Name and shape of every parameter and buffer that `architecture` has; no memory is taken."""
    model = timm.create_model(architecture, num_classes=num_classes, device="meta")
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class Architecture:
    """What the `models` command lists of an architecture."""

    name: str
    family: str
    attention: str
    num_heads: int
    parameters: int
    #: Multiply-accumulates of one 224 × 224 picture, class head with 1000 classes included.
    macs: int


def describe(name: str, image_size: int = 224) -> Architecture:
    """Count the parameters and multiply-accumulates of a registered SimA architecture."""
    model = timm.create_model(name, device="meta").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    return Architecture(
        name=name,
        family="XCiT",
        attention="SimA",
        num_heads=ARCHITECTURES[name]["num_heads"],
        parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,  # a multiply-accumulate is two operations
    )


def architectures() -> Iterator[Architecture]:
    """Every registered SimA architecture, described one by one (each takes a moment)."""
    yield from map(describe, ARCHITECTURES)
