"""Score the heatmaps of a model on a whole split of COCO, beside baselines and random weights."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Literal

import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor, nn

from sima_core.coco.root import CocoError
from sima_core.coco.split import CocoSplit
from sima_core.defaults import LAYER, RESOLUTION
from sima_core.lens.heatmaps import Heatmap, heatmap
from sima_core.lens.layers import SIDES, Grid
from sima_core.lens.lens import Lens
from sima_core.lens.maps import MAPS, Maps, require_map
from sima_core.lens.pictures import ImageError
from sima_core.scoring.faithfulness import Curve, curves, random_ranking
from sima_core.scoring.journal import Journal, journal_file
from sima_core.scoring.metrics import (
    Map,
    Scores,
    Target,
    centre_map,
    random_heatmap,
    skip_reason,
    uniform_map,
)
from sima_core.scoring.results import Baseline, MapKey, ModelMap, PictureResult, main_layer
from sima_core.scoring.sanity import sanity


def evaluate(
    split: CocoSplit,
    model: Lens | nn.Module,
    layers: Sequence[int] = (LAYER,),
    resolution: int = RESOLUTION,
    limit: int | None = None,
    faithful: bool = False,
    resume: bool = True,
    sane: bool = False,
    maps: Sequence[str] | Literal["all"] = SIDES,
) -> Iterator[PictureResult]:
    """Score every picture of the split, one at a time, in order of their ids.

    What an interrupted run has done is taken from the cache folder; a whole run leaves nothing
    there. A picture that cannot be read is skipped and says why.

    Args:
        layers: counted from 1; negative from the end.
        limit: stop after so many pictures.
        faithful: insertion and deletion too: some 60 more forward passes for each map and picture.
        sane: the checks of `scoring.sanity` too, of every map that the model has in the main layer:
            some forward passes a layer.
        maps: names of `MAPS`, the paper's two where nothing is said, or all that the model has.

    Raises:
        InputError: a model without attention that is known, a layer or map that does not exist, or
            a resolution below one patch.
    """
    lens = Lens.of(model)
    named, ids = maps_by_layer(lens, lens.layer_numbers(layers), maps), split.ids[:limit]
    journal = Journal(journal_file(split, lens, named, resolution, faithful, sane), resume)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        scorer = _Scorer(split, lens, named, resolution, faithful, sane, pool)
        for image_id in ids:
            result = journal.get(image_id)
            if result is None:
                result = scorer.score(image_id)
                if result.skipped != "unreadable":  # which may be mended before the next run
                    journal.add(result)
            yield result
    if journal.found.keys() <= set(ids):  # a look at a few keeps what a longer run has done
        journal.delete()


def maps_by_layer(
    lens: Lens, layers: Sequence[int], maps: Sequence[str] | Literal["all"] = SIDES
) -> dict[int, tuple[str, ...]]:
    """What to score in each layer: of the maps that are asked for, those that it has.

    What the class token hears in class attention is of no layer over patches: it is scored once,
    with the main layer.

    Raises:
        InputError: a map that does not exist, or that the model has in none of these layers.
    """
    asked = tuple(MAPS) if maps == "all" else tuple(maps)
    for name in asked:
        require_map(name)
    main, named = main_layer(layers), {}
    for layer in layers:
        elsewhere = lens.layer(layer).class_row is None and layer != main
        named[layer] = tuple(
            name
            for name in lens.map_names(layer)
            if name in asked and not (elsewhere and MAPS[name].needs == "class")
        )
    for name in asked if maps != "all" else ():
        if not any(name in found for found in named.values()):
            require_map(name, lens.layer(main), lens.map_names(main))
    return named


class _Scorer:
    """Scores single pictures of one evaluation."""

    def __init__(
        self,
        split: CocoSplit,
        lens: Lens,
        named: Mapping[int, Sequence[str]],
        resolution: int,
        faithful: bool,
        sane: bool,
        pool: Executor,
    ) -> None:
        self._split, self._named, self._resolution = split, named, resolution
        self._lens, self._untrained = lens, lens.untrained()
        self._faithful, self._sane, self._pool = faithful, sane, pool

    def score(self, image_id: int) -> PictureResult:
        """What is found on a picture, and the time it took."""
        if not self._split.is_annotated(image_id):
            return PictureResult(image_id, "unannotated")
        try:
            image = self._split.load(image_id)
            start = time.perf_counter()
            mask = self._split.mask(image_id)
            masked = time.perf_counter()
            if reason := skip_reason(mask):
                return PictureResult(image_id, reason)
            ours, untrained = (self._look(of, image) for of in (self._lens, self._untrained))
            looked = time.perf_counter()
        except (CocoError, ImageError) as error:
            return PictureResult(image_id, "unreadable", problem=str(error))
        heats = self._heatmaps(ours, True) | self._heatmaps(untrained, False)
        baselines = baseline_maps(image.size, _grid(ours), image_id)
        scores = self._scores(Target(mask), baselines, heats)
        scored = time.perf_counter()
        areas = self._areas(image, image_id, ours) if self._faithful else {}
        checked = self._checks(image) if self._sane else {}
        scoring = masked - start + scored - looked
        return PictureResult(image_id, None, scores, areas, checked, looked - masked, scoring)

    def _look(self, lens: Lens, image: Image.Image) -> dict[int, Maps]:
        """What the maps of all layers are made of, in one forward pass."""
        names = sorted({name for found in self._named.values() for name in found})
        return lens.maps(lens.preprocess(image, self._resolution), list(self._named), names)

    def _heatmaps(self, maps: Mapping[int, Maps], trained: bool) -> dict[ModelMap, Heatmap]:
        """Every map to score, those of one name side by side."""
        heats = {
            ModelMap(name, layer, trained): heatmap(maps[layer].of(name))
            for layer, names in self._named.items()
            for name in names
        }
        order = list(MAPS)
        return dict(sorted(heats.items(), key=lambda item: order.index(item[0].name)))

    def _scores(
        self, target: Target, baselines: Mapping[Baseline, Map], heats: Mapping[ModelMap, Heatmap]
    ) -> dict[MapKey, Scores]:
        """The scores of the baselines, and of both models' maps."""
        scores: dict[MapKey, Scores] = {of: target.score(a) for of, a in baselines.items()}
        # In threads, as the forward passes are; resized only there, so that memory stays bounded.
        height, width = target.mask.shape
        scored = self._pool.map(
            lambda heat: target.score(heat.resize((width, height))), heats.values()
        )
        scores.update(zip(heats, scored, strict=True))
        return scores

    def _areas(
        self, image: Image.Image, image_id: int, maps: Mapping[int, Maps]
    ) -> dict[str, dict[str, float]]:
        """Areas under the curves of insertion and deletion, by order and curve."""
        main = main_layer(list(self._named))
        orders = {name: maps[main].of(name) for name in self._named[main]}
        pixels = self._lens.preprocess(image, self._resolution)
        found = faithfulness(self._lens, pixels, orders, _grid(maps), image_id)
        return {order: {c: of.auc for c, of in by.items()} for order, by in found.items()}

    def _checks(self, image: Image.Image) -> dict[str, dict[str, float]]:
        """What `sanity` finds of every map of the main layer, by map and figure."""
        pixels = self._lens.preprocess(image, self._resolution)
        found = sanity(self._lens, pixels, main_layer(list(self._named)), names=None)
        return {name: of_map.figures() for name, of_map in found.items()}


def _grid(maps: Mapping[int, Maps]) -> Grid:
    """(rows, cols) of the queries' tokens in the last of the layers."""
    rows, cols = maps[max(maps)].norms.query.shape[-2:]
    return rows, cols


def baseline_maps(size: tuple[int, int], grid: Grid, image_id: int) -> dict[Baseline, Map]:
    """The maps of no model, at the picture's size.

    Args:
        size: (width, height) of the picture.
        grid: (rows, cols) of the tokens.
    """
    noise = random_heatmap(grid, image_id).resize(size)
    return {"centre": centre_map(*size), "random": noise, "uniform": uniform_map(*size)}


def faithfulness(
    model: Lens | nn.Module,
    pixels: Tensor,
    rankings: Mapping[str, ArrayLike],
    grid: Grid,
    image_id: int,
) -> dict[str, Mapping[str, Curve]]:
    """Insertion and deletion in some orders, and in those of ``centre`` and ``random``, by curve.

    Args:
        pixels: the network's input, (1, 3, height, width).
        rankings: by name, (rows, cols), larger first.
        grid: (rows, cols) of the tokens.

    Raises:
        InputError: a model without attention that is known.
    """
    rows, cols = grid
    orders: dict[str, ArrayLike] = dict(rankings)
    orders |= {"centre": centre_map(cols, rows), "random": random_ranking(grid, image_id)}
    return {name: curves(Lens.of(model).model, pixels, order) for name, order in orders.items()}
