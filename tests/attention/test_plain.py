"""Attention without normalisation, SimA's rival in the comparison of twins."""

import torch

from sima_core import load_model, token_norms
from sima_core.attention.modules import PlainAttention


def test_plain_attention_is_the_bare_product_and_is_captured_as_it_is() -> None:
    torch.manual_seed(0)
    attention = PlainAttention(16, 2)
    x = torch.randn(2, 9, 16)
    q, k, v = attention.qkv(x).view(2, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)
    expected = attention.proj((q @ k.transpose(-2, -1) @ v).transpose(1, 2).flatten(2))
    for order in ("qk_first", "kv_first"):
        attention.order = order
        torch.testing.assert_close(attention(x), expected)
    model = load_model("plain_deit_nano_patch16_224")
    pixels = torch.randn(1, 3, 64, 64)
    seen: list[torch.Tensor] = []
    hook = model.blocks[11].attn.qkv.register_forward_hook(lambda m, a, out: seen.append(out))
    norms = token_norms(model, pixels, 12)
    hook.remove()
    expected = seen[0][0, 1:, :128].norm(dim=-1).view(4, 4)
    torch.testing.assert_close(norms.query[0], expected)
