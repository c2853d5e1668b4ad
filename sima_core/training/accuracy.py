"""How often a model names held-out pictures rightly."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

from sima_core.defaults import RESOLUTION
from sima_core.errors import InputError
from sima_core.training.data import PictureSet

_BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 over a set of pictures, as shares from 0 to 1."""

    num_images: int
    top1: float
    top5: float
    #: Top-1 by source.
    by_source: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shares = {source: round(share, 4) for source, share in self.by_source.items()}
        return {
            "images": self.num_images,
            "top1": round(self.top1, 4),
            "top5": round(self.top5, 4),
            "top1_by_source": shares,
        }

    def __str__(self) -> str:
        parts = ", ".join(f"{source} {share:.1%}" for source, share in self.by_source.items())
        return f"{self.top1:.1%} top-1, {self.top5:.1%} top-5 of {self.num_images:,} ({parts})"


def held_out_accuracy(
    model: nn.Module, pictures: PictureSet, resolution: int = RESOLUTION
) -> Accuracy:
    """Top-1 and top-5 of `model` (left in eval mode) on the pictures' centre crops.

    The shorter side is resized bicubically to `resolution` pixels, and the middle square taken. A
    class counts as ranked only before those with smaller logits.

    Raises:
        InputError: there are no pictures.
    """
    if not len(pictures):
        raise InputError("there are no held-out pictures to measure the accuracy on")
    device = next(model.parameters()).device
    model.eval()
    ranks = []
    with torch.inference_mode():
        for start, pixels in _batches(pictures, resolution):
            labels = torch.from_numpy(pictures.labels[start : start + len(pixels)]).to(device)
            logits = model(pixels.to(device)).float()
            own = logits.gather(1, labels[:, None])
            # A tie or a NaN counts against the model, or one that says nothing would be right.
            ranks.append((~(logits < own)).sum(dim=1).cpu() - 1)
    rank = torch.cat(ranks).numpy()
    sources = np.array(pictures.sources)
    by_source = {str(s): float((rank[sources == s] == 0).mean()) for s in np.unique(sources)}
    return Accuracy(len(rank), float((rank == 0).mean()), float((rank < 5).mean()), by_source)


def _batches(pictures: PictureSet, resolution: int) -> Iterator[tuple[int, Tensor]]:
    transform = create_transform(
        resolution, is_training=False, interpolation="bicubic", crop_pct=1.0
    )
    for start in range(0, len(pictures), _BATCH):
        indices: Sequence[int] = range(start, min(start + _BATCH, len(pictures)))
        images: list[Image.Image] = [pictures.image(i) for i in indices]
        yield start, torch.stack([transform(image) for image in images])
