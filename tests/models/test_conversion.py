"""SimA put into softmax models, and taken out again without a trace."""

import pytest
import timm
import torch
from timm.layers import Attention

from sima_core import SimAttention, convert_to_sima, token_norms

pytestmark = pytest.mark.usefixtures("one_thread")

PIXELS = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def small(name: str, **options) -> torch.nn.Module:
    """`name` with three blocks, for small pictures, in eval mode."""
    torch.manual_seed(0)
    options = {"depth": 3, "dynamic_img_size": True, "num_classes": 5, **options}
    return timm.create_model(name, **options).eval()


def written_out(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The converted model block by block from the paper's definition, in float64."""
    model = model.double()
    x = model.norm_pre(model._pos_embed(model.patch_embed(pixels.double())))
    for block in model.blocks:
        y = block.norm1(x)
        q, k, v = block.attn.qkv(y).unflatten(2, (3, block.attn.num_heads, -1)).unbind(2)
        q, k = (t / t.abs().sum(dim=1, keepdim=True) for t in (q, k))
        y = block.attn.proj(torch.einsum("bihd,bjhd,bjhe->bihe", q, k, v).flatten(2))
        x = x + block.ls1(y)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.forward_head(model.norm(x))


MODELS = [
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_converted_and_put_back(name):
    options = {"patch_size": 16} if "patch14" in name else {}
    model = small(name, **options)
    names = [n for n, m in model.named_modules() if isinstance(m, Attention)]
    originals = [model.get_submodule(n) for n in names]
    before, state = model(PIXELS), {k: v.clone() for k, v in model.state_dict().items()}

    conversion = convert_to_sima(model)
    assert (
        conversion.replaced == tuple(names) == ("blocks.0.attn", "blocks.1.attn", "blocks.2.attn")
    )
    for original, converted in zip(originals, conversion.replaced, strict=True):
        sima = model.get_submodule(converted)
        assert isinstance(sima, SimAttention)
        assert sima.qkv is original.qkv  # shared, not copied
        assert sima.proj is original.proj
        assert not sima.training
    assert model.state_dict().keys() == state.keys()
    assert not torch.allclose(model(PIXELS), before)
    norms = token_norms(model, PIXELS, "all")
    assert norms[3].query.shape == (2, 4, 3)

    conversion.undo()
    conversion.undo()  # does no harm
    assert [model.get_submodule(n) for n in names] == originals
    assert torch.equal(model(PIXELS), before)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("order", ["qk_first", "kv_first"])
@torch.no_grad()
def test_against_sima_written_out(name, order):
    options = {"patch_size": 16} if "patch14" in name else {}
    model = small(name, **options)
    convert_to_sima(model, order)
    found = model(PIXELS).double()
    expected = written_out(model, PIXELS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
def test_as_a_context_manager_also_on_an_error():
    model = small("deit_tiny_patch16_224")
    before = model(PIXELS)
    with convert_to_sima(model) as conversion:
        assert len(conversion.replaced) == 3
    assert torch.equal(model(PIXELS), before)
    with pytest.raises(AssertionError), convert_to_sima(model):
        assert torch.equal(model(PIXELS), before)
    assert torch.equal(model(PIXELS), before)


def test_training_while_converted_changes_the_shared_weights():
    model = small("deit_tiny_patch16_224").train()
    with convert_to_sima(model):
        model(PIXELS).square().sum().backward()
        assert model.blocks[0].attn.training
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_undo_takes_over_the_mode():
    model = small("deit_tiny_patch16_224")
    conversion = convert_to_sima(model)
    model.train()
    conversion.undo()
    assert model.blocks[0].attn.training


def test_a_second_conversion_is_refused_and_a_late_undo_leaves_others_alone():
    model = small("deit_tiny_patch16_224")
    first = convert_to_sima(model)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn is SimA attention already"):
        convert_to_sima(model)
    first.undo()
    second = convert_to_sima(model)
    first.undo()
    assert isinstance(model.blocks[0].attn, SimAttention)
    second.undo()
    assert isinstance(model.blocks[0].attn, Attention)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet10t", {}, "ResNet cannot"),
        ("xcit_nano_12_p16_224", {}, "Xcit cannot"),
        ("cvt_13", {}, "Cvt cannot"),
        ("eva02_tiny_patch14_224", {}, "Eva cannot"),
        ("beit_base_patch16_224", {}, "Beit cannot"),
        ("vit_small_patch16_18x2_224", {}, "another kind"),
        ("vit_tiny_patch16_224", {"attn_layer": "diff"}, "DiffAttention"),
        ("vit_tiny_patch16_224", {"qk_norm": True}, "q_norm"),
        ("vit_tiny_patch16_224", {"scale_attn_norm": True}, "has norm"),
        ("vit_tiny_patch16_224", {"attn_drop_rate": 0.1}, "dropout"),
    ],
)
def test_what_cannot_be_converted_is_left_alone(name, options, reason):
    model = (
        timm.create_model(name, device="meta", depth=2, **options)
        if options
        else (timm.create_model(name, device="meta"))
    )
    modules = list(model.modules())
    with pytest.raises(ValueError, match=f"{reason}.*expected a timm VisionTransformer"):
        convert_to_sima(model)
    assert list(model.modules()) == modules


def test_an_unknown_order_is_refused_before_anything_is_changed():
    model = small("deit_tiny_patch16_224")
    with pytest.raises(ValueError, match="order must be one of"):
        convert_to_sima(model, "first")
    assert isinstance(model.blocks[0].attn, Attention)


def test_one_unfit_block_leaves_all_alone():
    model = small("deit_tiny_patch16_224")
    model.blocks[2].attn.k_norm = torch.nn.LayerNorm(64)
    with pytest.raises(ValueError, match=r"blocks\.2\.attn has k_norm"):
        convert_to_sima(model)
    assert isinstance(model.blocks[0].attn, Attention)


def test_masks_are_refused_once_converted():
    model = small("deit_tiny_patch16_224")
    convert_to_sima(model)
    with pytest.raises(ValueError, match="mask"):
        model(PIXELS, is_causal=True)
