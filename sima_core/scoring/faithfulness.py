"""Whether the model relies on the tokens that a map ranks highest: insertion and deletion.

Source: Petsiuk et al. 2018, "RISE: randomized input sampling for explanation", section 4.2, with
whole tokens for pixels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sima_core.time_limit import check_time

#: At least so many steps from nothing to everything.
STEPS = 14
#: What stands where the picture is taken away: the picture blurred as in RISE (a Gaussian of
#: σ = 5 px, 11 × 11), or zero, which is the training images' mean colour.
Background = Literal["blurred", "zero"]
BACKGROUNDS: tuple[Background, ...] = get_args(Background)

_BATCH = 8


@dataclass(frozen=True)
class Curve:
    """The probability of the model's top class while tokens come (insertion) or go (deletion)."""

    #: Share of the tokens that have come or gone, from 0 to 1.
    shares: tuple[float, ...]
    probabilities: tuple[float, ...]

    @property
    def auc(self) -> float:
        """Area under the curve by the trapezoidal rule, from 0 to 1."""
        return float(np.trapezoid(self.probabilities, self.shares))


def curves(model: nn.Module, pixels: Tensor, ranking: ArrayLike) -> Mapping[str, Curve]:
    """Insertion and deletion against both backgrounds, the tokens ranked highest first.

    The class followed is the model's top class on the whole picture. Every step changes at most
    1/14 of the tokens; tokens that tie go in row order.

    Args:
        pixels: the network's input, (1, 3, height, width).
        ranking: (rows, cols), a map on the token grid, larger first.

    Returns:
        Curves named ``insertion_blurred``, ``insertion_zero``, ``deletion_blurred`` and
        ``deletion_zero``.

    Raises:
        OutOfTimeError: where there is a `time_limit`.

    Each pixel belongs to the nearest token of the grid, which need not divide the input: CvT's keys
    have a coarser one than its patches.
    """
    ranks = np.asarray(ranking)
    height, width = pixels.shape[-2:]
    rows, cols = ranks.shape
    # The place of each token in the order, spread over its pixels.
    places = np.empty(ranks.size, dtype=np.int64)
    places[np.argsort(-ranks, axis=None, kind="stable")] = np.arange(ranks.size)
    grid = torch.from_numpy(places.reshape(rows, cols))
    row, col = (torch.arange(n) * count // n for n, count in ((height, rows), (width, cols)))
    spread = grid[row][:, col]
    counts = [*range(0, ranks.size, max(1, ranks.size // STEPS)), ranks.size]
    chosen = [spread < count for count in counts]
    shares = tuple(count / ranks.size for count in counts)
    with torch.inference_mode():
        top = int(model(pixels).argmax())
    found = {}
    for kind in BACKGROUNDS:
        background = _blurred(pixels) if kind == "blurred" else torch.zeros_like(pixels)
        for name, inside, outside in (
            ("insertion", pixels, background),
            ("deletion", background, pixels),
        ):
            inputs = [torch.where(tokens, inside, outside) for tokens in chosen]
            probabilities = tuple(_probabilities(model, inputs, top))
            found[f"{name}_{kind}"] = Curve(shares, probabilities)
    return found


def random_ranking(grid: tuple[int, int], image_id: int) -> NDArray[np.float64]:
    """The order to compare with: tokens at random, the same for one image."""
    return np.random.default_rng([image_id, 1]).random(grid)


def _blurred(pixels: Tensor) -> Tensor:
    image = pixels[0].permute(1, 2, 0).contiguous().numpy()
    blurred = cv2.GaussianBlur(image, (11, 11), 5)
    return torch.from_numpy(blurred).permute(2, 0, 1)[None]


def _probabilities(model: nn.Module, inputs: list[Tensor], index: int) -> Iterator[float]:
    for start in range(0, len(inputs), _BATCH):
        check_time()
        with torch.inference_mode():
            logits = model(torch.cat(inputs[start : start + _BATCH]))
        yield from logits.softmax(dim=-1)[:, index].tolist()
