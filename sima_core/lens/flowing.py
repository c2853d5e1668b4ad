"""Listen to what attention does as a model runs: each layer's `Flow`, and another in its place.

One context manager serves whoever looks at flows, takes tokens away, or asks for a gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sima_core.errors import InputError
from sima_core.lens.flow import Flow
from sima_core.lens.kinds import on_output, side_by_side
from sima_core.lens.layers import Layer, looking, on_grid, require_fitting, require_pixels


def flows(model: nn.Module, pixels: Tensor, layers: Sequence[Layer]) -> list[Flow]:
    """The flows through some layers in one forward pass.

    Raises:
        InputError: as `Lens.flow`.
    """
    for layer in layers:
        layer.kind.projection(layer.module(model))  # says so before the model is run
    require_picture(model, pixels)
    found: dict[Layer, Flow] = {}

    def take(flow: Flow) -> None:
        found[flow.layer] = flow

    with flowing(model, layers, pixels, take), looking(model):
        model(pixels)
    return [found[layer] for layer in layers]


def require_picture(model: nn.Module, pixels: Tensor) -> None:
    """Refuse what is not one picture that the model takes.

    Raises:
        InputError: it is none, or several.
    """
    require_pixels(pixels)
    if len(pixels) != 1:
        raise InputError(f"one picture at a time, (1, 3, height, width); got {len(pixels)}")
    require_fitting(model, *pixels.shape[-2:])


@contextmanager
def flowing(
    model: nn.Module,
    layers: Sequence[Layer],
    pixels: Tensor,
    take: Callable[[Flow], Tensor | None],
) -> Iterator[None]:
    """Call `take` with the flow through each of the layers as the model runs inside.

    Args:
        take: where it returns something, (N, C), that stands in place of the layer's output.

    Raises:
        InputError: out of the model, where a layer's tokens are no grid of patches.
    """
    with ExitStack() as hooks:
        for layer in layers:
            for hook in _hooks(layer, model, pixels.shape[-2:], take):
                hooks.callback(hook.remove)
        yield


def _hooks(
    layer: Layer, model: nn.Module, size: Sequence[int], take: Callable[[Flow], Tensor | None]
) -> list[RemovableHandle]:
    """What makes a flow of one layer's attention whenever it has run."""
    module, kind = layer.module(model), layer.kind
    seen: dict[str, Tensor] = {}

    def keep(query: Tensor, key: Tensor) -> None:
        seen["query"], seen["key"] = query, key

    def keep_values(output: Tensor) -> None:
        seen["value"] = side_by_side(output.detach())

    def give(output: Tensor) -> Tensor | None:
        flow = _flow(layer, module, seen, output[0].detach(), size)
        seen.clear()  # or those of all layers would be held to the end of the pass
        given = take(flow)
        return None if given is None else given.to(output.dtype)[None]

    return [
        *kind.watch(module, keep),
        on_output(kind.value_source(module), keep_values),
        on_output(module, give),
    ]


def _flow(
    layer: Layer, module: nn.Module, seen: dict[str, Tensor], output: Tensor, size: Sequence[int]
) -> Flow:
    """The flow of what a layer's modules gave, as they gave it: (1, tokens, C)."""
    kind, projection = layer.kind, layer.kind.projection(module)
    height, width = size
    query_grid, key_grid = layer.grids(height, width)
    query, key = kind.normalized(seen["query"]), kind.normalized(seen["key"])
    if not kind.over_patches:  # whoever else was projected does not ask
        query, query_grid = query[:, :1], (0, 0)
    else:
        on_grid(query[..., 0], query_grid)  # refuses a model whose tokens are no grid
    on_grid(key[..., 0], key_grid)

    def by_head(tokens: Tensor) -> Tensor:
        return tokens[0].float().view(tokens.shape[1], layer.num_heads, -1).transpose(0, 1)

    bias = projection.bias
    return Flow(
        layer,
        by_head(query) * kind.scale(module),
        by_head(key),
        by_head(seen["value"][..., -projection.in_features :]),
        projection.weight.detach().float().clone(),  # the model may learn on
        None if bias is None else bias.detach().float().clone(),
        output.float(),
        query_grid,
        key_grid,
    )
