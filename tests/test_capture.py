"""Capture: layers, shapes, one forward pass, and nothing left behind."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch

from sima_core import analyze, load_model, token_norms
from sima_core.attention import SimAttention
from sima_core.capture import NormRecorder, layer_numbers


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
    with pytest.raises(TypeError):
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


def test_models_without_sima_are_named():
    with pytest.raises(ValueError, match="VisionTransformer has no SimA layers"):
        token_norms(timm.create_model("vit_tiny_patch16_224"), torch.randn(1, 3, 224, 224))


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
