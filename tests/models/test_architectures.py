"""The registered architectures."""

import pytest
import timm
import torch

from sima_core.models.architectures import ARCHITECTURES, describe

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = {f"sima_{s}_12_p{p}" for s in ("nano", "tiny", "small") for p in (16, 8)} | {
    f"sima_{s}_24_p{p}" for s in ("tiny", "small", "medium", "large") for p in (16, 8)
}


def test_the_14_published_names_are_registered():
    assert ARCHITECTURES.keys() >= PUBLISHED
    assert all(timm.is_model(name) for name in PUBLISHED)


@pytest.mark.parametrize(
    ("name", "heads", "eta", "tokens_norm"),
    [
        ("sima_nano_12_p16", 4, 1.0, False),
        ("sima_tiny_12_p8", 4, 1.0, True),
        ("sima_small_24_p16", 8, 1e-5, True),
        ("sima_large_24_p16", 16, 1e-5, True),
    ],
)
def test_hyper_parameters(name, heads, eta, tokens_norm):
    model = timm.create_model(name, device="cpu" if "nano" in name or "tiny" in name else "meta")
    block = model.blocks[0]
    assert block.attn.num_heads == heads
    assert model.cls_attn_blocks[0].tokens_norm is tokens_norm
    assert block.norm1.eps == 1e-6
    assert block.attn.qkv.bias is not None
    if not block.gamma1.is_meta:
        assert block.gamma1.unique().tolist() == [eta]


def test_describe_counts_parameters_and_multiplications():
    small = describe("sima_small_12_p16")
    assert small.parameters == sum(
        p.numel() for p in timm.create_model("sima_small_12_p16", device="meta").parameters()
    )
    # A block costs 12·C² a token for its four projections, 2·d·C for the two products and 18·C
    # for the two depthwise convolutions; the blocks make up nearly all of the model.
    blocks = 12 * 196 * (12 * 384**2 + 2 * 48 * 384 + 18 * 384)
    assert 1.0 < small.macs / blocks < 1.2


@pytest.mark.parametrize("name", ["sima_nano_12_p16", "sima_tiny_12_p8"])
@pytest.mark.parametrize("size", [(224, 224), (32, 80), (16, 16)])
def test_any_multiple_of_the_patch(name, size):
    model = timm.create_model(name, num_classes=5).eval()
    assert model(torch.randn(1, 3, *size)).shape == (1, 5)


@pytest.mark.parametrize("name", ["sima_nano_12_p16", "sima_tiny_12_p16", "sima_tiny_24_p16"])
def test_every_parameter_trains(name):
    model = timm.create_model(name, num_classes=5).train()
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
