"""When not to believe a map: the checks on one picture, and what follows from them."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from sima_core import Lens, load_model
from sima_core.errors import InputError
from sima_core.files import ASSETS
from sima_core.lens.maps import MAPS
from sima_core.scoring.metrics import centre_map
from sima_core.scoring.ranks import mean_ranks, spearman
from sima_core.scoring.sanity import EVERYTHING, Sanity, Step, outliers, sanity
from sima_core.time_limit import OutOfTimeError, time_limit

TWIN = ASSETS / "twins" / "deit_nano_patch16_224.safetensors"


@pytest.fixture(scope="module")
def pixels(model: nn.Module, photo) -> torch.Tensor:
    return Lens(model).preprocess(photo, 96)


@pytest.fixture(scope="module")
def found(model: nn.Module, pixels: torch.Tensor) -> dict[str, Sanity]:
    return sanity(model, pixels, 3, names=None)


def test_ranks_that_tie_share_the_mean_of_their_places():
    assert mean_ranks([30, 10, 20, 20, 5]).tolist() == [5, 2, 3.5, 3.5, 1]
    assert mean_ranks([[7, 7], [7, 7]]).tolist() == [2.5] * 4


def test_spearman_as_computed_by_hand():
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 − 6·Σd² / (n·(n² − 1)) = 1 − 6·4 / 120.
    assert spearman([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]) == pytest.approx(0.8)
    # With ties, ranks 1 2.5 2.5 4 and 1 2 3.5 3.5: Pearson's correlation of them, 3.75 / 4.5.
    assert spearman([1, 2, 2, 3], [1, 2, 3, 3]) == pytest.approx(3.75 / 4.5)
    assert spearman([[1, 2], [3, 4]], [[-1, -2], [-3, -400]]) == -1


def test_spearman_of_what_has_no_order_is_nothing():
    assert spearman([1, 1, 1], [1, 2, 3]) == 0
    with pytest.raises(InputError, match="cannot be compared"):
        spearman([[1, 2, 3]], [[1], [2], [3]])


def test_the_model_is_left_bit_for_bit_as_it_was(model, pixels):
    model = copy.deepcopy(model).train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    sanity(model, pixels, 12)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_same_is_found_each_time(model, pixels, found):
    torch.manual_seed(7)
    again = sanity(model, pixels, 3, names=None)
    assert {n: one.figures() for n, one in again.items()} == {
        n: one.figures() for n, one in found.items()
    }


def test_the_curve_is_that_of_models_made_random_by_hand(model, pixels, found):
    untrained = Lens(model).untrained().model
    for name in ("query", "key"):
        trained = getattr(Lens(model).norms(pixels, 3), name)[0].numpy()
        by_hand = copy.deepcopy(model)
        for number, step in zip((3, 2, 1), found[name].steps, strict=False):
            fresh = untrained.blocks[number - 1].state_dict()
            by_hand.blocks[number - 1].load_state_dict(fresh)
            expected = getattr(Lens(by_hand).norms(pixels, 3), name)[0].numpy()
            assert step.random == f"layer {number}"
            np.testing.assert_array_equal(step.map, expected)
            assert step.correlation == spearman(trained, expected)
        assert found[name].random == found[name].steps[2].correlation
        everything = found[name].steps[3]
        assert everything.random == EVERYTHING
        nothing_learnt = getattr(Lens(untrained).norms(pixels, 3), name)[0].numpy()
        np.testing.assert_array_equal(everything.map, nothing_learnt)
        assert len(found[name].steps) == 4


def test_what_the_class_token_receives_hangs_on_all_layers(model, found):
    """It is in class attention, above them all; norms of layer 3 hang on three."""
    steps = [step.random for step in found["class_contribution"].steps]
    assert steps == ["class attention", *(f"layer {n}" for n in range(12, 0, -1)), EVERYTHING]
    assert set(found) == set(MAPS)


def test_a_network_that_treats_both_sides_alike_passes_the_mirror(photo):
    lens = Lens(load_model(TWIN))
    pixels = lens.preprocess(photo, 96)
    before = sanity(lens, pixels, 4)["key"].mirror
    with torch.no_grad():
        lens.model.pos_embed.zero_()
        weight = lens.model.patch_embed.proj.weight
        weight.copy_((weight + weight.flip(-1)) / 2)
    for one in sanity(lens, pixels, 4).values():
        assert before < 0.99 < one.mirror


def test_mirror_and_centre_are_of_the_map_itself(model, pixels, found):
    trained = Lens(model).norms(pixels, 3).query[0].numpy()
    mirrored = Lens(model).norms(pixels.flip(-1), 3).query[0].numpy()
    rows, cols = trained.shape
    assert rows != cols  # so that no axis stands for the other
    assert found["query"].mirror == spearman(trained, mirrored[:, ::-1])
    assert found["query"].centre == spearman(trained, centre_map(cols, rows))


def test_norms_are_held_against_exact_sizes(model, pixels, found):
    totals = Lens(model).flow(pixels, 3).totals()
    norms = Lens(model).norms(pixels, 3)
    number = norms.key.numel()
    key = spearman(norms.key.ravel(), totals.sent[-number:])
    assert found["key"].agreement == {"sent": key}
    query = found["query"].agreement
    assert query["received"] == spearman(norms.query.ravel(), totals.received[-number:])
    assert query["gathered"] == spearman(norms.query.ravel(), totals.gathered[-number:])
    assert found["sent"].agreement == {}  # exact itself


def test_outliers_are_beyond_three_times_the_median():
    values = np.ones((3, 4), dtype=np.float32)
    values[0, 1], values[2, 3] = 3.01, 3
    assert outliers(values) == ((1, 2),)


def test_artefacts_in_what_leaves_a_layer_are_seen(photo):
    lens = Lens(load_model(TWIN))
    pixels = lens.preprocess(photo, 96)

    def blow_up(block: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, -1] *= 100
        return output

    calm = sanity(lens, pixels, 4)["key"].output_largest
    with lens.model.blocks[3].register_forward_hook(blow_up):
        wild = sanity(lens, pixels, 4)["key"].output_largest
    assert calm < 3 < 20 < wild


def test_a_head_and_its_own_maps(model, pixels):
    one = sanity(model, pixels, 3, ["key", "query_key"], head=2)
    norms = Lens(model).norms(pixels, 3, per_head=True).key[0, 1].numpy()
    np.testing.assert_array_equal(one["key"].map, norms)
    sent = Lens(model).flow(pixels, 3).totals(2).sent
    assert one["key"].agreement["sent"] == spearman(norms.ravel(), sent[-norms.size :])
    assert list(one) == ["key", "query_key"]


@pytest.mark.parametrize(
    "name", ["xcit_nano_12_p16_224", "sima_cvt_13", "plain_deit_nano_patch16_224"]
)
def test_every_family_can_be_checked(name, photo):
    lens = Lens(load_model(name))
    found = sanity(lens, lens.preprocess(photo, 96), 4, names=None)
    for one in found.values():
        figures = one.figures()
        assert np.isfinite(list(figures.values())).all()
        assert one.verdict().reasons == ("the weights are untrained",)
        assert one.random == 1  # of random weights, nothing changes
    assert ("agreement" in {c.name for c in found["key"].checks() if c.value is not None}) == (
        name != "xcit_nano_12_p16_224"
    )


def _judged(**changes: object) -> Sanity:
    """A map against which nothing speaks, but for the changes."""
    values = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    steps = tuple(Step(of, values, 0.1) for of in ("layer 1", EVERYTHING))
    fine = Sanity("key", 1, None, values, True, steps, 0.9, 0.3, (), 1.5, 1.5, {"sent": 0.9}, 0.5)
    return dataclasses.replace(fine, **changes)


def _random(correlation: float) -> dict[str, object]:
    found = _judged()
    return {"steps": (dataclasses.replace(found.steps[0], correlation=correlation), found.steps[1])}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "fine to read"),
        (_random(0.6), "fine to read"),
        (_random(0.61), "read with care: random layers draw much of it"),
        (_random(0.81), "do not read: random layers draw nearly the same map"),
        (_random(-0.81), "do not read: random layers draw nearly the same map"),
        ({"mirror": 0.49}, "read with care: mirroring the picture changes the map"),
        ({"mirror": 0.5}, "fine to read"),
        ({"centre": 0.81}, "read with care: it shows little but the distance from the middle"),
        ({"outliers": ((1, 2),)}, "read with care: one token stands out as artefacts do"),
        ({"outliers": ((1, 2), (3, 3))}, "read with care: 2 tokens stand out as artefacts do"),
        ({"outliers": ((1, 2),), "name": "sent"}, "fine to read"),
        (
            {"agreement": {"sent": 0.4}},
            "read with care: it ranks tokens otherwise than what is sent",
        ),
        ({"agreement": {}}, "fine to read"),
        ({"agreement": {"received": 0.6, "gathered": 0.2}}, "fine to read"),
        ({"trained": False}, "do not read: the weights are untrained"),
        ({"trained": None}, "fine to read"),
        ({"map": np.ones((3, 4), np.float32)}, "do not read: the map is flat"),
        (
            {"mirror": 0.1, **_random(0.9)},
            "do not read: random layers draw nearly the same map; mirroring the picture changes the"
            " map",
        ),
    ],
)
def test_verdicts(changes, said):
    assert str(_judged(**changes).verdict()) == said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 13}, "layers run from 1 to 12"),
        ({"names": ["loudness"]}, "a map is one of query, key"),
        ({"names": []}, "no map was asked for"),
        ({"head": 9}, "there is no head 9"),
    ],
)
def test_bad_arguments_get_a_sentence(model, pixels, arguments, message):
    with pytest.raises(InputError, match=message):
        sanity(model, pixels, **arguments)


def test_several_pictures_and_damaged_weights_get_a_sentence(model, pixels):
    with pytest.raises(InputError, match="one picture at a time"):
        sanity(model, pixels.repeat(2, 1, 1, 1))
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.blocks[0].attn.qkv.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="not numbers"):
        sanity(damaged, pixels)


def test_time_is_limited(model, pixels):
    with time_limit(0), pytest.raises(OutOfTimeError):
        sanity(model, pixels)
