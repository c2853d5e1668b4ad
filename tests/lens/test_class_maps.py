"""Attention maps of the class token, against weights that timm's unfused attention makes."""

import pytest
import timm
import torch

from sima_core import attention_maps, convert_to_sima
from sima_core.models.architectures import create_model

pytestmark = pytest.mark.usefixtures("one_thread")

PIXELS = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def small(name: str, **options) -> torch.nn.Module:
    """`name` with three blocks and large weights, so that its attention is uneven."""
    torch.manual_seed(0)
    model = timm.create_model(
        name, **{"depth": 3, "dynamic_img_size": True, "num_classes": 5, **options}
    ).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.15)
    return model


def num_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def unfused_weights(model: torch.nn.Module) -> list[torch.Tensor]:
    """Every layer's weights (B, H, N, N) as timm computes them without fused attention."""
    weights: list[torch.Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, args, out: weights.append(out))
    model(PIXELS)
    for block in model.blocks:
        block.attn.fused_attn = True
        block.attn.attn_drop._forward_hooks.clear()
    return weights


NAMES = [
    ("deit_tiny_patch16_224", {}, 1),
    ("deit_tiny_distilled_patch16_224", {}, 2),
    ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}, 5),
    ("vit_tiny_patch16_224", {"qk_norm": True}, 1),
]


@pytest.mark.parametrize(("name", "options", "prefix"), NAMES)
@pytest.mark.parametrize("head", [None, 2])
def test_class_token_of_the_last_layer(name, options, prefix, head):
    model = small(name, **options)
    last = unfused_weights(model)[-1][:, :, 0, prefix:]
    expected = last.mean(1) if head is None else last[:, head - 1]
    found = attention_maps(model, PIXELS, head=head)
    torch.testing.assert_close(found, expected.reshape(2, 4, 3))
    assert found.dtype == torch.float32
    assert num_hooks(model) == 0


@pytest.mark.parametrize(("name", "options", "prefix"), NAMES)
@pytest.mark.parametrize("head", [None, 2])
def test_rollout_as_its_paper_has_it(name, options, prefix, head):
    model = small(name, **options)
    rolled = torch.eye(4 * 3 + prefix)
    for weights in unfused_weights(model):
        weights = weights.mean(1) if head is None else weights[:, head - 1]
        mixed = weights + torch.eye(weights.shape[-1])
        rolled = mixed / mixed.sum(-1, keepdim=True) @ rolled
    found = attention_maps(model, PIXELS, "rollout", head)
    torch.testing.assert_close(found, rolled[:, 0, prefix:].reshape(2, 4, 3))
    assert num_hooks(model) == 0


def test_the_outputs_stay_as_they_are():
    model = small("deit_tiny_patch16_224")
    seen = []
    handle = model.head.register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.no_grad():
        plain = model(PIXELS)
    attention_maps(model, PIXELS, "rollout")
    handle.remove()
    assert torch.equal(seen[-1], plain)
    assert not attention_maps(model, PIXELS).requires_grad


@torch.no_grad()
def test_xcit_has_class_attention():
    torch.manual_seed(0)
    model = create_model("xcit_nano_12_p16_224", depth=1).eval()
    last = model.cls_attn_blocks[-1].attn
    weights = []
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda m, args, out: weights.append(out))
    found = attention_maps(model, PIXELS)
    torch.testing.assert_close(found, weights[0][:, :, 0, 1:].mean(1).reshape(2, 4, 3))


@pytest.mark.parametrize("name", ["sima_nano_12_p16", "sima_deit_tiny_patch16_224", "sima_cvt_13"])
@torch.no_grad()
def test_sima_gives_its_plain_product(name):
    """The row times V, projected, is what the layer gives for the class token."""
    torch.manual_seed(0)
    model = create_model(name, depth=1, num_heads=1).eval()
    if name == "sima_cvt_13":
        last = model.stage2.blocks[-1].attn
        value, parts = last.proj_v, 1
    else:
        last = (model.cls_attn_blocks if "nano" in name else model.blocks)[-1].attn
        value, parts = last.qkv, 3
    kept = {}
    value.register_forward_hook(lambda m, args, out: kept.update(v=out.chunk(parts, -1)[-1]))
    last.proj.register_forward_pre_hook(lambda m, args: kept.update(x=args[0][:, 0]))
    found = attention_maps(model, PIXELS)
    v = kept["v"]
    patches = torch.einsum("bn,bnc->bc", found.flatten(1), v[:, 1:])
    rest = kept["x"] - patches  # what the class token takes from itself
    ratio = rest / v[:, 0]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-2, atol=1e-3)


@torch.no_grad()
def test_cvt_looks_at_the_grid_of_its_keys():
    torch.manual_seed(0)
    model = create_model("cvt_13", depth=1).eval()
    found = attention_maps(model, torch.randn(2, 3, 96, 160))
    assert found.shape == (2, 3, 5)
    assert (found > 0).all()
    assert (found.sum((1, 2)) < 1).all()
    per_head = [attention_maps(model, PIXELS, head=h) for h in range(1, 7)]
    torch.testing.assert_close(torch.stack(per_head).mean(0), attention_maps(model, PIXELS))


@pytest.mark.parametrize(
    ("name", "options", "kind", "reason"),
    [
        ("deit_tiny_patch16_224", {}, "average", "kind must be one of cls, rollout"),
        (
            "vit_tiny_patch16_224",
            {"class_token": False, "global_pool": "avg"},
            "cls",
            "class token",
        ),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, "rollout", "first"),
        ("resnet10t", None, "cls", "ResNet has no class token"),
        ("resnet10t", None, "rollout", "rollout needs"),
        ("cvt_13", None, "rollout", "rollout needs softmax attention over the same tokens"),
        ("xcit_nano_12_p16_224", None, "rollout", "rollout needs"),
        ("sima_deit_tiny_patch16_224", None, "rollout", "rollout needs"),
    ],
)
def test_models_without_what_is_needed(name, options, kind, reason):
    model = timm.create_model(name) if options is None else small(name, **options)
    with pytest.raises(ValueError, match=reason):
        attention_maps(model.eval(), PIXELS, kind)
    assert num_hooks(model) == 0


def test_converted_models_have_no_rollout():
    model = small("deit_tiny_patch16_224")
    with convert_to_sima(model):
        assert attention_maps(model, PIXELS).shape == (2, 4, 3)
        with pytest.raises(ValueError, match="rollout needs"):
            attention_maps(model, PIXELS, "rollout")
    assert attention_maps(model, PIXELS, "rollout").shape == (2, 4, 3)


def test_bad_heads_and_sizes_and_errors_leave_no_hook():
    model = small("deit_tiny_patch16_224")
    for head in (0, 4, -1):
        with pytest.raises(ValueError, match="from 1 to 3"):
            attention_maps(model, PIXELS, head=head)
    with pytest.raises(ValueError, match=r"multiples of the patch \(16\)"):
        attention_maps(model, torch.randn(1, 3, 50, 64))
    with pytest.raises(RuntimeError):
        attention_maps(model, torch.randn(1, 7, 64, 64), "rollout")
    assert num_hooks(model) == 0
