"""SimA attention against its definition, written out in float64."""

import pytest
import timm
import torch
from torch.autograd import forward_ad

import sima_core
from sima_core.attention.operation import choose_order, sima_attention


def written_out(qkv: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Q̂K̂ᵀV token by token from the paper's definition: (B, N, 3C) to (B, N, C), float64."""
    batch, num_tokens, width = qkv.shape
    head_dim = width // 3 // num_heads
    q, k, v = qkv.double().view(batch, num_tokens, 3, num_heads, head_dim).permute(2, 0, 3, 1, 4)
    q = q / q.abs().sum(dim=2, keepdim=True).clamp_min(1e-12)
    k = k / k.abs().sum(dim=2, keepdim=True).clamp_min(1e-12)
    return torch.einsum("bhid,bhjd,bhje->bihe", q, k, v).flatten(2)


@pytest.mark.parametrize("order", ["auto", "rule", "qk_first", "kv_first"])
@pytest.mark.parametrize(("batch", "num_tokens"), [(1, 1), (8, 5), (1, 49), (2, 200)])
def test_matches_the_definition(batch, num_tokens, order):
    torch.manual_seed(num_tokens)
    qkv = torch.randn(batch, num_tokens, 3 * 64)
    qkv[..., 3] = 0  # a channel of q that is zero for every token
    expected = written_out(qkv, 4)
    found = sima_attention(qkv, 4, order)
    assert found.shape == (batch, num_tokens, 64)
    torch.testing.assert_close(
        found.double(), expected, rtol=1e-5, atol=1e-6 * expected.abs().max()
    )


def test_the_rule_takes_the_cheaper_product():
    assert choose_order("rule", 31, 32) == choose_order("auto", 31, 32) == "qk_first"
    assert choose_order("rule", 32, 32) == choose_order("auto", 32, 32) == "kv_first"
    assert choose_order("qk_first", 999, 32) == "qk_first"
    assert choose_order("kv_first", 1, 32) == "kv_first"


@pytest.mark.parametrize("order", ["qk_first", "kv_first"])
def test_gradients_are_right(order):
    torch.manual_seed(0)
    qkv = torch.randn(1, 6, 3 * 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sima_attention(x, 2, order), qkv)


@pytest.mark.parametrize("order", ["qk_first", "kv_first"])
def test_forward_mode_derivatives_and_batched_calls_are_right(order):
    torch.manual_seed(0)
    qkv, tangent = torch.randn(2, 1, 6, 3 * 8)

    def product(x):
        return sima_attention(x, 2, order)

    exact = (product(qkv.double() + 1e-6 * tangent) - product(qkv.double() - 1e-6 * tangent)) / 2e-6
    with torch.no_grad():
        _, by_func = torch.func.jvp(product, (qkv,), (tangent,))
        with forward_ad.dual_level():
            dual = product(forward_ad.make_dual(qkv, tangent))
            by_dual = forward_ad.unpack_dual(dual).tangent
        batched = torch.func.vmap(product)(torch.stack([qkv, tangent]))
    for found in (by_func, by_dual):
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batched, torch.stack([product(qkv), product(tangent)]))


@pytest.mark.parametrize("order", ["qk_first", "kv_first"])
def test_autocast_gives_the_same_up_to_its_precision(order):
    torch.manual_seed(0)
    qkv = torch.randn(1, 300, 3 * 64)  # float32, while autocast makes products of it bfloat16
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = sima_attention(qkv, 4, order)
    expected = written_out(qkv, 4)
    assert (found.double() - expected).abs().max() < 0.02 * expected.abs().max()


def test_gradient_at_a_zero_channel_is_finite():
    qkv = torch.randn(1, 6, 3 * 8)
    qkv[..., 0] = qkv[..., 9] = 0
    qkv.requires_grad_()
    sima_attention(qkv, 2).sum().backward()
    assert qkv.grad.isfinite().all()


def test_works_as_an_attention_layer_of_timm():
    model = timm.create_model(
        "vit_tiny_patch16_224", attn_layer=sima_core.SimAttention, num_classes=3
    ).eval()
    assert model(torch.randn(1, 3, 224, 224)).shape == (1, 3)


@pytest.mark.parametrize(
    "options",
    [{"attn_drop": 0.1}, {"qk_norm": True}, {"gated": True}, {"num_heads": 5}, {"order": "fast"}],
)
def test_options_without_meaning_are_refused(options):
    with pytest.raises(ValueError, match=r"SimA attention|heads|order must be"):
        sima_core.SimAttention(64, **options)


def test_masks_are_refused():
    with pytest.raises(ValueError, match="mask"):
        sima_core.SimAttention(64)(torch.randn(1, 4, 64), is_causal=True)
