"""The fast paths agree with the definition; the bench measures and says what it should."""

import json
import math

import pytest
import torch
from torch.utils.benchmark import Measurement

from sima_core import load_model
from sima_core.attention import kernel as kernels
from sima_core.attention import operation as attention
from sima_core.attention.modules import SimAttention
from sima_core.attention.operation import (
    bare_products,
    choose_order,
    set_crossovers,
    sima_attention,
)
from sima_core.bench import calibration
from sima_core.bench.orders import ORDERS, compare_orders
from sima_core.bench.references import (
    cross_covariance_attention,
    fused_softmax_attention,
    published_sima,
    softmax_attention,
)
from sima_core.bench.sweeps import sweep
from sima_core.bench.timing import Ratio, Timings, interleave
from sima_core.machine import require_memory
from tests.attention.test_operation import written_out
from tests.cli.support import run


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


# ---- auto ------------------------------------------------------------------------------------


@pytest.fixture
def no_calibration():
    yield
    set_crossovers({})


def test_auto_follows_the_measured_crossover(no_calibration):
    set_crossovers({32: 20.0, 64: 128.0})
    assert choose_order("auto", 19, 32) == "qk_first"
    assert choose_order("auto", 20, 32) == "kv_first"
    assert choose_order("auto", 127, 64) == "qk_first"
    assert choose_order("auto", 31, 48) == "kv_first"  # the nearest is 32: 48 · 20 / 32 = 30
    assert choose_order("rule", 31, 32) == "qk_first"
    # What was measured is float32 on the processor; elsewhere the rule holds.
    assert choose_order("auto", 20, 32, torch.empty(0)) == "kv_first"
    assert choose_order("auto", 20, 32, torch.empty(0, dtype=torch.bfloat16)) == "qk_first"
    assert choose_order("auto", 20, 32, torch.empty(0, device="meta")) == "qk_first"
    set_crossovers({})
    assert choose_order("auto", 31, 32) == "qk_first"


def test_crossing():
    ratios = {n: n / 40 for n in (10, 20, 39, 42, 80)}
    assert 39 < calibration.crossing(ratios) < 42
    assert 39 < calibration.crossing({**ratios, 10: 1.05}) < 42  # one noisy point
    assert calibration.crossing({n: n / 4 for n in (10, 20)}) == 10  # kv_first from the start
    assert calibration.crossing({n: n / 4000 for n in (10, 20)}) == 40  # never, as far as seen


def test_calibration_is_kept(tmp_path, monkeypatch, no_calibration):
    measured = calibration.apply(tmp_path)
    assert measured.keys() == set(calibration.HEAD_DIMS)
    monkeypatch.setattr(calibration, "calibrate", None)  # would fail if it were called again
    assert calibration.apply(tmp_path) == measured


def test_a_damaged_calibration_is_measured_anew(tmp_path, monkeypatch, no_calibration):
    monkeypatch.setattr(calibration, "calibrate", lambda: {32: 30.0})
    calibration.apply(tmp_path)
    [file] = tmp_path.iterdir()
    file.write_text("{")
    assert calibration.apply(tmp_path) == {32: 30.0}


# ---- the bench -------------------------------------------------------------------------------


def timings(**times: list[float]) -> Timings:
    from torch.utils.benchmark import TaskSpec

    return Timings({n: Measurement(1, t, TaskSpec(n, "")) for n, t in times.items()})


def test_ratios_are_taken_round_by_round():
    found = timings(a=[2.0, 30.0, 4.0], b=[1.0, 10.0, 2.0])
    assert found.ratio("a", to="b") == Ratio(2.0, 2.0, 2.5, 3)
    assert found.seconds("a") == 4.0
    assert found.unsteady == ["a", "b"]


def test_candidates_are_interleaved():
    calls: list[str] = []

    def busy(name: str) -> None:
        calls.append(name)
        torch.randn(300, 300) @ torch.randn(300, 300)

    rounds = list(interleave({n: lambda n=n: busy(n) for n in "ab"}, 0.0, min_rounds=6))
    assert len(rounds) == 6
    assert [len(m.raw_times) for m in rounds[-1].measurements.values()] == [6, 6]
    blocks = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert blocks.count("a") >= 3  # back and forth, not one after the other


def test_inference_mode_does_not_leak_between_rounds():
    for _ in interleave({"a": lambda: None}, 0.0, min_rounds=2):
        assert not torch.is_inference_mode_enabled()


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


def test_compare_orders(model):
    pixels = torch.randn(1, 3, 64, 64)
    orders = [m.order for m in model.modules() if isinstance(m, SimAttention)]
    *_, found = compare_orders(model, pixels, layer=-1, seconds=0.3)
    assert (found.num_tokens, found.head_dim, found.num_heads, found.layer) == (16, 32, 4, 12)
    assert found.predicted_ratio == 0.5
    assert found.intermediate_bytes("qk_first") == 4 * 4 * 16**2
    assert found.intermediate_bytes("kv_first") == 4 * 4 * 32**2
    assert found.relative_difference < 1e-5
    assert list(found.levels) == ["attention", "block", "model"]
    assert ("auto multiplies Q̂K̂ᵀ first" in found.reason) == (found.chosen == "qk_first")
    assert orders == [m.order for m in model.modules() if isinstance(m, SimAttention)]
    json.dumps(found.as_dict())


def test_each_kind_of_layer_is_timed_as_it_multiplies(monkeypatch):
    plain = load_model("plain_deit_nano_patch16_224").double()
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    monkeypatch.setattr(attention, "sima_attention", None)  # would fail if it were called
    *_, found = compare_orders(plain, pixels, seconds=0.1, levels=["attention"])
    assert found.relative_difference < 1e-12
    assert found.intermediate_bytes("qk_first") == 8 * found.num_heads * found.num_tokens**2


def test_sweeps():
    [point] = sweep("dim", seconds=0.01, sizes=[8], num_tokens=20)
    assert (point.num_tokens, point.head_dim) == (20, 8)
    assert len(point.timings.measurements) == 6
    with pytest.raises(ValueError, match="sweep must be one of"):
        next(sweep("heads"))


def test_memory_is_checked_before_any_work():
    require_memory(1)
    with pytest.raises(ValueError, match="choose a lower resolution"):
        require_memory(10**15)


def test_pictures_that_do_not_fit_are_refused_before_any_work(model, monkeypatch):
    monkeypatch.setattr("sima_core.machine.available_memory", lambda: 10**6)
    monkeypatch.setattr(model, "forward", None)  # would fail if it were called
    with pytest.raises(ValueError, match="choose a lower resolution"):
        next(compare_orders(model, torch.randn(1, 3, 224, 224)))


# ---- the command -----------------------------------------------------------------------------


def test_latency_of_a_picture(photo_file):
    done = run("latency", photo_file, "--seconds", 0.5, "--resolution", 64, "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["num_tokens"] == 24
    assert found["levels"]["attention"]["kv_first"]["times"]
    assert math.isfinite(found["levels"]["model"]["ratio"]["median"])
    assert found["machine"]["threads"] >= 1


def test_latency_in_bfloat16(photo_file):
    done = run("latency", photo_file, "--seconds", 0.3, "--dtype", "bfloat16", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["machine"]["dtype"] == "bfloat16"


def test_latency_in_words(photo_file):
    done = run("latency", photo_file, "--seconds", 0.5)
    assert done.returncode == 0
    assert "predicted by multiplications (N / head_dim): 9.19×" in done.stdout  # 14 · 21 / 32
    assert "auto multiplies" in done.stdout


def test_sweep_as_table_and_plot(tmp_path):
    plot = tmp_path / "sweep.png"
    done = run("latency", "--sweep", "tokens", "--seconds", 0.03, "--device", "cpu", "--plot", plot)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2 + 6
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name one picture, or --sweep, or --targets"),
        (["x.png", "--targets"], "name one picture, or --sweep, or --targets"),
        (["gone.png"], "no such file"),
        (["LICENSE"], "not a picture"),
        (["--sweep", "tokens", "--device", "abacus"], "no device 'abacus'"),
        (["LICENSE", "--device", "abacus"], "no device 'abacus'"),
        (["--sweep", "tokens", "--seconds", "0"], "more than 0"),
        (["--sweep", "tokens", "--threads", "0"], "more than 0"),
        (["LICENSE", "--plot", "x.png"], "--plot draws a sweep"),
        (["--sweep", "tokens", "--plot", "x.txt"], "must name a .png file"),
        (["--sweep", "tokens", "--plot", "gone/x.png"], "cannot be written"),
        (["--targets", "--json"], "--targets takes none of"),
    ],
)
def test_bad_usage(arguments, reason):
    done = run("latency", *arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_layer_that_does_not_exist(photo_file):
    done = run("latency", photo_file, "--layer", 13)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "from 1 to 12" in done.stderr
