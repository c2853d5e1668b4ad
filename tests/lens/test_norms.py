"""Capture: layers, shapes, one forward pass, and nothing left behind."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch

from sima_core import analyze, load_model, token_norms
from sima_core.attention.modules import SimAttention
from sima_core.errors import InputError
from sima_core.lens.layers import layer_numbers
from sima_core.lens.norms import NormRecorder
from tests.support import attention_layers


def num_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_one_layer(model, pixels):
    norms = token_norms(model, pixels)
    assert norms.query.shape == norms.key.shape == (2, 4, 6)
    assert norms.query.dtype == torch.float32
    assert not norms.query.requires_grad


def test_per_head_norms_add_up(model, pixels):
    whole, heads = token_norms(model, pixels, 5), token_norms(model, pixels, 5, per_head=True)
    assert heads.key.shape == (2, 4, 4, 6)
    torch.testing.assert_close(heads.key.square().sum(1).sqrt(), whole.key)


def test_negative_layers_count_from_the_end(model, pixels):
    assert torch.equal(token_norms(model, pixels, -1).query, token_norms(model, pixels, 12).query)
    assert torch.equal(token_norms(model, pixels, -12).key, token_norms(model, pixels, 1).key)


def test_many_layers_take_one_forward_pass(model, pixels):
    calls = []
    handle = model.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    try:
        everything = token_norms(model, pixels, "all")
        some = token_norms(model, pixels, [3, -1])
    finally:
        handle.remove()
    assert len(calls) == 2
    assert list(everything) == list(range(1, 13))
    assert list(some) == [3, 12]
    assert torch.equal(some[12].query, everything[12].query)


@pytest.mark.parametrize("layer", [0, 13, -13, [1, 99]])
def test_layers_that_do_not_exist(model, pixels, layer):
    with pytest.raises(ValueError, match="from 1 to 12"):
        token_norms(model, pixels, layer)
    assert num_hooks(model) == 0


def test_layer_numbers_of_another_depth():
    assert layer_numbers("all", 3) == [1, 2, 3]
    assert layer_numbers((-1, 2), 24) == [24, 2]
    with pytest.raises(ValueError, match="all"):
        layer_numbers("some", 3)
    with pytest.raises(InputError, match="whole number"):
        layer_numbers([1.5], 3)


def test_output_is_unchanged_and_no_hook_is_left(model, pixels):
    with torch.no_grad():
        plain = model(pixels)
        with NormRecorder(model, "all"):
            assert torch.equal(model(pixels), plain)
    assert num_hooks(model) == 0


def test_no_hook_is_left_when_the_forward_raises(model):
    with pytest.raises(RuntimeError):
        token_norms(model, torch.randn(1, 7, 64, 64))
    assert num_hooks(model) == 0


def test_models_without_known_attention_are_named():
    with pytest.raises(ValueError, match=r"ResNet has no attention layers.*looked for .*Attention"):
        token_norms(timm.create_model("resnet10t"), torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match="has no patches"):
        token_norms(torch.nn.Sequential(SimAttention(64)), torch.randn(1, 4, 64), 1)


def test_class_attention_is_not_a_layer(model):
    assert sum(isinstance(m, SimAttention) for m in model.modules()) == 12


def test_analysis_agrees_with_its_parts(model, photo):
    analysis = analyze(model, photo, resolution=64)
    assert analysis.grid == (4, 6)
    assert sum(p.probability for p in analysis.predictions) <= 1
    assert (
        analysis.predictions[0].label == analysis.provenance.labels[analysis.predictions[0].index]
    )
    whole = analysis.token_norms("query", 12)
    heads = [analysis.token_norms("query", 12, head) for head in (1, 2, 3, 4)]
    assert whole == pytest.approx(sum(h**2 for h in heads) ** 0.5, rel=1e-5)
    with pytest.raises(ValueError, match="from 1 to 4"):
        analysis.token_norms("key", 12, 5)
    with pytest.raises(ValueError, match="layer 13 was not captured"):
        analysis.heatmap("key", 13)


def test_other_threads_are_not_recorded(model):
    def rows(side: int, repeats: int) -> list[int]:
        pixels = torch.randn(1, 3, side, side)
        return [token_norms(model, pixels).query.shape[1] for _ in range(repeats)]

    with ThreadPoolExecutor(2) as pool:
        small, large = pool.submit(rows, 32, 20), pool.submit(rows, 64, 20)
        assert set(small.result()) == {2}
        assert set(large.result()) == {4}


def test_inputs_that_do_not_fit_the_patches(model):
    with pytest.raises(ValueError, match=r"multiples of the patch \(16\); got 70 × 64"):
        token_norms(model, torch.randn(1, 3, 70, 64))
    with pytest.raises(ValueError, match="at least one"):
        token_norms(model, torch.randn(1, 3, 64, 64), [])


def test_the_class_token_is_left_out():
    vit = timm.create_model("vit_tiny_patch16_224", attn_layer=SimAttention).eval()
    norms = token_norms(vit, torch.randn(1, 3, 224, 224), "all")
    assert norms[12].key.shape == (1, 14, 14)


def test_weights_that_give_no_numbers_are_named(photo):
    broken = load_model("sima_nano_12_p16")
    torch.nn.init.constant_(broken.head.weight, float("nan"))
    with pytest.raises(ValueError, match="damaged"):
        analyze(broken, photo, 64)


# ---- Other families and other attention ------------------------------------------------------


def expected_norms(tokens: torch.Tensor, num_heads: int, sima: bool) -> torch.Tensor:
    """Norms of (B, N, C), head by head, in float64: (B, H, N)."""
    tokens = tokens.double()
    if sima:
        tokens = tokens / tokens.abs().sum(dim=1, keepdim=True)
    return tokens.unflatten(2, (num_heads, -1)).norm(dim=-1).transpose(1, 2)


@pytest.mark.parametrize(
    ("name", "prefix", "heads", "sima"),
    [
        ("deit_tiny_patch16_224", 1, 3, False),
        ("deit_tiny_distilled_patch16_224", 2, 3, False),
        ("vit_small_patch14_reg4_dinov2", 5, 6, False),
        ("sima_deit_tiny_patch16_224", 1, 3, True),
        ("sima_deit_tiny_patch16_224_1h", 1, 1, True),
        ("xcit_nano_12_p16_224", 0, 4, False),
        ("sima_nano_12_p16_1h", 0, 1, True),
    ],
)
def test_norms_of_what_the_fused_projection_gives(name, prefix, heads, sima, pixels):
    options = {} if "nano" in name else {"dynamic_img_size": True, "patch_size": 16}
    other = timm.create_model(name, depth=2, **options).eval()
    kept = []
    handle = other.blocks[1].attn.qkv.register_forward_hook(lambda m, args, out: kept.append(out))
    found = token_norms(other, pixels, 2, per_head=True)
    handle.remove()
    for norms, tokens in zip((found.query, found.key), kept[0].detach().chunk(3, -1), strict=False):
        expected = expected_norms(tokens, heads, sima)[..., prefix:].reshape(2, heads, 4, 6)
        torch.testing.assert_close(norms.double(), expected, rtol=1e-5, atol=1e-8)
    assert num_hooks(other) == 0


def test_norms_come_after_q_norm_and_k_norm(pixels):
    vit = timm.create_model(
        "vit_tiny_patch16_224", depth=1, qk_norm=True, dynamic_img_size=True
    ).eval()
    torch.nn.init.uniform_(vit.blocks[0].attn.q_norm.weight)
    kept = []
    handle = vit.blocks[0].attn.q_norm.register_forward_hook(lambda m, args, out: kept.append(out))
    found = token_norms(vit, pixels, 1, per_head=True)
    handle.remove()
    torch.testing.assert_close(found.query.flatten(2), kept[0].detach()[:, :, 1:].norm(dim=-1))


@pytest.mark.parametrize(("name", "sima"), [("cvt_13", False), ("sima_cvt_13", True)])
def test_cvt_has_a_grid_for_keys_of_its_own(name, sima):
    cvt = timm.create_model(name, depth=(1, 2, 1)).eval()
    kept = {}
    layers = attention_layers(cvt)
    handles = [
        projection.register_forward_hook(lambda m, args, out, k=(i, side): kept.update({k: out}))
        for i, layer in enumerate(layers)
        for side, projection in (("query", layer.proj_q), ("key", layer.proj_k))
    ]
    found = token_norms(cvt, torch.randn(2, 3, 80, 112), "all", per_head=True)
    for handle in handles:
        handle.remove()
    grids = {  # 4, 8 and 16 pixels from one query to the next; every second one is a key
        1: ((20, 28), (10, 14)),
        2: ((10, 14), (5, 7)),
        3: ((10, 14), (5, 7)),
        4: ((5, 7), (3, 4)),
    }
    assert {n: (tuple(f.query.shape[2:]), tuple(f.key.shape[2:])) for n, f in found.items()} == (
        grids
    )
    for number, norms in found.items():
        heads = layers[number - 1].num_heads
        for side in ("query", "key"):
            expected = expected_norms(kept[number - 1, side].detach(), heads, sima)
            patches = getattr(norms, side).flatten(2)
            expected = expected[..., -patches.shape[-1] :]
            torch.testing.assert_close(patches.double(), expected, rtol=1e-5, atol=1e-8)
    assert found[4].over_heads().key.shape == (2, 3, 4)
    assert num_hooks(cvt) == 0
    with pytest.raises(ValueError, match=r"multiples of the patch \(16\)"):
        token_norms(cvt, torch.randn(1, 3, 72, 64), 1)


def test_models_that_drop_patches_are_named(pixels):
    vit = timm.create_model(
        "vit_tiny_patch16_224", depth=1, patch_drop_rate=0.5, dynamic_img_size=True
    ).train()
    with NormRecorder(vit, 1) as recorder:
        vit(pixels)  # as in training; to look at a model, it is put into eval mode
    with pytest.raises(ValueError, match="drops or merges"):
        recorder.norms()
    assert token_norms(vit, pixels, 1).query.shape == (2, 4, 6)


@pytest.mark.parametrize("name", ["sima_cvt_13", "deit_tiny_patch16_224", "xcit_nano_12_p16_224"])
def test_analysis_of_other_families(name, photo):
    analysis = analyze(load_model(name), photo, resolution=64)
    assert analysis.grid == analysis.grid_of("query", 12) == (4, 6)
    assert analysis.grid_of("key", 12) == ((2, 3) if "cvt" in name else (4, 6))
    assert analysis.heatmap("key", 12).values.shape == analysis.grid_of("key", 12)
    assert len(analysis.norms) == (13 if "cvt" in name else 12)
    assert (len(analysis.symbol("query")) == 2) == name.startswith("sima")
