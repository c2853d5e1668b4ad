"""What SimA is measured against is what it should be."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sima_core.attention.operation import (
    bare_products,
    sima_attention,
    sima_cross_attention,
)
from sima_core.bench.orders import ORDERS, product_macs
from sima_core.bench.references import (
    cross_covariance_attention,
    fused_softmax_attention,
    published_sima,
    softmax_attention,
)
from tests.attention.test_operation import written_out


def test_reference_formulations():
    qkv = torch.randn(2, 30, 3 * 16, dtype=torch.float64)
    for order in ORDERS:
        torch.testing.assert_close(
            published_sima(qkv, 2, order).double(), written_out(qkv, 2), rtol=1e-4, atol=1e-6
        )
    torch.testing.assert_close(bare_products(qkv, 2, "qk_first"), bare_products(qkv, 2, "kv_first"))
    torch.testing.assert_close(softmax_attention(qkv, 2), fused_softmax_attention(qkv, 2))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("attention", [sima_attention, bare_products, published_sima])
@pytest.mark.parametrize("num_tokens", [9, 40])
def test_each_order_multiplies_as_often_as_the_paper_counts(attention, order, num_tokens):
    qkv = torch.randn(1, num_tokens, 3 * 32)
    with FlopCounterMode(display=False) as counter:
        attention(qkv, 2, order)
    assert counter.get_total_flops() == 2 * product_macs(order, 2, 16, num_tokens)


@pytest.mark.parametrize("order", ORDERS)
def test_so_does_each_order_over_other_keys_than_queries(order):
    q, keys = torch.randn(1, 40, 32), torch.randn(1, 9, 32)
    with FlopCounterMode(display=False) as counter:
        sima_cross_attention(q, keys, keys, 2, order)
    assert counter.get_total_flops() == 2 * product_macs(order, 2, 16, 40, 9)


def test_cross_covariance_attention_is_timms():
    from timm.models.xcit import XCA

    xca = XCA(16, num_heads=2).eval()
    xca.proj = torch.nn.Identity()
    x = torch.randn(2, 30, 16)
    torch.testing.assert_close(cross_covariance_attention(xca.qkv(x), 2), xca(x))
