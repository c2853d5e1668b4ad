"""Metrics on maps small enough to reckon by hand, and against slow exact forms."""

import numpy as np
import pytest
import torch

from sima_core import preprocess
from sima_core.lens.heatmaps import heatmap
from sima_core.scoring.faithfulness import curves, random_ranking
from sima_core.scoring.metrics import (
    Estimate,
    Target,
    centre_map,
    exact_auc,
    peak,
    random_heatmap,
    skip_reason,
    uniform_map,
)


def target(rows) -> Target:
    return Target(np.array(rows, dtype=bool))


def a(rows) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


TOY = target([[1, 1, 0], [0, 0, 0]])


def test_energy_and_lift_by_hand():
    assert TOY.energy(a([[0.5, 1, 0.25], [0, 0.25, 0]])) == pytest.approx(1.5 / 2)
    assert TOY.energy_lift(a([[0.5, 1, 0.25], [0, 0.25, 0]])) == pytest.approx(0.75 * 3)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.9, 1, 0.1], [0, 0, 0]], 1),
        ([[0, 0, 1], [0.9, 0, 0]], 0),
        ([[1, 0, 0.5], [0.2, 0, 0]], 0.5),
        # One place for the largest, one shared by two, of which one is on the object.
        ([[1, 0.5, 0.5], [0, 0, 0]], 0.75),
        ([[1, 1, 1], [1, 1, 1]], 1 / 3),  # all tie: two places among six
        ([[0.3, 0.3000001, 0.5], [0.2, 0, 0]], 0.5),  # no tie, however close
    ],
)
def test_rank_accuracy_by_hand(rows, expected):
    assert TOY.rank_accuracy(a(rows)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 0.9, 0.1], [0, 0, 0]], 1),
        ([[0, 0, 1], [1, 1, 1]], 0),
        ([[1, 1, 1], [1, 1, 1]], 0.5),
        ([[1, 0, 0.5], [0.2, 0, 0]], (4 + 0 + 2 * 0.5) / 8),
    ],
)
def test_auc_by_hand(rows, expected):
    assert TOY.auc(a(rows)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["smooth", "noise", "steps", "one outlier", "flat", "tiny range"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.75])
def test_fast_ranks_agree_with_exact_ones(kind, share):
    rng = np.random.default_rng(7)
    size = (600, 400)
    mask = rng.random((400, 600)) < share
    mask[:, :80] = True
    maps = {
        "smooth": heatmap(rng.random((14, 19))).resize(size),
        "noise": rng.random((400, 600), dtype=np.float32),
        "steps": rng.integers(0, 4, (400, 600)).astype(np.float32) / 3,
        "one outlier": heatmap(np.where(np.arange(266) == 9, 1e4, rng.random(266)).reshape(14, 19))
        .resize(size),
        "flat": np.ones((400, 600), np.float32),
        "tiny range": 0.5 + 1e-3 * rng.random((400, 600), dtype=np.float32),
    }  # fmt: skip
    values, found = maps[kind], Target(mask)
    assert found.auc(values) == pytest.approx(exact_auc(values, mask), abs=1e-4)
    # Ties shared evenly is what breaking them at random gives on average: order by value, with
    # pixels on objects last, and first, of those that tie.
    count = int(mask.sum())
    low, high = (
        mask.ravel()[np.lexsort((order, values.ravel()))][-count:].sum() / count
        for order in (~mask.ravel(), mask.ravel())
    )
    assert low <= found.rank_accuracy(values) + 1e-9
    assert found.rank_accuracy(values) <= high + 1e-9


def test_exact_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(1)
    values, mask = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.4
    on, off = values[mask][:, None], values[~mask][None]
    assert exact_auc(values, mask) == pytest.approx((on > off).mean() + (on == off).mean() / 2)


def pointing(peak_at: tuple[int, int], object_at: tuple[int, int]) -> str:
    values, mask = np.zeros((80, 100), np.float32), np.zeros((80, 100), bool)
    values[peak_at] = 1
    mask[object_at[0] :, object_at[1] : object_at[1] + 20] = True
    return Target(mask).pointing_game(values)


def test_pointing_game_reaches_fifteen_pixels():
    assert pointing((50, 40), (40, 45)) == "hit"
    assert pointing((50, 40), (40, 55)) == "hit"  # 15 pixels away
    assert pointing((50, 40), (40, 56)) == "miss"
    assert pointing((38, 31), (50, 40)) == "hit"  # 12 down and 9 across make 15
    assert pointing((37, 31), (50, 40)) == "miss"
    assert pointing((0, 0), (0, 0)) == "hit"  # in a corner


def test_pointing_game_without_a_maximum_or_with_several():
    mask = np.zeros((80, 100), bool)
    mask[:, 60:] = True
    found = Target(mask)
    assert found.pointing_game(uniform_map(100, 80)) == "miss"
    nearly_flat = np.ones((80, 100), np.float32)
    nearly_flat[0, 3] -= np.float32(5e-7)
    assert found.pointing_game(nearly_flat) == "miss"
    values = np.zeros((80, 100), np.float32)
    values[3, 90] = values[4, 2] = 1  # the first in row order counts
    assert peak(values) == (3, 90)
    assert found.pointing_game(values) == "hit"
    mask[:] = False
    mask[0, :50] = True
    assert Target(mask).pointing_game(values) == "skipped"


def test_pictures_with_too_little_or_too_much_are_skipped():
    mask = np.zeros((10, 100), bool)
    assert skip_reason(mask) == "small"
    mask[0, :9] = True
    assert skip_reason(mask) == "small"
    mask[0, :10] = True
    assert skip_reason(mask) is None  # 1 %
    mask[:8] = True
    assert skip_reason(mask) is None  # 80 %
    mask[8, 0] = True
    assert skip_reason(mask) == "large"


def test_masks_and_maps_that_cannot_be_scored():
    with pytest.raises(ValueError, match="cover some of the picture"):
        Target(np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 3\)"):
        TOY.score(np.ones((2, 2), np.float32))


def test_a_uniform_map_scores_chance():
    scores = TOY.score(uniform_map(3, 2))
    assert scores.energy == pytest.approx(1 / 3)
    assert scores.energy_lift == pytest.approx(1)
    assert scores.rank_accuracy == pytest.approx(1 / 3)
    assert scores.auc == 0.5
    assert scores.pointing_game == 0


def test_baseline_maps():
    centre = centre_map(100, 60)
    assert centre.shape == (60, 100)
    assert (centre.min(), centre.max()) == (0, 1)
    assert peak(centre) == (29, 49)  # of the four in the middle, the first
    np.testing.assert_allclose(centre, centre[::-1, ::-1], atol=1e-6)
    # One standard deviation, a quarter of a side, from the middle: exp(-1/2) before scaling.
    low = np.exp(-2 * (99 / 100) ** 2 - 2 * (59 / 60) ** 2)
    top = np.exp(-(0.5**2) / 2 * (1 / 25**2 + 1 / 15**2))
    at = np.exp(-((24.5 / 25) ** 2) / 2 - (0.5 / 15) ** 2 / 2)
    assert centre[29, 25] == pytest.approx((at - low) / (top - low), abs=1e-5)
    assert random_heatmap((14, 19), 5).values.shape == (14, 19)
    np.testing.assert_array_equal(
        random_heatmap((14, 19), 5).values, random_heatmap((14, 19), 5).values
    )
    assert (random_heatmap((14, 19), 5).values != random_heatmap((14, 19), 6).values).any()


def test_intervals_cover_the_mean_at_the_rate_they_say():
    rng = np.random.default_rng(3)
    estimates = [Estimate.of(rng.normal(2, 1, 60), resamples=400) for _ in range(200)]
    assert 0.88 <= np.mean([e.low <= 2 <= e.high for e in estimates]) <= 0.99


def test_columns_are_resampled_together():
    values = np.random.default_rng(4).normal(size=(50, 2))
    one, other = Estimate.of_columns(values, resamples=300)
    assert one.low < values[:, 0].mean() < one.high
    assert other.mean == pytest.approx(values[:, 1].mean())
    [alone] = Estimate.of_columns(values[:, 1:], resamples=300)
    assert (alone.low, alone.high) == pytest.approx((other.low, other.high))
    # Of a sum of columns, each resample gives the sum.
    [doubled] = Estimate.of_columns(2 * values[:, :1], resamples=300)
    assert (doubled.low, doubled.high) == pytest.approx((2 * one.low, 2 * one.high))


class Brightness:
    """A model whose probability of class 1 is the share of the input that is lit."""

    def __call__(self, pixels):
        share = pixels.mean(dim=(1, 2, 3)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([(1 - share).log(), share.log()], dim=1)


def test_insertion_and_deletion_of_a_model_that_is_known():
    pixels = torch.zeros(1, 3, 64, 96)
    pixels[..., :80] = 1  # lit but for the last column of tokens
    ranking = np.arange(24).reshape(4, 6)[::-1, ::-1].copy()  # row order, first token first
    found = curves(Brightness(), pixels, ranking)
    insertion, deletion = found["insertion_zero"], found["deletion_zero"]
    assert insertion.shares[0] == 0
    assert insertion.shares[-1] == 1
    assert max(np.diff(insertion.shares)) <= 1 / 14
    lit = np.cumsum([0] + [(i % 6) != 5 for i in range(24)]) / 24
    counts = np.rint(np.array(insertion.shares) * 24).astype(int)
    np.testing.assert_allclose(insertion.probabilities, lit[counts], atol=1e-5)
    np.testing.assert_allclose(deletion.probabilities, lit[-1] - lit[counts], atol=1e-5)
    assert insertion.auc == pytest.approx(np.trapezoid(lit[counts], counts / 24), abs=1e-5)
    assert set(found) == {
        "insertion_zero", "insertion_blurred", "deletion_zero", "deletion_blurred"
    }  # fmt: skip
    coarse = curves(Brightness(), pixels, np.arange(15).reshape(3, 5))  # divides neither side
    assert coarse["insertion_zero"].probabilities[-1] == pytest.approx(lit[-1], abs=1e-5)


def test_insertion_at_most_a_fourteenth_a_step(model, photo):
    pixels = preprocess(photo, 96)
    shares = curves(model, pixels, random_ranking((6, 9), 3))["insertion_blurred"].shares
    assert max(np.diff(shares)) <= 1 / 14 + 1e-9
    whole = model(pixels).softmax(-1).max().item()
    found = curves(model, pixels, random_ranking((6, 9), 3))
    assert found["insertion_blurred"].probabilities[-1] == pytest.approx(whole, abs=1e-4)
    assert found["deletion_blurred"].probabilities[0] == pytest.approx(whole, abs=1e-4)
