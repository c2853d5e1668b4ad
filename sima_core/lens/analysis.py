"""One picture through one model: every layer's token norms and the predictions, in one pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from sima_core.lens.heatmaps import NOT_FINITE, Heatmap, heatmap
from sima_core.lens.norms import Grid, Layers, NormRecorder, TokenNorms, patch_size
from sima_core.lens.pictures import preprocess
from sima_core.models.architectures import ARCHITECTURES
from sima_core.weights.provenance import Provenance, provenance

Side = Literal["query", "key"]
SIDES: tuple[Side, ...] = ("query", "key")
#: Below this probability the first prediction is shown as "unsure".
UNSURE_BELOW = 0.5


@dataclass(frozen=True)
class Prediction:
    """One class, its name, and its softmax probability from 0 to 1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class Analysis:
    """What a model made of one picture."""

    image: Image.Image
    resolution: int
    #: (rows, cols) of the queries' patch tokens in the last layer captured; see `grid_of`.
    grid: Grid
    #: Layer number (from 1) to per-head norms (1, heads, rows, cols).
    norms: Mapping[int, TokenNorms]
    #: The most probable classes, best first.
    predictions: tuple[Prediction, ...]
    provenance: Provenance

    @property
    def unsure(self) -> bool:
        """Whether even the best prediction is improbable."""
        return self.predictions[0].probability < UNSURE_BELOW

    def symbol(self, side: Side) -> str:
        """``Q̂`` or ``K̂``; without the hat where the attention is not SimA."""
        hat = "\N{COMBINING CIRCUMFLEX ACCENT}"
        sima = ARCHITECTURES[self.provenance.architecture].attention == "SimA"
        return ("Q" if side == "query" else "K") + (hat if sima else "")

    def grid_of(self, side: Side, layer: int = 12) -> Grid:
        """(rows, cols) of the tokens: in CvT it differs by layer, and keys have fewer than queries.

        Raises:
            ValueError: a layer that was not captured.
        """
        rows, cols = self.token_norms(side, layer).shape
        return rows, cols

    def token_norms(
        self, side: Side, layer: int = 12, head: int | None = None
    ) -> NDArray[np.float32]:
        """Norms of the queries or keys (Q̂ and K̂ in SimA), unscaled, float32 (rows, cols).

        Args:
            head: counted from 1; None takes the norm over all heads.

        Raises:
            ValueError: a layer or head that was not captured.
        """
        if layer not in self.norms:
            captured = ", ".join(map(str, self.norms))
            raise ValueError(f"layer {layer} was not captured: there are {captured}")
        norms = self.norms[layer]
        num_heads = norms.query.shape[1]
        if head is None:
            norms = norms.over_heads()
        elif 1 <= head <= num_heads:
            norms = TokenNorms(norms.query[:, head - 1], norms.key[:, head - 1])
        else:
            raise ValueError(f"there is no head {head}: heads run from 1 to {num_heads}")
        return np.asarray(getattr(norms, side)[0].numpy())

    def heatmap(self, side: Side, layer: int = 12, head: int | None = None) -> Heatmap:
        """The norms of `token_norms`, scaled.

        Raises:
            ValueError: as `token_norms` and `heatmaps.heatmap` do.
        """
        return heatmap(self.token_norms(side, layer, head))


def analyze(
    model: nn.Module,
    image: Image.Image,
    resolution: int = 224,
    layers: Layers = "all",
    num_predictions: int = 5,
) -> Analysis:
    """Run `image` (RGB, from `load_image`) through a model from `load_model`, once.

    Args:
        resolution: the input's shorter side in pixels.
        layers: as in `token_norms`.

    Raises:
        ImageError: the picture is too elongated for the resolution.
        ValueError: a model without attention layers that are known, a layer that does not exist, a
            resolution below one patch, or results that are not finite.
    """
    pixels = preprocess(image, resolution, patch_size(model))
    with NormRecorder(model, layers) as recorder, torch.no_grad():
        probabilities = model(pixels).softmax(dim=-1)[0]
    if not probabilities.isfinite().all():
        raise ValueError(NOT_FINITE)
    origin = provenance(model)
    norms = recorder.norms(per_head=True)
    rows, cols = norms[max(norms)].query.shape[-2:]
    best = probabilities.topk(min(num_predictions, len(probabilities)))
    predictions = tuple(
        Prediction(index, origin.labels[index], probability)
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )
    return Analysis(image, resolution, (rows, cols), norms, predictions, origin)
