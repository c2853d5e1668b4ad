"""Flows against every pair of tokens in float64, for each kind of attention."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import timm
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from sima_core import InputError, Lens, convert_to_sima
from sima_core.lens.flowing import flowing, flows
from sima_core.lens.heatmaps import heatmap
from sima_core.lens.layers import find_layers
from sima_core.models.architectures import create_model
from sima_core.time_limit import OutOfTimeError, time_limit
from tests.lens.flows import FAMILIES, PIXELS, layer_of, of_ours, of_timm, pairs
from tests.lens.test_class_maps import num_hooks

pytestmark = pytest.mark.usefixtures("one_thread")

#: Of float32, by the largest value.
CLOSE = 1e-5


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """A model, one of its layers, and its flow."""
    make, number = FAMILIES[request.param]
    lens = Lens(make())
    layer = layer_of(lens, number)
    [flow] = flows(lens.model, PIXELS, [layer])
    return lens.model, layer, flow


def close(found, expected, among=None) -> bool:
    """Whether they agree, by the largest value `among` those of all pairs."""
    largest = float((expected if among is None else among).abs().max())
    return np.abs(np.asarray(found, dtype=np.float64) - expected.numpy()).max() < CLOSE * largest


def some_tokens(flow, side):
    """Tokens of the corners and of the middle, and the class token where it takes part."""
    rows, cols = getattr(flow, f"{side}_grid")
    grid = [(1, 1), (rows, cols), (rows // 2 + 1, cols // 2 + 1)] if rows else []
    return [*grid, *(["class"] if flow.layer.class_row is not None else [])]


def place(token, grid, count):
    rows, cols = grid
    return 0 if token == "class" else count - rows * cols + (token[0] - 1) * cols + token[1] - 1


# ---- Rows and columns --------------------------------------------------------------------------


@pytest.mark.parametrize("head", [None, 1])
@pytest.mark.parametrize(("way", "side"), [("received", "query"), ("sent", "key")])
def test_what_a_token_receives_and_sends(case, way, side, head):
    model, layer, flow = case
    every = pairs(model, layer, PIXELS, head)
    direction = torch.randn(every.output.shape[1], generator=torch.Generator().manual_seed(2))
    weights, given = every.weights, every.contributions
    signed = (weights * every.carried.norm(dim=-1)[:, None]).sum(0)
    if side == "key":  # a row is then what one token sends
        weights, given, signed = weights.transpose(1, 2), given.transpose(0, 1), signed.T
    sizes, along = given.norm(dim=-1), given @ direction.double()
    for token in some_tokens(flow, side):
        row = place(token, getattr(flow, f"{side}_grid"), len(given))
        parts = getattr(flow, way)(token, head, direction)
        assert close(parts.weights, weights[:, row].mean(0), weights)
        assert close(parts.signed, signed[row], signed)
        assert close(parts.norms, sizes[row], sizes)
        assert close(parts.along, along[row], along)
        path = float(sizes[row].sum())
        assert parts.length == pytest.approx(float(given[row].sum(0).norm()), abs=CLOSE * path)
        negative = weights[:, row].clamp(max=0).abs().sum() / weights[:, row].abs().sum()
        assert parts.negative_share == pytest.approx(float(negative), abs=CLOSE)
        assert parts.cancelled == pytest.approx(1 - parts.length / path, abs=2 * CLOSE)


@pytest.mark.parametrize("head", [None, 1])
def test_totals(case, head, monkeypatch):
    model, layer, flow = case
    every = pairs(model, layer, PIXELS, head)
    sizes = every.contributions.norm(dim=-1)
    if head is None:
        assert close(flow.output - (0 if flow.bias is None else flow.bias), every.output)
    monkeypatch.setattr("sima_core.lens.flow._BLOCK_BYTES", 1000)  # several blocks of rows
    totals = dataclasses.replace(flow).totals(head)
    assert close(totals.sent, sizes.sum(0))
    assert close(totals.gathered, sizes.sum(1))
    assert close(totals.received, every.contributions.sum(1).norm(dim=-1))
    weights = every.weights
    negative = weights.clamp(max=0).abs().sum() / weights.abs().sum()
    assert totals.negative_share == pytest.approx(float(negative), abs=CLOSE)
    path = float(every.contributions.sum(1).norm(dim=-1).sum() / sizes.sum())
    assert totals.cancelled == pytest.approx(1 - path, abs=CLOSE)
    if head is None:
        assert totals.error < CLOSE  # the ledger: the parts add up to the layer's own output
    else:
        assert totals.error is None


def test_along_each_tokens_own_direction(case):
    model, layer, flow = case
    every = pairs(model, layer, PIXELS)
    directions = torch.randn(every.output.shape, generator=torch.Generator().manual_seed(3))
    expected = (every.contributions * directions.double()[:, None]).sum(dim=(0, 2))
    assert close(flow.along(directions), expected)
    alone = pairs(model, layer, PIXELS, 1)
    expected = (alone.contributions * directions.double()[:, None]).sum(dim=(0, 2))
    assert close(flow.along(directions, 1), expected)


def test_grids_leave_class_and_register_tokens_out(case):
    _, layer, flow = case
    token = "class" if not layer.kind.over_patches else (1, 1)
    parts = flow.received(token)
    rows, cols = flow.key_grid
    assert parts.grid == (rows, cols) == layer.grids(48, 80)[1]
    found = parts.on_grid("signed")
    assert found.shape == (rows, cols)
    assert np.array_equal(found.ravel(), parts.signed[-rows * cols :])


def test_softmax_gives_no_negative_weights_and_sima_does(case):
    _, layer, flow = case
    share = flow.totals().negative_share
    assert share == 0 if layer.attention == "softmax" else 0 < share < 1


def test_the_ledger_notices_an_output_that_is_not_the_sum(case):
    _, _, flow = case
    wrong = dataclasses.replace(flow, output=flow.output * 1.01)
    assert wrong.totals().error > 1e-3


# ---- The lens ----------------------------------------------------------------------------------


def test_a_flow_leaves_the_model_as_it_was(model):
    lens, pixels = Lens(model), torch.randn(1, 3, 64, 48)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(pixels)
    flow = lens.flow(pixels)
    assert flow.layer.number == 12
    assert num_hooks(model) == 0
    assert torch.equal(model(pixels), expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    flow.projection.zero_()  # its own copy
    assert torch.equal(model(pixels), expected)


def test_what_a_layer_gave_is_not_held_once_it_was_taken(model):
    seen, held = [], []

    def take(flow):
        held.append(sum(not storage.expired() for storage in seen))
        seen.append(StorageWeakRef(flow.value.untyped_storage()))

    with flowing(model, find_layers(model), PIXELS, take), torch.no_grad():
        model(PIXELS)
    assert held == [0] * 12


def test_norms_of_a_flow_are_the_lenss(model):
    lens, pixels = Lens(model), torch.randn(1, 3, 64, 48)
    flow, norms = lens.flow(pixels, -1), lens.norms(pixels, -1, per_head=True)
    torch.testing.assert_close(flow.query.norm(dim=-1).view(-1, 4, 3), norms.query[0])
    torch.testing.assert_close(flow.key.norm(dim=-1).view(-1, 4, 3), norms.key[0])


def test_models_of_half_precision_and_converted_ones_have_flows():
    half = copy.deepcopy(of_ours("sima_nano_12_p16")).bfloat16()
    totals = Lens(half).flow(PIXELS.bfloat16(), 1).totals()
    assert totals.error < 0.02
    deit = of_timm("deit_tiny_patch16_224")
    with convert_to_sima(deit):
        flow = Lens(deit).flow(PIXELS, 2)
        assert flow.layer.attention == "SimA"
        assert flow.totals().error < CLOSE
    assert Lens(deit).flow(PIXELS, 2).totals().negative_share == 0


def test_class_flow_has_the_weights_of_attention_maps(model):
    for built, pixels in ((model, PIXELS), (of_timm("deit_tiny_patch16_224"), PIXELS)):
        lens = Lens(built)
        found = lens.class_flow(pixels, -1).received("class").on_grid("weights")
        np.testing.assert_allclose(found, lens.attention(pixels)[0], rtol=1e-5, atol=1e-9)
    first, last = (Lens(model).class_flow(PIXELS, n).layer.name for n in (None, -1))
    assert (first, last) == ("cls_attn_blocks.0.attn", "cls_attn_blocks.1.attn")


@pytest.mark.parametrize("family", ["sima", "deit", "cvt", "class"])
def test_why_one_label_and_not_another(family):
    model = FAMILIES[family][0]()
    lens = Lens(model)
    found = lens.why(PIXELS, 3, 1)
    layer = lens.class_flow(PIXELS).layer
    module, row = layer.module(model), layer.class_row
    # How the lead grows as the layer's output does, by central differences in float64.
    double = copy.deepcopy(model).double()
    step = 1e-4
    parts = pairs(model, layer, PIXELS).contributions[row]

    def lead(moved):
        def move(module, args, output):
            output[:, row] += moved
            return output

        hook = layer.module(double).register_forward_hook(move)
        with torch.no_grad():
            logits = double(PIXELS.double())[0]
        hook.remove()
        return float(logits[3] - logits[1])

    for token in (0, len(parts) // 2, len(parts) - 1):
        slope = (lead(step * parts[token]) - lead(-step * parts[token])) / (2 * step)
        largest = float(np.abs(found.along).max())
        assert float(found.along[token]) == pytest.approx(slope, abs=1e-4 * largest)
    assert num_hooks(module) == 0
    alone = lens.why(PIXELS, 3)
    other = lens.why(PIXELS, 1)
    np.testing.assert_allclose(found.along, alone.along - other.along, atol=1e-4 * largest)


def test_why_keeps_nothing_of_what_comes_before_the_layer(model):
    seen = []
    blocks = [module for module in model.modules() if type(module).__name__.endswith("Block")]
    hooks = [
        block.register_forward_hook(
            lambda _module, _args, output: seen.append(output.requires_grad)
        )
        for block in blocks
    ]
    lens = Lens(model)
    assert any(parameter.requires_grad for parameter in model.parameters())
    lens.why(PIXELS, 3)
    for hook in hooks:
        hook.remove()
    # Only the two blocks of class attention come with or after the layer.
    assert seen == [False] * lens.depth + [True, True]
    assert torch.is_grad_enabled()


# ---- What cannot be -----------------------------------------------------------------------------


def test_what_cannot_be_is_said(model):
    lens, pixels = Lens(model), torch.randn(1, 3, 64, 48)
    flow = lens.flow(pixels)
    for token, said in (
        ((5, 1), "no token at row 5, column 1: the grid has 4 rows and 3 columns"),
        ((0, 1), "no token at row 0"),
        ("class", "no class token takes part in layer 12"),
        ("left", 'a token is \\(row, column\\), counted from 1, or "class"'),
        (None, "a token is"),
        ((1, 2, 3), "a token is"),
        ((10**40, 1), "no token at row"),
        ((1.5, 1), "a token is"),
        ("12", "a token is"),
        ((float("inf"), 1), "a token is"),
    ):
        with pytest.raises(InputError, match=said):
            flow.received(token)
        with pytest.raises(InputError, match=said):
            flow.sent(token)
    with pytest.raises(InputError, match="no head 5"):
        flow.received((1, 1), head=5)
    with pytest.raises(InputError, match="128 numbers"):
        flow.received((1, 1), direction=torch.ones(3))
    with pytest.raises(InputError, match="12 × 128 numbers"):
        flow.along(torch.ones(3, 3))
    with pytest.raises(InputError, match="no layer 13"):
        lens.flow(pixels, 13)
    with pytest.raises(InputError, match="one picture at a time"):
        lens.flow(pixels.expand(2, -1, -1, -1))
    with pytest.raises(InputError, match="multiples of the patch"):
        lens.flow(pixels[..., :-1])
    with pytest.raises(InputError, match="no class 1000"):
        lens.why(pixels, 1000)
    with pytest.raises(InputError, match="no class True"):
        lens.why(pixels, True)
    [of_class] = flows(model, pixels, find_layers(model, over_patches=False)[:1])
    with pytest.raises(InputError, match="only the class token asks"):
        of_class.received((1, 1))
    with pytest.raises(InputError, match="an amount is one of weights, signed, norms, along"):
        flow.received((1, 1)).on_grid("grid")
    with pytest.raises(InputError, match="name two classes"):
        lens.why(pixels, 3, 3)
    with pytest.raises(InputError, match="name a direction"):
        flow.received((1, 1)).on_grid("along")


def test_values_that_are_no_numbers_are_left_so(model):
    pixels = torch.full((1, 3, 64, 48), math.nan)
    lens = Lens(model)
    flow = lens.flow(pixels)
    assert np.isnan(flow.received((1, 1)).norms).all()
    assert math.isnan(flow.totals().error)
    for name in ("sent", "received", "class_contribution"):
        with pytest.raises(InputError, match="not numbers"):
            heatmap(lens.maps(pixels).of(name))


def test_attention_whose_output_is_no_sum_is_said():
    xcit = Lens(create_model("xcit_nano_12_p16_224", depth=1).eval())
    with pytest.raises(InputError, match="XCA mixes channels and not tokens"):
        xcit.flow(PIXELS, 1)
    normed = Lens(of_timm("vit_tiny_patch16_224", scale_attn_norm=True))
    with pytest.raises(InputError, match="normalises or gates"):
        normed.flow(PIXELS, 1)
    pooled = timm.create_model(
        "vit_tiny_patch16_224", depth=1, class_token=False, global_pool="avg", img_size=(48, 80)
    )
    with pytest.raises(InputError, match="no class token takes part in layer 1"):
        Lens(pooled.eval()).class_flow(PIXELS)


def test_totals_look_at_the_clock(model):
    flow = Lens(model).flow(PIXELS)
    with pytest.raises(OutOfTimeError), time_limit(0.0):
        flow.totals()
