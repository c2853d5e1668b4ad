"""What flows are checked against: every pair of tokens, plainly, in float64."""

import copy
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

from sima_core import Lens
from sima_core.lens.layers import Layer, find_layers
from sima_core.models.architectures import create_model

#: Fifteen patches on an odd grid, 3 × 5, of models with patches of 16 pixels.
PIXELS = torch.randn(1, 3, 48, 80, generator=torch.Generator().manual_seed(0))


def sharpened(model: nn.Module) -> nn.Module:
    """The model with large weights in its attention, so that it is uneven."""
    generator = torch.Generator().manual_seed(1)
    for layer in (*find_layers(model), *find_layers(model, False, False)):
        for name, weight in layer.module(model).named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.08, generator=generator)
            elif name.endswith("bias"):
                nn.init.normal_(weight, std=0.1, generator=generator)
    return model.eval()


def of_timm(name: str, **options: object) -> nn.Module:
    """One of timm's models with two blocks, for pictures of any size."""
    torch.manual_seed(0)
    made = {"depth": 2, "dynamic_img_size": True, "num_classes": 5, **options}
    return sharpened(timm.create_model(name, **made))


def of_ours(name: str, **options: object) -> nn.Module:
    """One of our architectures with two blocks (a stage)."""
    torch.manual_seed(0)
    return sharpened(create_model(name, **{"depth": 2, "num_classes": 5, **options}))


#: One model a family: name in tests, how it is made, the number of the layer looked at (0: the
#: first of class attention), whether keys lie on a grid of their own.
FAMILIES = {
    "sima": (lambda: of_ours("sima_nano_12_p16"), 2),
    "plain": (lambda: of_ours("plain_deit_nano_patch16_224"), 2),
    "deit": (lambda: of_timm("deit_tiny_patch16_224"), 2),
    "registers": (lambda: of_timm("vit_small_patch14_reg4_dinov2", patch_size=16), 1),
    "qk_norm": (lambda: of_timm("vit_tiny_patch16_224", qk_norm=True), 2),
    "sima_deit": (lambda: of_ours("sima_deit_nano_patch16_224"), 2),
    "cvt": (lambda: of_ours("cvt_13", depth=1), 3),
    "sima_cvt": (lambda: of_ours("sima_cvt_13", depth=1), 1),
    "sima_class": (lambda: of_ours("sima_nano_12_p16"), 0),
    "class": (lambda: of_ours("xcit_nano_12_p16_224"), 0),
}


@dataclass(frozen=True)
class Pairs:
    """Of every pair of tokens: (H, N, M) weights, (H, M, C) vW_O and (N, M, C) contributions."""

    weights: Tensor
    carried: Tensor
    contributions: Tensor
    #: The layer's output without its bias, (N, C).
    output: Tensor


def layer_of(lens: Lens, number: int) -> Layer:
    """A layer by its number; the first of class attention for 0."""
    return lens.layer(number) if number else find_layers(lens.model, over_patches=False)[0]


@torch.no_grad()
def pairs(model: nn.Module, layer: Layer, pixels: Tensor, head: int | None = None) -> Pairs:
    """Every pair in one layer."""
    double = copy.deepcopy(model).double()
    module = layer.module(double)
    seen: list[tuple[object, ...]] = []
    hook = module.register_forward_pre_hook(lambda m, args: seen.append(args))
    after = module.register_forward_hook(lambda m, args, output: seen.append((output,)))
    double(pixels.double())
    hook.remove()
    after.remove()
    args, (output,) = seen
    query, key, value = (by_head(t, layer.num_heads) for t in projected(module, *args))
    weights = weighed(module, layer, query, key)
    projection = module.proj.weight.unflatten(1, (layer.num_heads, -1))  # (C, H, d)
    carried = torch.einsum("hmd,chd->hmc", value, projection)
    if head is not None:
        weights, carried = weights[head - 1 : head], carried[head - 1 : head]
    bias = 0 if module.proj.bias is None else module.proj.bias
    return Pairs(weights, carried, torch.einsum("hnm,hmc->nmc", weights, carried), output[0] - bias)


def projected(module: nn.Module, x: Tensor, *size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K and V, (N, C) each, of the layer's input."""
    if hasattr(module, "conv_proj_q"):
        first = x.shape[1] - size[0] * size[1]
        grid = x[:, first:].transpose(1, 2).unflatten(2, size)

        def through(name: str) -> Tensor:
            found = getattr(module, f"conv_proj_{name}")(grid).flatten(2).transpose(1, 2)
            return getattr(module, f"proj_{name}")(torch.cat([x[:, :first], found], 1))[0]

        return through("q"), through("k"), through("v")
    if hasattr(module, "qkv"):
        query, key, value = module.qkv(x)[0].chunk(3, dim=-1)
        return query, key, value
    return module.q(x)[0], module.k(x)[0], module.v(x)[0]


def by_head(tokens: Tensor, num_heads: int) -> Tensor:
    """(N, C) to (H, N, d)."""
    return tokens.unflatten(-1, (num_heads, -1)).transpose(0, 1)


def weighed(module: nn.Module, layer: Layer, query: Tensor, key: Tensor) -> Tensor:
    """Attention weights by their definitions: (H, N, d) and (H, M, d) to (H, N, M)."""
    name, of_class = layer.attention, not layer.kind.over_patches
    if name == "SimA":
        floor = 1e-6 if of_class else 1e-12
        query = query / query.abs().sum(1, keepdim=True).clamp_min(floor)
        key = key / key.abs().sum(1, keepdim=True).clamp_min(floor)
    if of_class:
        query = query[:, :1]
    if name != "softmax":
        return query @ key.transpose(1, 2)
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    width = query.shape[0] * query.shape[2] if hasattr(module, "conv_proj_q") else query.shape[2]
    return (query @ key.transpose(1, 2) * width**-0.5).softmax(dim=-1)
