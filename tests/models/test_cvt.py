"""CvT: the published results, any size, and SimA in place of its softmax."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import sima_core
from sima_core.attention.operation import mean_tokens, sima_cross_attention
from sima_core.models.cvt import ConvAttention, Cvt, SimAConvAttention
from sima_core.weights.provenance import provenance
from tests.golden import weights
from tests.support import GOLDEN, relative_error

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = json.loads((GOLDEN / "cvt_13.keys.json").read_text())
RESULTS = np.load(GOLDEN / "cvt_13.npz")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The reference weights, loaded as Microsoft published theirs: a bare state dict."""
    path = tmp_path_factory.mktemp("cvt") / "CvT-13-224x224-IN-1k.pth"
    torch.save(weights.state_dict(SPEC), path)
    return sima_core.load_model(path)


def test_what_it_tells_of_itself_is_what_timms_models_tell():
    model = Cvt(num_classes=5, embed_dim=(8, 16, 24), depth=1, num_heads=(1, 2, 3))
    assert [(at["reduction"], at["num_chs"], at["module"]) for at in model.feature_info] == [
        (4, 8, "stage0"),
        (8, 16, "stage1"),
        (16, 24, "stage2"),
    ]
    assert (model.stride, model.num_features, model.num_classes) == (16, 24, 5)
    tokens = model.forward_features(torch.zeros(2, 3, 32, 32))
    assert tokens.shape == (2, model.num_prefix_tokens, 24)  # the class token alone
    assert model.forward_head(tokens, pre_logits=True).shape == (2, 24)


@pytest.mark.parametrize("key", sorted(RESULTS))
def test_the_published_results(published, key):
    assert provenance(published).architecture == "cvt_13"
    height, width = map(int, key.split("/")[0].split("x"))
    rng = np.random.RandomState(height * 1000 + width)
    pixels = torch.from_numpy(rng.randn(2, 3, height, width).astype(np.float16)).float()
    with torch.no_grad():
        assert relative_error(published(pixels).numpy(), RESULTS[key]) < 1e-5


@pytest.mark.parametrize(("name", "millions"), [("cvt_13", 20.0), ("cvt_21", 31.6)])
def test_published_sizes_and_the_same_parameters_with_sima(name, millions):
    softmax, sima = (timm.create_model(n, device="meta") for n in (name, f"sima_{name}"))
    assert sum(p.numel() for p in softmax.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert {k: t.shape for k, t in softmax.state_dict().items()} == {
        k: t.shape for k, t in sima.state_dict().items()
    }


def test_a_name_loads_the_same_weights_with_sima(published, tmp_path):
    path = tmp_path / "cvt.safetensors"
    save_file(published.state_dict(), path)
    sima = sima_core.load_model(path, "sima_cvt_13")
    single = sima_core.load_model(path, "sima_cvt_13_1h")
    assert {m.num_heads for m in sima.modules() if isinstance(m, SimAConvAttention)} == {1, 3, 6}
    assert {m.num_heads for m in single.modules() if isinstance(m, SimAConvAttention)} == {1}


@pytest.mark.parametrize("size", [(32, 80), (16, 16), (70, 50)])
def test_any_size(size):
    model = timm.create_model("sima_cvt_13", depth=1, num_classes=5).eval()
    assert model(torch.randn(2, 3, *size)).shape == (2, 5)


def test_attention_against_its_definition():
    """Against the paper's text, convolution by convolution, in float64."""
    torch.manual_seed(0)
    attention = ConvAttention(12, 3).eval().double()
    x = torch.randn(2, 1 + 5 * 4, 12, dtype=torch.float64)
    grid = x[:, 1:].transpose(1, 2).reshape(2, 12, 5, 4)

    def projected(name: str) -> torch.Tensor:
        patches = getattr(attention, f"conv_proj_{name}")(grid).flatten(2).transpose(1, 2)
        tokens = torch.cat([x[:, :1], patches], dim=1)
        return getattr(attention, f"proj_{name}")(tokens).view(2, -1, 3, 4)

    q, k, v = map(projected, "qkv")
    assert (q.shape[1], k.shape[1]) == (1 + 5 * 4, 1 + 3 * 2)
    softmax = (torch.einsum("bihd,bjhd->bhij", q, k) / 12**0.5).softmax(-1)
    expected = attention.proj(torch.einsum("bhij,bjhe->bihe", softmax, v).flatten(2))
    torch.testing.assert_close(attention(x, 5, 4), expected)

    q, k = (t / t.abs().sum(dim=1, keepdim=True) for t in (q, k))
    expected = attention.proj(torch.einsum("bihd,bjhd,bjhe->bihe", q, k, v).flatten(2))
    for order in ("auto", "rule", "qk_first", "kv_first"):
        sima = SimAConvAttention(12, 3, order).eval().double()
        sima.load_state_dict(attention.state_dict())
        torch.testing.assert_close(sima(x, 5, 4), expected)


@pytest.mark.parametrize("order", ["qk_first", "kv_first"])
def test_gradients_are_right(order):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, n, 8, dtype=torch.float64, requires_grad=True) for n in (6, 4, 4))
    assert torch.autograd.gradcheck(lambda *t: sima_cross_attention(*t, 2, order), (q, k, v))


def test_half_precision_and_blocks_of_rows(monkeypatch):
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 40, 8), torch.randn(1, 10, 8), torch.randn(1, 10, 8)
    whole = sima_cross_attention(q, k, v, 2, "qk_first")
    monkeypatch.setattr("sima_core.attention.operation.WEIGHTS_BUDGET", 1000)
    torch.testing.assert_close(sima_cross_attention(q, k, v, 2, "qk_first"), whole)
    halves = sima_cross_attention(q.half(), k.half(), v.half(), 2)
    torch.testing.assert_close(halves.float(), whole, rtol=0.02, atol=0.02 * whole.abs().max())


def test_the_rule_counts_multiplications():
    assert mean_tokens(50, 50) == 50
    for queries, keys, head_dim in ((3136, 784, 64), (40, 10, 16), (40, 10, 15)):
        qk_first = 2 * queries * keys * head_dim
        kv_first = (queries + keys) * head_dim**2
        assert (qk_first < kv_first) == (mean_tokens(queries, keys) < head_dim)


def test_every_parameter_trains_and_drop_path_rises():
    model = timm.create_model("sima_cvt_13", depth=2, num_classes=5, drop_path_rate=0.1).train()
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for s in model.stages for b in s.blocks]
    assert rates == [0, 0, 0, 0, 0, pytest.approx(0.1)]
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_heads": 5}, "heads do not divide"),
        ({"depth": (1, 2)}, "3 stages"),
        ({"attn_layer": SimAConvAttention, "attn_drop_rate": 0.1}, "dropout"),
    ],
)
def test_options_without_meaning_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Cvt(device="meta", **options)


def test_classifier_as_timm_has_it():
    model = timm.create_model("cvt_13", depth=1, num_classes=5).eval()
    model.reset_classifier(7)
    assert model.get_classifier().weight.shape == (7, 384)
    assert model.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 1, model.num_features)
    model.reset_classifier(0)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 384)
    with pytest.raises(ValueError, match="class token"):
        model.reset_classifier(7, "avg")
