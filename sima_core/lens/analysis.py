"""What a model made of one picture: every layer's token norms and the predictions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sima_core.defaults import LAYER
from sima_core.errors import InputError
from sima_core.lens.heatmaps import Heatmap, heatmap
from sima_core.lens.layers import Grid, Layer, Side, require_head
from sima_core.lens.norms import TokenNorms
from sima_core.weights.provenance import Provenance, weights_in_words

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
    """What a model made of one picture; `Lens.analyze` gives it."""

    image: Image.Image
    resolution: int
    #: Layer number (from 1) to per-head norms (1, heads, rows, cols).
    norms: Mapping[int, TokenNorms]
    #: The most probable classes, best first.
    predictions: tuple[Prediction, ...]
    #: Facts on the same layers.
    layers: Mapping[int, Layer]
    #: The architecture's name.
    name: str
    #: The label set in words.
    label_set: str
    #: None for a model that `load_model` did not make.
    provenance: Provenance | None

    @property
    def grid(self) -> Grid:
        """(rows, cols) of the queries' patch tokens in the last layer captured; see `grid_of`."""
        return self.grid_of("query", max(self.norms))

    @property
    def unsure(self) -> bool:
        """Whether even the best prediction is improbable."""
        return self.predictions[0].probability < UNSURE_BELOW

    @property
    def trained(self) -> bool | None:
        """Whether the weights were trained; None where nobody knows."""
        return self.provenance.trained if self.provenance else None

    @property
    def weights_in_words(self) -> str:
        """The weights' source, or that they are untrained, or that nobody knows."""
        return weights_in_words(self.provenance)

    def symbol(self, side: Side, layer: int | None = None) -> str:
        """``Q̂`` or ``K̂``; without the hat where the layer (the last) does not normalise."""
        return self.layers[max(self.layers) if layer is None else layer].symbol(side)

    def grid_of(self, side: Side, layer: int = LAYER) -> Grid:
        """(rows, cols) of the tokens: in CvT it differs by layer, and keys have fewer than queries.

        Raises:
            InputError: a layer that was not captured.
        """
        rows, cols = getattr(self._norms_of(layer), side).shape[-2:]
        return rows, cols

    def token_norms(
        self, side: Side, layer: int = LAYER, head: int | None = None
    ) -> NDArray[np.float32]:
        """Norms of the queries or keys (Q̂ and K̂ in SimA), unscaled, float32 (rows, cols).

        Args:
            head: counted from 1; None takes the norm over all heads.

        Raises:
            InputError: a layer or head that was not captured.
        """
        norms = self._norms_of(layer)
        require_head(head, norms.query.shape[1])
        if head is None:
            norms = norms.over_heads()
        else:
            norms = TokenNorms(norms.query[:, head - 1], norms.key[:, head - 1])
        return np.asarray(getattr(norms, side)[0].cpu().numpy())

    def _norms_of(self, layer: int) -> TokenNorms:
        if layer not in self.norms:
            captured = ", ".join(map(str, self.norms))
            raise InputError(f"layer {layer} was not captured: there are {captured}")
        return self.norms[layer]

    def heatmap(self, side: Side, layer: int = LAYER, head: int | None = None) -> Heatmap:
        """The norms of `token_norms`, scaled.

        Raises:
            InputError: as `token_norms` and `heatmaps.heatmap` do.
        """
        return heatmap(self.token_norms(side, layer, head))
