"""Scaling, resizing, colouring."""

import cv2
import matplotlib
import numpy as np
import pytest
from PIL import Image

from sima_core.defaults import OPACITY
from sima_core.lens.heatmaps import (
    COLORMAPS,
    DIVERGING,
    colorize,
    heatmap,
    overlay,
    signed_heatmap,
)


def test_scaled_to_0_and_1():
    h = heatmap([[2.0, 3.0], [4.0, 6.0]])
    np.testing.assert_allclose(h.values, [[0, 0.25], [0.5, 1]])
    assert (h.minimum, h.maximum, h.flat) == (2.0, 6.0, False)


@pytest.mark.parametrize("norms", [np.full((2, 3), 0.7), np.zeros((2, 3)), [[1, 1 + 5e-7]]])
def test_flat_maps_are_said_to_be_flat(norms):
    h = heatmap(norms)
    assert h.flat
    assert (h.values == 1).all()


def test_barely_not_flat():
    assert not heatmap([[1, 1 + 5e-6]]).flat


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("scaled", [heatmap, signed_heatmap])
def test_values_that_are_no_numbers(bad, scaled):
    with pytest.raises(ValueError, match="not numbers"):
        scaled([[1.0, bad]])


@pytest.mark.parametrize("scale", [1, 1e-30, 1e38])
def test_signed_maps_have_zero_in_the_middle_and_ends_equally_far_from_it(scale):
    h = signed_heatmap(scale * np.array([[-1.0, 0.0], [0.5, 2.0]]))
    np.testing.assert_allclose(h.values, [[0.25, 0.5], [0.625, 1]], rtol=1e-6)
    assert h.values.dtype == np.float32
    assert (h.minimum, h.maximum) == pytest.approx((-2 * scale, 2 * scale))
    assert not h.flat
    mirrored = signed_heatmap(-scale * np.array([[-1.0, 0.0], [0.5, 2.0]]))
    np.testing.assert_allclose(mirrored.values, 1 - h.values, rtol=1e-6)


def test_a_signed_map_of_zeros_is_flat_and_white():
    h = signed_heatmap(np.zeros((2, 3)))
    assert h.flat
    assert (h.values == 0.5).all()
    assert (str(h.minimum), h.maximum) == ("0.0", 0)  # no minus before it
    assert not signed_heatmap([[-1.0, -1.0]]).flat  # all speak against: that is something


def test_red_is_above_zero_and_blue_below():
    below, zero, above = colorize(signed_heatmap([[-1.0, 0.0, 1.0]]).values, DIVERGING)[0].astype(
        int
    )
    assert above[0] > above[2] + 50
    assert below[2] > below[0] + 50
    assert zero.min() > 240
    expected = matplotlib.colormaps["RdBu_r"]([0, 255], bytes=True)[:, :3]
    np.testing.assert_array_equal([below, above], expected)


def test_signed_overlay(photo):
    h = signed_heatmap(np.arange(-6, 6).reshape(3, 4))
    alone = overlay(photo, h, DIVERGING, opacity=1)
    np.testing.assert_array_equal(np.asarray(alone), colorize(h.resize(photo.size), DIVERGING))


def test_bilinear_with_half_pixel_centres():
    resized = heatmap([[0.0, 1.0]]).resize((4, 1))
    np.testing.assert_allclose(resized, [[0, 0.25, 0.75, 1]])
    assert heatmap([[0.0, 1.0]]).resize((7, 5)).shape == (5, 7)


@pytest.mark.parametrize("name", COLORMAPS)
def test_colours_are_those_of_matplotlib(name):
    values = np.array([[0, 0.5, 1]], np.float32)
    expected = matplotlib.colormaps[name]([0, 128, 255], bytes=True)[:, :3]
    np.testing.assert_array_equal(colorize(values, name)[0], expected)


def test_overlay(photo):
    h = heatmap(np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(np.asarray(overlay(photo, h, opacity=0)), np.asarray(photo))
    alone = overlay(photo, h, "viridis", opacity=1)
    assert alone.size == photo.size
    np.testing.assert_array_equal(np.asarray(alone), colorize(h.resize(photo.size), "viridis"))
    half = np.asarray(overlay(photo, h, "viridis", 0.5), float)
    np.testing.assert_allclose(
        half, (np.asarray(photo, float) + np.asarray(alone, float)) / 2, atol=0.5
    )


@pytest.mark.parametrize("size", [(1, 1), (37, 63), (101, 64), (53, 517)])
@pytest.mark.parametrize("opacity", [0.3, 0.6])
def test_an_overlay_is_the_same_whether_blended_at_once_or_in_bands(size, opacity):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    h = heatmap(rng.random((5, 7)))
    at_once = cv2.addWeighted(pixels, 1 - opacity, colorize(h.resize(size)), opacity, 0)
    in_bands = overlay(Image.fromarray(pixels), h, opacity=opacity)
    np.testing.assert_array_equal(np.asarray(in_bands), at_once)


def test_the_first_colours_on_offer_are_taken_where_none_are_named(photo):
    h = heatmap(np.arange(12).reshape(3, 4))
    named = overlay(photo, h, "inferno", OPACITY)
    np.testing.assert_array_equal(np.asarray(overlay(photo, h)), np.asarray(named))
    np.testing.assert_array_equal(colorize(h.values), colorize(h.values, "inferno"))


def test_bad_options_are_explained():
    h, picture = heatmap([[0.0, 1.0]]), Image.new("RGB", (4, 4))
    with pytest.raises(ValueError, match="opacity"):
        overlay(picture, h, opacity=1.5)
    with pytest.raises(ValueError, match="colormap"):
        overlay(picture, h, colormap="nope")
    for scaled in (heatmap, signed_heatmap):
        with pytest.raises(ValueError, match="rows"):
            scaled([1.0, 2.0])


def test_by_default_both_the_picture_and_the_heat_are_seen():
    white, cold = Image.new("RGB", (4, 4), "white"), heatmap([[1.0, 2.0]])
    alone = np.asarray(overlay(white, cold, opacity=1.0)).astype(int)
    both = np.asarray(overlay(white, cold)).astype(int)
    darkest = alone.min(axis=-1) < 100
    assert darkest.any()
    assert (alone.min(axis=-1) < both.min(axis=-1))[darkest].all()
    assert (both.min(axis=-1) < 250)[darkest].all()
