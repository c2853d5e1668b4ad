"""Score the heatmaps of a model on a whole split of COCO, beside baselines and random weights."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import torch
from numpy.typing import ArrayLike
from torch import nn

from sima_core.coco.root import CocoError
from sima_core.coco.split import CocoSplit
from sima_core.defaults import LAYER, RESOLUTION
from sima_core.lens.analysis import Analysis
from sima_core.lens.layers import SIDES
from sima_core.lens.lens import Lens
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
) -> Iterator[PictureResult]:
    """Score every picture of the split, one at a time, in order of their ids.

    What an interrupted run has done is taken from the cache folder; a whole run leaves nothing
    there. A picture that cannot be read is skipped and says why.

    Args:
        layers: counted from 1; negative from the end.
        limit: stop after so many pictures.
        faithful: insertion and deletion too: some 250 more forward passes a picture.
        sane: the checks of `scoring.sanity` too, of every map that the model has in the main layer:
            some forward passes a layer.

    Raises:
        InputError: a model without attention that is known, a layer that does not exist, or a
            resolution below one patch.
    """
    lens = Lens.of(model)
    layers, ids = lens.layer_numbers(layers), split.ids[:limit]
    journal = Journal(journal_file(split, lens, layers, resolution, faithful, sane), resume)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        scorer = _Scorer(split, lens, layers, resolution, faithful, sane, pool)
        for image_id in ids:
            result = journal.get(image_id)
            if result is None:
                result = scorer.score(image_id)
                if result.skipped != "unreadable":  # which may be mended before the next run
                    journal.add(result)
            yield result
    if journal.found.keys() <= set(ids):  # a look at a few keeps what a longer run has done
        journal.delete()


class _Scorer:
    """Scores single pictures of one evaluation."""

    def __init__(
        self,
        split: CocoSplit,
        lens: Lens,
        layers: Sequence[int],
        resolution: int,
        faithful: bool,
        sane: bool,
        pool: Executor,
    ) -> None:
        self._split, self._layers, self._resolution = split, layers, resolution
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
            ours = self._lens.analyze(image, self._resolution, self._layers)
            untrained = self._untrained.analyze(image, self._resolution, self._layers)
            analyzed = time.perf_counter()
        except (CocoError, ImageError) as error:
            return PictureResult(image_id, "unreadable", problem=str(error))
        scores = self._scores(Target(mask), image_id, ours, untrained)
        scored = time.perf_counter()
        areas: dict[str, dict[str, float]] = {}
        if self._faithful:
            found = faithfulness(self._lens, ours, image_id, main_layer(self._layers))
            areas = {order: {c: of.auc for c, of in by.items()} for order, by in found.items()}
        checked: dict[str, dict[str, float]] = {}
        if self._sane:
            pixels = self._lens.preprocess(image, self._resolution)
            of_maps = sanity(self._lens, pixels, main_layer(self._layers), names=None)
            checked = {name: found.figures() for name, found in of_maps.items()}
        scoring = masked - start + scored - analyzed
        return PictureResult(image_id, None, scores, areas, checked, analyzed - masked, scoring)

    def _scores(
        self, target: Target, image_id: int, ours: Analysis, untrained: Analysis
    ) -> dict[MapKey, Scores]:
        """The scores of the baselines, and of both models' maps."""
        heats = {
            ModelMap(side, layer, trained): analysis.heatmap(side, layer)
            for trained, analysis in ((True, ours), (False, untrained))
            for side in SIDES
            for layer in self._layers
        }
        baselines = baseline_maps(ours, image_id)
        scores: dict[MapKey, Scores] = {of: target.score(a) for of, a in baselines.items()}
        # In threads, as the forward passes are; resized only there, so that memory stays bounded.
        size = ours.image.size
        scored = self._pool.map(lambda heat: target.score(heat.resize(size)), heats.values())
        scores.update(zip(heats, scored, strict=True))
        return scores


def baseline_maps(analysis: Analysis, image_id: int) -> dict[Baseline, Map]:
    """The maps of no model, at the picture's size."""
    size = analysis.image.size
    noise = random_heatmap(analysis.grid, image_id).resize(size)
    return {"centre": centre_map(*size), "random": noise, "uniform": uniform_map(*size)}


def faithfulness(
    model: Lens | nn.Module, analysis: Analysis, image_id: int, layer: int
) -> dict[str, Mapping[str, Curve]]:
    """Insertion and deletion for ``query``, ``key``, ``centre`` and ``random`` order, by curve.

    Raises:
        InputError: the layer was not captured, or a model without attention that is known.
    """
    lens = Lens.of(model)
    pixels = lens.preprocess(analysis.image, analysis.resolution)
    rows, cols = analysis.grid
    rankings: dict[str, ArrayLike] = {s: analysis.token_norms(s, layer) for s in SIDES}
    rankings["centre"] = centre_map(cols, rows)
    rankings["random"] = random_ranking(analysis.grid, image_id)
    return {name: curves(lens.model, pixels, ranking) for name, ranking in rankings.items()}
