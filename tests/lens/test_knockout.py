"""Tokens taken away, against rows really deleted and against a plain computation in float64."""

import contextlib
import copy

import numpy as np
import pytest
import torch

from sima_core import InputError, Lens, convert_to_sima
from sima_core.lens.layers import find_layers
from sima_core.models.architectures import create_model
from tests.lens.flows import (
    FAMILIES,
    PIXELS,
    by_head,
    of_ours,
    of_timm,
    projected,
    sharpened,
    weighed,
)
from tests.lens.test_class_maps import num_hooks

pytestmark = pytest.mark.usefixtures("one_thread")

#: Of the 3 × 5 patches, in no order.
GONE = [(2, 2), (1, 1), (3, 4), (2, 3)]
KEPT = np.ones((3, 5), dtype=bool)
for _row, _col in GONE:
    KEPT[_row - 1, _col - 1] = False


def probabilities(model) -> np.ndarray:
    with torch.no_grad():
        return model(PIXELS.double())[0].softmax(-1).numpy()


@contextlib.contextmanager
def plainly(model, layers, forward):
    """Each layer's attention in `model` as `forward(module, layer, args)` has it."""
    for layer in layers:
        module = layer.module(model)
        module.forward = lambda *args, m=module, one=layer, **_: forward(m, one, args)
    yield
    for layer in layers:
        del layer.module(model).forward


def kept_rows(count: int, kept=KEPT) -> torch.Tensor:
    flat = torch.from_numpy(kept.ravel())
    return torch.cat([torch.ones(count - len(flat), dtype=torch.bool), flat])


def of_conv(layer, module, args):
    """Which patches of the queries' and of the keys' grid stay in a layer of CvT."""
    query_grid, key_grid = layer.grids(48, 80)
    rows, cols = query_grid
    finer = 16 // layer.query_stride
    queries = KEPT.repeat(finer, 0).repeat(finer, 1)[:rows, :cols]
    keys = np.zeros(key_grid, dtype=bool)
    for row, col in np.argwhere(queries):
        keys[row // 2, col // 2] = True  # a key stays as long as one query of its area does
    return queries, keys


def deleted(module, layer, args):
    """Attention among the tokens that stay alone; zeros for the others."""
    if hasattr(module, "conv_proj_q"):
        q_kept, k_kept = of_conv(layer, module, args)
        query, key, value = projected(module, *args)
        first = len(args[0][0]) - q_kept.size
        stay_q, stay_k = (
            kept_rows(first + q_kept.size, q_kept),
            kept_rows(first + k_kept.size, k_kept),
        )
        query, key, value = query[stay_q], key[stay_k], value[stay_k]
    else:
        stay_q = kept_rows(args[0].shape[1])
        query, key, value = projected(module, args[0][:, stay_q])
    given = attended(module, layer, query, key, value)
    if not layer.kind.over_patches:
        return given[None]
    whole = given.new_zeros(args[0].shape[1], given.shape[1])
    whole[stay_q] = given
    return whole[None]


def silenced(module, layer, args):
    """Attention among all, but that some tokens' parts are left out and their own rows zero."""
    query, key, value = projected(module, *args)
    if hasattr(module, "conv_proj_q"):
        q_kept, k_kept = of_conv(layer, module, args)
        first = len(args[0][0]) - q_kept.size
        stay_q, stay_k = (
            kept_rows(first + q_kept.size, q_kept),
            kept_rows(first + k_kept.size, k_kept),
        )
    else:
        stay_q = stay_k = kept_rows(args[0].shape[1])
    value = torch.where(stay_k[:, None], value, 0)
    given = attended(module, layer, query, key, value)
    if layer.kind.over_patches:
        given[~stay_q] = 0
    return given[None]


def attended(module, layer, query, key, value):
    query, key, value = (by_head(t, layer.num_heads) for t in (query, key, value))
    given = weighed(module, layer, query, key) @ value
    return module.proj(given.transpose(0, 1).flatten(1))


@pytest.mark.parametrize(
    "family", ["sima", "plain", "deit", "registers", "qk_norm", "cvt", "sima_cvt"]
)
def test_real_and_predicted(family):
    model = FAMILIES[family][0]()
    found = Lens(model).without(PIXELS, GONE)
    double = copy.deepcopy(model).double()
    layers = [*find_layers(double), *find_layers(double, False, False)]
    np.testing.assert_allclose(found.before, probabilities(double), atol=1e-5)
    with plainly(double, layers, deleted):
        real = probabilities(double)
    with plainly(double, layers, silenced):
        predicted = probabilities(double)
    np.testing.assert_allclose(found.real, real, atol=1e-5)
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-5)
    assert np.abs(real - found.before).max() > 2e-4  # the tokens matter
    differ = np.abs(real - predicted).max()
    assert differ < 1e-9 if family == "plain" else differ > 5e-5  # and so do norms, where they are
    assert num_hooks(model) == 0
    assert found.tokens == tuple(sorted(GONE))
    assert found.grid == (3, 5)


def test_real_is_what_a_vit_says_that_never_had_the_rows():
    model = of_timm("deit_tiny_patch16_224")
    found = Lens(model).without(PIXELS, GONE)
    with torch.no_grad():
        x = model._pos_embed(model.patch_embed(PIXELS))
        x = model.blocks(model.norm_pre(x[:, kept_rows(x.shape[1])]))
        expected = model.forward_head(model.norm(x))[0].softmax(-1)
    np.testing.assert_allclose(found.real, expected, atol=1e-6)


def test_one_layer_alone():
    model = of_timm("deit_tiny_patch16_224")
    found = Lens(model).without(PIXELS, GONE, layer=-1)
    double = copy.deepcopy(model).double()
    with plainly(double, find_layers(double)[-1:], silenced):
        np.testing.assert_allclose(found.predicted, probabilities(double), atol=1e-5)
    with plainly(double, find_layers(double)[-1:], deleted):
        np.testing.assert_allclose(found.real, probabilities(double), atol=1e-5)


def test_xca_has_no_prediction_but_a_real_answer():
    model = of_ours("xcit_nano_12_p16_224")
    found = Lens(model).without(PIXELS, GONE)
    assert found.predicted is None
    double = copy.deepcopy(model).double()
    patches = find_layers(double)

    def without_rows(module, layer, args):
        if not layer.kind.over_patches:
            return deleted(module, layer, args)
        stay = kept_rows(args[0].shape[1])
        whole = torch.zeros_like(args[0])
        whole[:, stay] = type(module).forward(module, args[0][:, stay])
        return whole

    with plainly(double, [*patches, *find_layers(double, False)], without_rows):
        np.testing.assert_allclose(found.real, probabilities(double), atol=1e-5)
    assert np.abs(found.real - found.before).max() > 1e-4


def test_class_attention_is_among_all_layers_but_not_among_numbered_ones():
    model = of_ours("sima_nano_12_p16")
    lens = Lens(model)
    every, patches = lens.without(PIXELS, GONE), lens.without(PIXELS, GONE, layer=[1, 2])
    assert np.abs(every.real - patches.real).max() > 1e-5


def test_converted_models_and_half_precision():
    deit = of_timm("deit_tiny_patch16_224")
    before = Lens(deit).without(PIXELS, GONE).real
    with convert_to_sima(deit):
        assert np.abs(Lens(deit).without(PIXELS, GONE).real - before).max() > 1e-3
    half = copy.deepcopy(deit).bfloat16()
    assert np.abs(Lens(half).without(PIXELS.bfloat16(), GONE).real - before).max() < 0.05


def test_tokens_named_twice_count_once(model):
    lens = Lens(model)
    once, twice = lens.without(PIXELS, GONE), lens.without(PIXELS, [*GONE, *GONE])
    assert once.tokens == twice.tokens
    assert np.array_equal(once.real, twice.real)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([], "no token was named"),
        (5, r"tokens are \(row, column\) each"),
        (None, r"tokens are \(row, column\) each"),
        ([(r, c) for r in (1, 2, 3) for c in range(1, 6)], "no token would be left"),
        ([(4, 1)], "no token at row 4, column 1: the grid has 3 rows and 5 columns"),
        ([(1, 0)], "no token at row 1, column 0"),
        ([(-1, 2)], "no token at row -1"),
        (["class"], r"a token is \(row, column\)"),
        ([None], r"a token is \(row, column\)"),
        ([3], r"a token is \(row, column\)"),
    ],
)
def test_what_cannot_be_taken_away_is_said(model, tokens, said):
    with pytest.raises(InputError, match=said):
        Lens(model).without(PIXELS, tokens)


def test_layers_and_pictures_that_cannot_be_are_said(model):
    lens = Lens(model)
    with pytest.raises(InputError, match="no layer 13"):
        lens.without(PIXELS, GONE, layer=13)
    with pytest.raises(InputError, match="one picture at a time"):
        lens.without(PIXELS.expand(2, -1, -1, -1), GONE)
    broken = sharpened(create_model("sima_nano_12_p16", depth=1))
    torch.nn.init.constant_(broken.head.weight, float("nan"))
    with pytest.raises(InputError, match="not numbers"):
        Lens(broken).without(PIXELS, GONE)
    assert num_hooks(broken) == 0
