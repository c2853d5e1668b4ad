"""What the class token receives, and for which label it speaks."""

import torch
from torch import Tensor, nn

from sima_core.errors import InputError
from sima_core.lens.flow import Flow, Parts
from sima_core.lens.flowing import flowing, require_picture
from sima_core.lens.layers import Layer, find_layers, layer_numbers, looking
from sima_core.words import plain


def class_layer(model: nn.Module, layer: int | None) -> Layer:
    """A layer in which the class token listens; see `Lens.class_flow`.

    Raises:
        InputError: it does not exist, or no class token takes part in it.
    """
    over_class = find_layers(model, over_patches=False, required=False)
    layers = over_class or find_layers(model)
    number = layer if layer is not None else 1 if over_class else -1
    [found] = layer_numbers(number, len(layers))
    if layers[found - 1].class_row is None:
        raise InputError(
            f"no class token takes part in layer {found} of {type(model).__name__}: looked for "
            "class attention, or a class token among the patches"
        )
    return layers[found - 1]


def why(model: nn.Module, pixels: Tensor, label: int, over: int | None, layer: Layer) -> Parts:
    """The parts that the class token receives, along the gradient of a logit; see `Lens.why`.

    Raises:
        InputError: as `Lens.why`.
    """
    if label == over:
        raise InputError("name two classes: the one, and another that it is held against")
    layer.kind.projection(layer.module(model))  # says so before the model is run
    require_picture(model, pixels)
    found: list[tuple[Flow, Tensor]] = []

    def take(flow: Flow) -> Tensor:
        assert flow.output is not None
        output = flow.output.clone().requires_grad_()
        found.append((flow, output))
        torch.set_grad_enabled(True)  # from here on; `looking` puts it back
        return output

    # The model before the layer stays out of the graph, whose memory grows with every layer.
    with flowing(model, [layer], pixels, take), looking(model):
        logits = model(pixels)[0].float()
        lead = _logit(logits, label) - (_logit(logits, over) if over is not None else 0)
    flow, output = found[0]
    [gradient] = torch.autograd.grad(lead, output)
    assert layer.class_row is not None
    return flow.received("class", direction=gradient[layer.class_row])


def _logit(logits: Tensor, label: int) -> Tensor:
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(logits):
        raise InputError(
            f"there is no class {plain(repr(label))}: classes run from 0 to {len(logits) - 1}"
        )
    return logits[label]
