"""Several models, layers or heads on one picture: their maps side by side, and their times."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from sima_core.bench.whole_models import ModelTime, time_models
from sima_core.defaults import LAYER, RESOLUTION
from sima_core.errors import InputError, SimaLensError
from sima_core.figures import new_figure, save_png
from sima_core.lens.heatmaps import COLORMAPS, heatmap, overlay
from sima_core.lens.layers import SIDES
from sima_core.lens.lens import Lens
from sima_core.lens.maps import MAPS, MapName
from sima_core.models.architectures import ARCHITECTURES
from sima_core.weights.hub import WEIGHT_SUFFIXES
from sima_core.weights.loading import load_best, load_model
from sima_core.words import plain

#: How many can be set beside each other.
FEWEST, MOST = 2, 4
#: Heights over widths from which on a picture no longer fills its place in the figure.
TALLEST = 12.0
#: Pixels of a picture from which on it is made smaller for the figure, which shows far fewer.
MOST_DRAWN = 2**22
#: The name that stands for the bundled checkpoint.
BUNDLED = "bundled"
#: What to show of each: the norms of queries and keys, where the class token looks, or a named map.
MapKind = Literal["norms", "cls", "rollout", MapName]
#: Those that belong to no layer.
WITHOUT_LAYER: tuple[MapKind, ...] = ("cls", "rollout")

_PLACE = re.compile(r"(?P<layer>-?\d{1,3})(?:\.(?P<head>\d{1,3}))?", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """One of the things compared: a model, and a layer and head of it."""

    source: str
    layer: int = LAYER
    #: From 1; None for all heads.
    head: int | None = None

    @classmethod
    def parse(cls, text: str, layer: int = LAYER) -> "Choice":
        """``NAME``, ``NAME@LAYER`` or ``NAME@LAYER.HEAD``; `layer` holds where none is named.

        Raises:
            InputError: the text names nothing, or no layer behind its @.
        """
        source, at, place = text.strip().rpartition("@")
        found = _PLACE.fullmatch(place) if at else None
        if not found:
            source = f"{source}{at}{place}"
        if not source:
            raise InputError("name each model, such as deit_tiny_patch16_224 or bundled@6.2")
        if "@" in source and not source.endswith(WEIGHT_SUFFIXES):  # that of a file's name
            raise InputError(
                f"{plain(text.strip())!r} names no layer: write NAME@LAYER or NAME@LAYER.HEAD, "
                "such as bundled@6 or bundled@6.2"
            )
        number, head = (found["layer"], found["head"]) if found else (layer, None)
        return cls(source, int(number), int(head) if head else None)


@dataclass(frozen=True)
class Panel:
    """One of the things compared, on the picture."""

    choice: Choice
    kind: MapKind
    #: The picture.
    image: Image.Image
    #: The model's name.
    name: str
    #: Whether the weights were trained; None where nobody knows.
    trained: bool | None
    #: Where they come from, or that they are untrained.
    weights: str
    #: By name (``Q̂``, ``K̂``; ``class attention``; a map's title): unscaled, (rows, cols).
    maps: Mapping[str, NDArray[np.float32]]
    #: Whether the maps are those of the choice's layer; else of the whole model.
    of_layer: bool = True

    @property
    def title(self) -> str:
        """The model, and the layer and head that are shown."""
        head = f", head {self.choice.head}" if self.choice.head else ""
        layer = f", layer {self.choice.layer}" if self.of_layer else ""
        return f"{self.name}{layer}{head}"


def load_choice(source: str) -> nn.Module:
    """The model that a choice names: ``bundled``, a checkpoint, a Hub id or an architecture.

    An architecture gets the best weights there are (`load_best`).

    Raises:
        CheckpointError: as `load_model` does.
    """
    if source == BUNDLED:
        return load_model()
    return load_best(source) if source in ARCHITECTURES else load_model(source)


def look(
    model: nn.Module | Lens,
    choice: Choice,
    image: Image.Image,
    resolution: int = RESOLUTION,
    kind: MapKind = "norms",
) -> Panel:
    """Run one model on the picture.

    Raises:
        InputError: a picture that is too elongated; a layer, head or kind of map that the model
            does not have. Class attention and rollout have no layer.
    """
    if kind not in get_args(MapKind):
        raise InputError(
            f"the map must be one of {', '.join(get_args(MapKind))}; got {plain(kind)!r}"
        )
    lens, of_layer = Lens.of(model), kind not in WITHOUT_LAYER
    try:
        layer = lens.layer(choice.layer if of_layer else -1).number
        pixels = lens.preprocess(image, resolution)
        if kind == "norms":
            seen = lens.analyze(image, resolution, [layer], pixels=pixels)
            maps = {seen.symbol(s): seen.token_norms(s, layer, choice.head) for s in SIDES}
        elif kind == "cls" or kind == "rollout":  # as the type checker reads `WITHOUT_LAYER`
            found = lens.attention(pixels, kind, choice.head)[0]
            maps = {"class attention" if kind == "cls" else "rollout": found.cpu().numpy()}
        else:
            named = lens.maps(pixels, layer, [kind])
            maps = {MAPS[kind].title: named.of(kind, choice.head)}
            of_layer = named.is_of_layer(kind)
    except SimaLensError as error:
        raise InputError(f"{lens.name}: {error}") from None
    origin = lens.provenance
    return Panel(
        replace(choice, layer=layer),
        kind,
        image,
        lens.name,
        origin.trained if origin else None,
        lens.weights_in_words,
        maps,
        of_layer,
    )


def compare(
    choices: Sequence[Choice],
    image: Image.Image,
    resolution: int = RESOLUTION,
    kind: MapKind = "norms",
    seconds: float = 3.0,
    load: Callable[[str], nn.Module | Lens] = load_choice,
) -> tuple[list[Panel], list[ModelTime]]:
    """Look at one picture with two to four choices, and time their models.

    Args:
        load: gives the model of a source; every source is loaded once.

    Raises:
        CheckpointError, InputError: what cannot be loaded or shown; layers compared by a map that
            has none.
    """
    if not FEWEST <= len(choices) <= MOST:
        raise InputError(f"choose {FEWEST} to {MOST} to compare; got {len(choices)}")
    if kind in WITHOUT_LAYER:
        _require_different(choices)
    sources = dict.fromkeys(choice.source for choice in choices)
    lenses = {source: Lens.of(load(source)) for source in sources}
    panels = [look(lenses[c.source], c, image, resolution, kind) for c in choices]
    _require_different([panel.choice for panel in panels if not panel.of_layer])
    inputs = [lens.preprocess(image, resolution) for lens in lenses.values()]
    times = time_models([lens.model for lens in lenses.values()], inputs, seconds)
    timed = dict(zip(lenses, times, strict=True))
    return panels, [timed[choice.source] for choice in choices]


def _require_different(choices: Sequence[Choice]) -> None:
    """Refuse layers where the map is of none.

    Raises:
        InputError: two choices differ in nothing but the layer.
    """
    if len({(choice.source, choice.head) for choice in choices}) < len(choices):
        raise InputError(
            "this map is the whole model's, the same for every layer: compare models or heads, not "
            "layers"
        )


def plot(
    panels: Sequence[Panel], times: Sequence[ModelTime], file: Path, colormap: str = COLORMAPS[0]
) -> None:
    """Draw the comparison as a PNG: a column a choice, a row a map.

    Raises:
        OSError: the file cannot be written.
        InputError: a map that is not finite.
    """
    image = panels[0].image
    if image.width * image.height > MOST_DRAWN:  # every map of a figure holds such a picture
        image = image.reduce(math.ceil(math.sqrt(image.width * image.height / MOST_DRAWN)))
    num_rows = len(panels[0].maps)
    height = 3.4 * min(image.height / image.width, TALLEST)
    figure = new_figure(3.4 * len(panels), height * num_rows + 0.9)
    grid = figure.subplots(num_rows, len(panels), squeeze=False)
    for column, (panel, timed) in enumerate(zip(panels, times, strict=True)):
        for row, (name, values) in enumerate(panel.maps.items()):
            axes = grid[row][column]
            axes.imshow(overlay(image, heatmap(values), colormap))
            axes.set(xticks=[], yticks=[], ylabel=name)
        grid[0][column].set_title(f"{panel.title}\n{panel.weights}\n{timed}", fontsize=8)
    save_png(figure, file, dpi=150)
