"""The lens: a model, and what there is to see through it."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Self, overload

from PIL import Image
from torch import Tensor, nn

from sima_core.defaults import LAYER, RESOLUTION
from sima_core.errors import InputError
from sima_core.lens.analysis import Analysis, Prediction
from sima_core.lens.class_flow import class_layer, why
from sima_core.lens.class_maps import ClassMap, attention_maps
from sima_core.lens.flow import Flow, Parts
from sima_core.lens.flowing import flows
from sima_core.lens.heatmaps import NOT_FINITE
from sima_core.lens.knockout import KnockOut, knock_out
from sima_core.lens.layers import (
    Layer,
    Layers,
    find_layers,
    layer_numbers,
    looking,
    patch_size,
    require_pixels,
)
from sima_core.lens.maps import Maps, Names, map_names, maps
from sima_core.lens.norms import NormRecorder, TokenNorms
from sima_core.lens.pictures import InputConfig, input_size, preprocess
from sima_core.models.architectures import num_parameters
from sima_core.models.conversion import convert_to_sima
from sima_core.models.random_weights import untrained_copy
from sima_core.weights.loading import DEFAULT_CHECKPOINT, load_model
from sima_core.weights.provenance import Provenance, class_names, weights_in_words


class Lens:
    """A model with attention that is known, and everything that is asked of it, asked once.

    Any model will do: ours, timm's, converted, trained or not, from `load_model` or not.

    Raises:
        InputError: the model has no attention layers, or no patches, that are known.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._layers = find_layers(model)
        #: The side of the patches in pixels; a picture's sides are multiples of it.
        self.patch_size = patch_size(model)
        #: What the model was trained to see: its own mean, standard deviation and interpolation.
        self.input = InputConfig.of(model)

    @classmethod
    def load(cls, source: str | Path = DEFAULT_CHECKPOINT, architecture: str | None = None) -> Self:
        """The lens over what `load_model` gives for these.

        Raises:
            CheckpointError: as `load_model`.
        """
        return cls(load_model(source, architecture))

    @classmethod
    def of(cls, model: "nn.Module | Lens") -> "Lens":
        """A lens over the model, or the lens that it is already."""
        return model if isinstance(model, Lens) else cls(model)

    def __repr__(self) -> str:
        return f"Lens({self.name}, {self.depth} layers, {self.weights_in_words})"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The attention layers over patch tokens in order; layer n is ``layers[n - 1]``.

        Found anew where a conversion has put other attention into the model.
        """
        if not all(layer.is_in(self.model) for layer in self._layers):
            self._layers = find_layers(self.model)
        return self._layers

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    @property
    def has_two_orders(self) -> bool:
        """Whether attention is a plain product in every layer, to be taken in either order."""
        return all(layer.has_two_orders for layer in self.layers)

    @property
    def provenance(self) -> Provenance | None:
        """Where the weights come from; None for a model that `load_model` did not make."""
        found = getattr(self.model, "provenance", None)
        return found if isinstance(found, Provenance) else None

    @property
    def name(self) -> str:
        """The architecture's name; the class's where that is not known."""
        if self.provenance:
            return self.provenance.architecture
        config = getattr(self.model, "pretrained_cfg", None) or {}
        return str(config.get("architecture") or type(self.model).__name__)

    @property
    def weights_in_words(self) -> str:
        """The weights' source, or that they are untrained, or that nobody knows."""
        return weights_in_words(self.provenance)

    @cached_property
    def num_parameters(self) -> int:
        """How many numbers the model learns."""
        return num_parameters(self.model)

    def layer(self, number: int) -> Layer:
        """One layer, counted from 1; negative from the end.

        Raises:
            InputError: it does not exist; the message names the range.
        """
        [found] = self.layer_numbers(number)
        return self.layers[found - 1]

    def layer_numbers(self, layers: Layers) -> list[int]:
        """Resolve `layers` to numbers from 1.

        Raises:
            InputError: as `layer`.
        """
        return layer_numbers(layers, self.depth)

    def input_size(self, width: int, height: int, resolution: int = RESOLUTION) -> tuple[int, int]:
        """The network's input (width, height) in pixels for a picture of `width` × `height`.

        Raises:
            ImageError, InputError: as `pictures.input_size`.
        """
        return input_size(width, height, resolution, self.patch_size)

    def preprocess(self, image: Image.Image, resolution: int = RESOLUTION) -> Tensor:
        """The whole picture (RGB) as the model takes it: (1, 3, height, width).

        It has the type and device of the model's weights.

        Raises:
            ImageError, InputError: as `pictures.input_size`.
        """
        pixels = preprocess(image, resolution, self.patch_size, self.input)
        weights = next(self.model.parameters())
        return pixels.to(weights.device, weights.dtype)

    @overload
    def norms(self, pixels: Tensor, layer: int = LAYER, per_head: bool = False) -> TokenNorms: ...
    @overload
    def norms(
        self, pixels: Tensor, layer: Sequence[int] | Literal["all"], per_head: bool = False
    ) -> dict[int, TokenNorms]: ...
    def norms(
        self, pixels: Tensor, layer: Layers = LAYER, per_head: bool = False
    ) -> TokenNorms | dict[int, TokenNorms]:
        """The ℓ2-norm of every patch token among the queries and among the keys, in one pass.

        SimA layers give the norms in Q̂ and K̂: each channel divided by its ℓ1-norm over the tokens,
        class, distillation and register tokens included. Softmax layers and XCA give them in Q and
        K, as the paper does for DeiT: what the projections give, bias included. Where a softmax
        layer has q_norm and k_norm, they come first, since its product sees nothing else; the scale
        1/√d does not. Nor do XCA's ℓ2-norms, which rescale whole channels and not tokens, and its
        temperature.

        Class, distillation and register tokens are left out, and so are class-attention layers.
        CvT's layers count through its stages.

        Args:
            pixels: (batch, 3, rows·patch, cols·patch), normalised; `preprocess` makes it.
            layer: an int counted from 1 (negative: from the end), a sequence of them, or ``"all"``.
            per_head: one map a head instead of one over all heads.

        Returns:
            One `TokenNorms` for an int; otherwise a dict from layer number (1 and up) to one.

        Raises:
            InputError: a layer that does not exist, what is no tensor of pictures, or sides that
                are not multiples of the patch.

        Source: arXiv 2206.08898, section 3.3 and figure 2 (layer 12).
        """
        require_pixels(pixels)
        with NormRecorder(self.model, layer, self.layers) as recorder, looking(self.model):
            self.model(pixels)
        norms = recorder.norms(per_head)
        several = isinstance(layer, Sequence)  # "all" is one
        return norms if several else next(iter(norms.values()))

    def attention(self, pixels: Tensor, kind: ClassMap = "cls", head: int | None = None) -> Tensor:
        """How the class token attends to the patches: (batch, rows, cols); see `attention_maps`.

        Raises:
            InputError: as `attention_maps`.
        """
        return attention_maps(self.model, pixels, kind, head)

    def flow(self, pixels: Tensor, layer: int = LAYER) -> Flow:
        """What one layer's attention does with every token, exactly; see `Flow`.

        Args:
            pixels: one picture, (1, 3, height, width), normalised; `preprocess` makes it.
            layer: counted from 1; negative from the end.

        Raises:
            InputError: a layer that does not exist, what is not one picture, or attention whose
                output is no sum of one part a token, as XCA's is not.
        """
        return flows(self.model, pixels, [self.layer(layer)])[0]

    def class_flow(self, pixels: Tensor, layer: int | None = None) -> Flow:
        """What a layer gives the class token: ``received("class")`` of the flow holds its parts.

        Args:
            layer: one of class attention, where the model has them, else one of `layers` in which
                the class token takes part; negative from the end. None takes the first of class
                attention, else the last.

        Raises:
            InputError: as `flow`, or a model without class token in its attention.
        """
        return flows(self.model, pixels, [class_layer(self.model, layer)])[0]

    def why(
        self, pixels: Tensor, label: int, over: int | None = None, layer: int | None = None
    ) -> Parts:
        """What the class token receives, and how far each part speaks for one label (`along`).

        By how much each part raises the label's logit, or the logit's lead over another's, to the
        first order: the logit's gradient by the layer's output times the part. Exact where nothing
        but linear layers follow.

        Args:
            label: the class's index, and `over` the other's.
            layer: as in `class_flow`.

        Raises:
            InputError: as `class_flow`, or a class that does not exist.
        """
        return why(self.model, pixels, label, over, class_layer(self.model, layer))

    def without(
        self, pixels: Tensor, tokens: Sequence[tuple[int, int]], layer: Layers = "all"
    ) -> KnockOut:
        """What the model says when some tokens take no part in attention: predicted and real.

        Both leave the tokens out of every attention of the layers, so that they neither speak nor
        listen; what mixes neighbours outside of attention (convolutions) is left as it is. For the
        real answer the norms and sums are taken over the tokens that are left; the prediction
        keeps them as they are with all tokens, so that it only takes each token's parts away.

        Args:
            pixels: one picture, (1, 3, height, width), normalised; `preprocess` makes it.
            tokens: (row, column) of patches, counted from 1.
            layer: as in `norms`; ``"all"`` takes the layers of class attention too.

        Raises:
            InputError: a layer or token that does not exist, no token named, none left, or what is
                not one picture.
        """
        layers = [self.layers[number - 1] for number in self.layer_numbers(layer)]
        if layer == "all":
            layers += find_layers(self.model, over_patches=False, required=False)
        return knock_out(self.model, pixels, tokens, layers)

    @overload
    def maps(self, pixels: Tensor, layer: int = LAYER, names: Names = None) -> Maps: ...
    @overload
    def maps(
        self, pixels: Tensor, layer: Sequence[int] | Literal["all"], names: Names = None
    ) -> dict[int, Maps]: ...
    def maps(
        self, pixels: Tensor, layer: Layers = LAYER, names: Names = None
    ) -> Maps | dict[int, Maps]:
        """Every map of `maps.MAPS` that the model has in some layers, from one forward pass.

        Args:
            pixels: one picture, (1, 3, height, width), normalised; `preprocess` makes it.
            layer: as in `norms`.
            names: only what these maps need; None for all that there are.

        Returns:
            One `Maps` for an int; otherwise a dict from layer number (1 and up) to one.

        Raises:
            InputError: as `norms`, or an unknown name.
        """
        layers = [self.layers[number - 1] for number in self.layer_numbers(layer)]
        found = maps(self.model, pixels, layers, names)
        return found if isinstance(layer, Sequence) else next(iter(found.values()))

    def map_names(self, layer: int = LAYER) -> tuple[str, ...]:
        """The names of the maps that the model has in a layer; it is not run.

        Raises:
            InputError: a layer that does not exist.
        """
        return map_names(self.model, self.layer(layer))

    def analyze(
        self,
        image: Image.Image,
        resolution: int = RESOLUTION,
        layers: Layers = "all",
        num_predictions: int = 5,
        pixels: Tensor | None = None,
    ) -> Analysis:
        """Run `image` (RGB, from `load_image`) through the model, once.

        Args:
            resolution: the input's shorter side in pixels.
            pixels: what `preprocess` made of the picture, where that is done; `image` is only
                handed on then, and may be a smaller copy.

        Raises:
            ImageError: the picture is too elongated for the resolution.
            InputError: a layer that does not exist, a resolution below one patch, or results that
                are not finite.
        """
        if pixels is None:
            pixels = self.preprocess(image, resolution)
        with NormRecorder(self.model, layers, self.layers) as recorder, looking(self.model):
            probabilities = self.model(pixels).float().softmax(dim=-1)[0].cpu()
        if not probabilities.isfinite().all():
            raise InputError(NOT_FINITE)
        norms = recorder.norms(per_head=True)
        labels, label_set = self.class_names(len(probabilities))
        best = probabilities.topk(min(num_predictions, len(probabilities)))
        predictions = tuple(
            Prediction(index, labels[index], probability)
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )
        seen = {number: self.layers[number - 1] for number in norms}
        return Analysis(
            image, resolution, norms, predictions, seen, self.name, label_set, self.provenance
        )

    def class_names(self, num_classes: int) -> tuple[tuple[str, ...], str]:
        """A name for each class, and the label set in words."""
        if self.provenance:
            return self.provenance.labels, self.provenance.label_set
        return class_names(num_classes, None)

    def untrained(self) -> "Lens":
        """The same network, attention included, with random weights; always the same ones.

        Raises:
            InputError: it has weights that cannot be drawn anew.
        """
        if not self.provenance:
            return Lens(untrained_copy(self.model))
        twin = Lens.load(self.provenance.architecture)
        if [layer.kind for layer in twin.layers] != [layer.kind for layer in self.layers]:
            convert_to_sima(twin.model)
        return twin


@overload
def token_norms(
    model: nn.Module, pixels: Tensor, layer: int = LAYER, per_head: bool = False
) -> TokenNorms: ...
@overload
def token_norms(
    model: nn.Module,
    pixels: Tensor,
    layer: Sequence[int] | Literal["all"],
    per_head: bool = False,
) -> dict[int, TokenNorms]: ...
def token_norms(
    model: nn.Module, pixels: Tensor, layer: Layers = LAYER, per_head: bool = False
) -> TokenNorms | dict[int, TokenNorms]:
    """`Lens.norms` of a model.

    Raises:
        InputError: as `Lens` and `Lens.norms`.
    """
    return Lens(model).norms(pixels, layer, per_head)


def analyze(
    model: nn.Module,
    image: Image.Image,
    resolution: int = RESOLUTION,
    layers: Layers = "all",
    num_predictions: int = 5,
) -> Analysis:
    """`Lens.analyze` of a model.

    Raises:
        ImageError, InputError: as `Lens` and `Lens.analyze`.
    """
    return Lens(model).analyze(image, resolution, layers, num_predictions)
