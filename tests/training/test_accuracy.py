"""How often a model is right."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sima_core.training.accuracy import held_out_accuracy
from sima_core.training.data import PictureSet


def test_accuracy_counts_ranks_by_source() -> None:
    class Reddest(nn.Module):
        """Ranks red, green, blue by the mean of the channels; three more classes come after."""

        def __init__(self, scale: float = 1.0) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            low = torch.tensor([-97.0, -98.0, -99.0]).expand(len(x), 3)
            return self.scale * torch.cat([x.mean((2, 3)), low], 1)

    def plain(colour: tuple[int, int, int]) -> np.ndarray:
        return np.asarray(Image.new("RGB", (20, 10), colour))

    red, green = (250, 90, 0), (0, 250, 10)
    pictures = PictureSet(
        [plain(red), plain(red), plain(green)], np.array([0, 1, 4]), ("a", "a", "b")
    )
    found = held_out_accuracy(Reddest(), pictures, 32)
    assert found.top1 == pytest.approx(1 / 3)
    assert found.by_source == {"a": 0.5, "b": 0.0}
    assert found.top5 == 1.0
    for scale in (0.0, float("nan")):  # a model that says nothing is right about nothing
        found = held_out_accuracy(Reddest(scale), pictures, 32)
        assert (found.top1, found.top5) == (0.0, 0.0)
