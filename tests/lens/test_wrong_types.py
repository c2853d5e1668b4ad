"""What is no layer, no picture and no number is refused in our words, not in a stranger's."""

import numpy as np
import pytest
import torch

from sima_core import Lens
from sima_core.errors import InputError
from sima_core.lens.heatmaps import heatmap, overlay


@pytest.mark.parametrize(
    "layer", ["12", "\x1b" * 1000, 1.5, None, [1.5], ["1"], {}, [[1]], 0, 10**400, [None], []]
)
def test_what_is_no_layer(model, layer):
    with pytest.raises(InputError) as caught:
        Lens(model).norms(torch.zeros(1, 3, 32, 32), layer)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("head", ["1", 1.5, [], 0, -1, 10**400])
def test_what_is_no_head(model, photo, head):
    with pytest.raises(InputError, match="head"):
        Lens(model).analyze(photo, 32).token_norms("query", 12, head)


@pytest.mark.parametrize(
    "pixels",
    [None, "a.png", np.zeros((1, 3, 32, 32)), torch.zeros(3, 32, 32),
     torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 3, 31, 32)],
)  # fmt: skip
def test_what_is_no_picture_for_a_model(model, photo, pixels):
    lens = Lens(model)
    with pytest.raises(InputError, match=r"Lens\.preprocess|multiples of the patch"):
        lens.norms(pixels)
    with pytest.raises(InputError, match=r"Lens\.preprocess"):
        lens.norms(photo)


@pytest.mark.parametrize("norms", ["", "ab", [["a"]], [[1], [2, 3]], None, object(), [1.0], [[]]])
def test_what_is_no_map(norms):
    with pytest.raises(InputError):
        heatmap(norms)


def test_what_cannot_be_laid_over_a_picture(photo):
    scaled = heatmap([[0.0, 1.0]])
    for image, values in ((None, scaled), ("a.png", scaled), (photo, [[0.0, 1.0]]), (photo, None)):
        with pytest.raises(InputError, match="an overlay needs"):
            overlay(image, values)
    for opacity in ("1", None, float("nan"), float("inf"), -0.1, 10**5000):
        with pytest.raises(InputError, match="opacity must be from 0 to 1"):
            overlay(photo, scaled, opacity=opacity)
