"""The least ℓ1-norms: 1e-12 for patch tokens and 1e-6 in class attention, as published."""

import pytest
import torch

from sima_core.attention import kernel
from sima_core.attention.modules import SimAClassAttention
from sima_core.attention.operation import l1_normalize, sima_attention, sima_cross_attention

TOKENS = 10


def channel_norms(norms: torch.Tensor) -> torch.Tensor:
    """(1, TOKENS, channels) of ones, each channel scaled to its ℓ1-norm."""
    return norms.expand(1, TOKENS, -1) / TOKENS


@pytest.fixture(params=["kernel", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to the norms."""
    if request.param == "torch":
        monkeypatch.setattr(kernel, "_function", lambda: None)
    elif not kernel.available():
        pytest.skip("no C compiler on this machine")


@pytest.mark.parametrize(("norm", "becomes"), [(0, 0), (1e-15, 1e-3), (5e-13, 0.5), (2e-12, 1)])
def test_a_channel_is_divided_by_no_less_than_1e_12(norm: float, becomes: float) -> None:
    x = channel_norms(torch.tensor([norm, 3.0], dtype=torch.float64))
    expected = channel_norms(torch.tensor([becomes, 1.0], dtype=torch.float64))
    torch.testing.assert_close(l1_normalize(x), expected, rtol=1e-9, atol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("order", ["qk_first", "kv_first"])
@pytest.mark.parametrize(("norm", "becomes"), [(0, 0), (1e-15, 1e-3), (5e-13, 0.5), (2e-12, 1)])
def test_so_it_is_in_attention(norm: float, becomes: float, order: str) -> None:
    """One head of one channel, whose product is known: the sum of K̂ is 1, and that of V."""
    qkv = channel_norms(torch.tensor([norm, 1.0, TOKENS]))
    with torch.inference_mode():
        found = sima_attention(qkv, 1, order)
        crossed = sima_cross_attention(*qkv.split(1, dim=2), 1, order)
    expected = channel_norms(torch.tensor([float(becomes)]))
    for product in (found, crossed):
        torch.testing.assert_close(product, expected, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("where", ["q", "k"])
@pytest.mark.parametrize(("norm", "becomes"), [(0, 0), (1e-9, 1e-3), (5e-7, 0.5), (2e-6, 1)])
def test_class_attention_divides_by_no_less_than_1e_6(
    norm: float, becomes: float, where: str
) -> None:
    attention = SimAClassAttention(1, 1)
    ones = torch.ones(1, TOKENS, 1)
    values = {"q": 1 / TOKENS, "k": 1 / TOKENS, "v": 1.0} | {where: norm / TOKENS}
    with torch.inference_mode():
        attention.qkv.weight.copy_(torch.tensor([[v] for v in values.values()]))
        attention.proj.weight.fill_(1)
        attention.proj.bias.zero_()
        found = attention(ones)
    # Q̂ of the class token times the sums of K̂ and V: a tenth of what the channel becomes.
    expected = torch.full((1, 1, 1), becomes / TOKENS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
