"""What SimA is measured against is what it should be."""

import torch

from sima_core.attention.operation import (
    bare_products,
)
from sima_core.bench.orders import ORDERS
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


def test_cross_covariance_attention_is_timms():
    from timm.models.xcit import XCA

    xca = XCA(16, num_heads=2).eval()
    xca.proj = torch.nn.Identity()
    x = torch.randn(2, 30, 16)
    torch.testing.assert_close(cross_covariance_attention(xca.qkv(x), 2), xca(x))
