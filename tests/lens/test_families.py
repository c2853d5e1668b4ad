"""DeiT, XCiT and CvT: created, described, loaded, traced, exported and compiled alike."""

import dataclasses
import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

import sima_core
from app.viewer import summary_html, viewer_html
from sima_core.bench.orders import compare_orders, layers_with_orders
from sima_core.lens.export import write
from sima_core.models.architectures import ARCHITECTURES, create_model, describe, parameter_shapes
from sima_core.weights.provenance import provenance
from tests.support import attention_layers

pytestmark = pytest.mark.usefixtures("one_thread")

SIMA = [name for name, recipe in ARCHITECTURES.items() if recipe.attention == "SimA"]
MULTI_HEAD = [name for name in SIMA if not name.endswith("_1h")]
#: The smallest SimA model of each family.
SMALLEST = ("sima_nano_12_p16", "sima_deit_tiny_patch16_224", "sima_cvt_13")
#: One of each family and attention, single-headed ones among them.
EACH = (
    *SMALLEST,
    *(f"{name}_1h" for name in SMALLEST),
    "deit_tiny_patch16_224",
    "xcit_nano_12_p16_224",
    "cvt_13",
)


def shallow(name: str, **options) -> torch.nn.Module:
    """`name` with one block a stage and five classes, in eval mode."""
    torch.manual_seed(0)
    return create_model(name, depth=1, num_classes=5, **options).eval()


def test_every_family_is_registered():
    assert len(MULTI_HEAD) == 14 + 4 + 2  # as published, and DeiT's nano size
    assert {f"{name}_1h" for name in MULTI_HEAD} < set(SIMA)
    assert {r.family for r in ARCHITECTURES.values()} == {"DeiT", "XCiT", "CvT"}
    kinds = {r.attention for r in ARCHITECTURES.values()}
    assert kinds == {"SimA", "softmax", "XCA", "plain QKᵀV"}
    assert all(timm.is_model(name) for name in ARCHITECTURES)
    assert set(timm.list_models("xcit_*")) < set(ARCHITECTURES)


@pytest.mark.parametrize("name", EACH)
def test_what_is_listed_is_what_is_built(name):
    model = timm.create_model(name, device="meta").eval()
    found = describe(name)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert found.macs == counter.get_total_flops() // 2
    heads = {layer.num_heads for layer in attention_layers(model)}
    assert heads == {found.num_heads} if isinstance(found.num_heads, int) else {*found.num_heads}
    assert parameter_shapes(name) == {k: t.shape for k, t in model.state_dict().items()}


@pytest.mark.parametrize("name", MULTI_HEAD)
def test_one_head_has_the_same_parameters(name):
    single = parameter_shapes(f"{name}_1h")
    assert single == parameter_shapes(name)
    asked = create_model(name, num_heads=1, device="meta")
    assert {layer.num_heads for layer in layers_with_orders(asked)} == {1}


def test_published_costs():
    listed = {n: describe(n) for n in ("deit_small_patch16_224", "cvt_13", "xcit_small_12_p16_224")}
    millions = {n: round(a.parameters / 1e6) for n, a in listed.items()}
    giga = {n: round(a.macs / 1e9, 1) for n, a in listed.items()}
    assert list(millions.values()) == [22, 20, 26]
    assert list(giga.values()) == [4.6, 4.6, 4.8]


def test_sima_deit_is_deit_with_layer_scale():
    model = timm.create_model("sima_deit_tiny_patch16_224", depth=1)
    assert isinstance(model, VisionTransformer)
    assert model.blocks[0].ls1.gamma.unique().tolist() == [1.0]
    extra = parameter_shapes("sima_deit_tiny_patch16_224").keys() - (
        parameter_shapes("deit_tiny_patch16_224").keys()
    )
    assert all(name.endswith((".ls1.gamma", ".ls2.gamma")) for name in extra)
    assert len(extra) == 24


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("size", [(224, 224), (32, 80)])
def test_other_sizes_and_shapes(name, size):
    model = shallow(name)
    with torch.no_grad():
        assert model(torch.randn(2, 3, *size)).shape == (2, 5)


# ---- Loading --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sima_deit_tiny_patch16_224_1h", *EACH[-3:]])
def test_names_give_the_same_untrained_weights_every_time(name):
    state = torch.random.get_rng_state()
    first, second = sima_core.load_model(name), sima_core.load_model(name)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not provenance(first).trained
    assert provenance(first).architecture == name
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "xcit_nano_12_p16_224", *SMALLEST])
def test_bare_weights_are_recognised(name, tmp_path):
    model = create_model(name, num_classes=7)
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    # CvT's parameters are the same with SimA: without a name they are the published ones.
    expected = name.removeprefix("sima_") if "cvt" in name else name
    assert provenance(sima_core.load_model(tmp_path / "bare.safetensors")).architecture == expected
    loaded = sima_core.load_model(tmp_path / "bare.safetensors", name)
    pixels = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels), model.eval()(pixels))


def test_single_head_takes_the_name(tmp_path):
    model = create_model("sima_deit_tiny_patch16_224_1h", num_classes=7)
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    guessed = sima_core.load_model(tmp_path / "bare.safetensors")
    assert provenance(guessed).architecture == "sima_deit_tiny_patch16_224"
    named = sima_core.load_model(tmp_path / "bare.safetensors", "sima_deit_tiny_patch16_224_1h")
    assert {layer.num_heads for layer in layers_with_orders(named)} == {1}


def test_xcit_as_its_authors_published_it(tmp_path):
    """They spell the position encoding otherwise and fuse q, k and v of class attention."""
    model = create_model("xcit_nano_12_p16_224", num_classes=7)
    state, fused = model.state_dict(), {}
    for name, tensor in state.items():
        if name.startswith("cls_attn_blocks.") and ".attn.q." in name:
            parts = [state[name.replace(".q.", f".{part}.")] for part in "qkv"]
            fused[name.replace(".q.", ".qkv.")] = torch.cat(parts)
        elif not (name.startswith("cls_attn_blocks.") and (".k." in name or ".v." in name)):
            fused[name.replace("pos_embed.", "pos_embeder.")] = tensor
    torch.save({"model": fused}, tmp_path / "xcit.pth")
    loaded = sima_core.load_model(tmp_path / "xcit.pth")
    assert provenance(loaded).architecture == "xcit_nano_12_p16_224"
    assert all(torch.equal(t, state[name]) for name, t in loaded.state_dict().items())


def test_only_sima_has_orders():
    for name in ("deit_tiny_patch16_224", "xcit_nano_12_p16_224", "cvt_13"):
        with pytest.raises(ValueError, match=r"only SimA attention has two orders.*sima_"):
            layers_with_orders(shallow(name))


# ---- Tracing, export, compilation, gradients ------------------------------------------------


@pytest.fixture(
    params=[
        *SMALLEST,
        *(f"{name}_1h" for name in SMALLEST),
        "sima_tiny_12_p8",  # whose class attention normalises every token, unlike nano's
        "converted DeiT",
    ]
)
def sima_model(request) -> torch.nn.Module:
    """A shallow SimA model of every kind there is."""
    if request.param != "converted DeiT":
        return shallow(request.param)
    model = shallow("deit_tiny_patch16_224")
    sima_core.convert_to_sima(model)
    return model


def traced(model: torch.nn.Module, pixels: torch.Tensor):
    return torch.jit.trace(model, pixels)


def exported(model: torch.nn.Module, pixels: torch.Tensor):
    return torch.export.export(model, (pixels,)).module()


def compiled(model: torch.nn.Module, pixels: torch.Tensor):
    torch.compiler.reset()
    return torch.compile(model, backend="aot_eager", fullgraph=True)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("order", ["qk_first", "kv_first"])
@pytest.mark.parametrize("form", [traced, exported, compiled])
@torch.no_grad()
def test_traced_exported_compiled(sima_model, form, order):
    pixels = torch.randn(2, 3, 48, 64)
    for layer in layers_with_orders(sima_model):
        layer.order = order
    expected = sima_model(pixels)
    found = form(sima_model, pixels)(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("order", ["qk_first", "kv_first"])
def test_gradients_flow(sima_model, order):
    sima_model.train()
    for layer in layers_with_orders(sima_model):
        layer.order = order
    sima_model(torch.randn(2, 3, 48, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in sima_model.parameters())
    for layer in layers_with_orders(sima_model):
        projection = layer.qkv if hasattr(layer, "qkv") else layer.proj_q
        assert projection.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_both_orders_agree(sima_model):
    pixels, results = torch.randn(2, 3, 48, 64), []
    for order in ("qk_first", "kv_first"):
        for layer in layers_with_orders(sima_model):
            layer.order = order
        results.append(sima_model(pixels))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_recipes_are_never_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ARCHITECTURES["cvt_13"].depth = (1, 1, 1)


# ---- The bench and the page -----------------------------------------------------------------


@pytest.mark.parametrize(("layer", "tokens"), [(1, (16 * 12, 8 * 6)), (3, (1 + 4 * 3, 1 + 2 * 2))])
def test_orders_are_compared_where_keys_are_fewer(layer, tokens):
    model = shallow("sima_cvt_13")
    *_, found = compare_orders(model, torch.randn(1, 3, 64, 48), layer, seconds=0.01)
    assert (found.num_tokens, found.num_keys) == tokens
    assert (found.layer, found.head_dim) == (layer, 64)
    assert set(found.levels) == {"attention", "block", "model"}
    assert found.relative_difference < 1e-5
    queries, keys = tokens
    assert found.intermediate_bytes("qk_first") == 4 * found.num_heads * queries * keys
    by_counting = queries * keys * 2 * 64 / ((queries + keys) * 64**2)
    assert found.predicted_ratio == pytest.approx(by_counting)
    assert "on average over queries and keys" in found.reason


def test_comparing_orders_needs_sima():
    with pytest.raises(ValueError, match=r"has softmax.*sima_deit_small"):
        next(compare_orders(shallow("deit_tiny_patch16_224"), torch.randn(1, 3, 64, 48), 1))


def test_the_page_and_the_files_show_a_coarser_grid_of_keys(photo, tmp_path):
    analysis = sima_core.analyze(sima_core.load_model("cvt_13"), photo, resolution=64)
    html = viewer_html(analysis, 1, None, "inferno")
    assert 'data-rows="16" data-cols="24"' in html
    assert 'data-rows="8" data-cols="12"' in html
    assert "<b>K</b>" in html  # no hat: softmax attention
    assert "16 × 24 = 384 tokens" in summary_html(analysis, "photo", 1, None)
    npz, *_, described = write(analysis, tmp_path, "photo", "photo.png", layer=13)
    assert np.load(npz)["key_norm"].shape == (2, 3)
    about = json.loads(described.read_text())
    assert (about["grid"], about["key_grid"]) == ([4, 6], [2, 3])
