"""Every path to the norms, the compiled kernel's and PyTorch's, agrees with the definition."""

import pytest
import torch

from sima_core.attention import kernel as kernels
from sima_core.attention import operation as attention
from sima_core.attention.operation import (
    sima_attention,
)
from sima_core.bench.orders import ORDERS
from tests.attention.test_operation import written_out


@pytest.fixture(params=["kernel", "torch"])
def path(request, monkeypatch):
    """Both ways to the norms: the compiled kernel, and PyTorch's own operations."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "_function", lambda: None)
    elif kernels._function() is None:
        pytest.skip("no C compiler on this machine")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("batch", "num_tokens"), [(1, 1), (8, 1), (1, 33), (8, 49), (1, 577), (8, 196), (1, 3000)]
)
def test_every_path_agrees_with_float64(path, batch, num_tokens, order):
    torch.manual_seed(num_tokens)
    qkv = torch.randn(batch, num_tokens, 3 * 96) * torch.logspace(-3, 3, 3 * 96)
    qkv[..., 5] = qkv[..., 96 + 40] = 0  # a channel of Q, and one of K, that is zero everywhere
    with torch.inference_mode():
        found = sima_attention(qkv, 2, order)
    expected = written_out(qkv, 2)
    magnitude = written_out(qkv.abs(), 2)  # of the terms, which may cancel in the sum
    assert ((found - expected).abs() <= 1e-6 * magnitude + 1e-30).all()


def test_very_many_tokens(path):
    torch.manual_seed(0)
    qkv = torch.randn(1, 9216, 3 * 96)
    q, k, v = attention.split_heads(qkv.double(), 2)
    q, k = (x / x.abs().sum(dim=-2, keepdim=True) for x in (q, k))
    expected = (q @ (k.mT @ v)).transpose(1, 2).flatten(2)
    with torch.inference_mode():
        found = sima_attention(qkv, 2, "kv_first")
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_blocks_of_rows_give_the_same_result(monkeypatch):
    qkv = torch.randn(2, 100, 3 * 64)
    whole = sima_attention(qkv, 4, "qk_first")
    monkeypatch.setattr(attention, "WEIGHTS_BUDGET", 2 * 4 * 100 * 4 * 7)  # seven rows at a time
    torch.testing.assert_close(sima_attention(qkv, 4, "qk_first"), whole)

    monkeypatch.setattr(attention, "WEIGHTS_BUDGET", 1)  # not even one
    torch.testing.assert_close(sima_attention(qkv, 4, "qk_first"), whole)


def test_blocks_are_as_large_as_the_budget_allows(monkeypatch):
    sizes = []

    def split(tensor, rows, dim):
        sizes.append(rows)
        return [tensor]

    monkeypatch.setattr(attention.torch, "split", split)
    monkeypatch.setattr(attention, "WEIGHTS_BUDGET", 2 * 4 * 100 * 4 * 7)
    sima_attention(torch.randn(2, 100, 3 * 64), 4, "qk_first")
    assert sizes == [7]


def test_a_machine_that_does_not_tell_its_instructions(monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(kernels.Path, "read_text", absent)
    assert kernels.cpu_flags() == ""


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.003)])
@pytest.mark.parametrize("order", ORDERS)
def test_half_precision(dtype, tolerance, order):
    torch.manual_seed(1)
    qkv = torch.randn(1, 400, 3 * 64).to(dtype)
    expected = written_out(qkv, 2)
    found = sima_attention(qkv, 2, order)
    assert found.dtype == dtype
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_not_a_number_comes_through(path):
    qkv = torch.randn(1, 20, 3 * 8)
    qkv[0, 3, 1] = float("nan")
    with torch.inference_mode():
        assert sima_attention(qkv, 1).isnan().any()


def test_tracers_and_autograd_see_torch_operations():
    qkv = torch.randn(1, 40, 3 * 8)
    traced = torch.jit.trace(lambda x: sima_attention(x, 2), qkv)
    other = torch.randn(1, 40, 3 * 8)
    torch.testing.assert_close(traced(other), sima_attention(other, 2))
    assert kernels.is_plain_inference(qkv)
    assert not kernels.is_plain_inference(qkv.requires_grad_())
