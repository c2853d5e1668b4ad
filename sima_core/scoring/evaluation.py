"""Score the heatmaps of a model on a whole split of COCO, beside baselines and random weights."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from numpy.typing import ArrayLike
from torch import nn

from sima_core.coco.root import CocoError
from sima_core.coco.split import CocoSplit
from sima_core.lens.analysis import Analysis
from sima_core.lens.heatmaps import Heatmap
from sima_core.lens.layers import SIDES, patch_size
from sima_core.lens.lens import analyze
from sima_core.lens.pictures import ImageError, preprocess
from sima_core.scoring.faithfulness import Curve, curves, random_ranking
from sima_core.scoring.journal import Journal, journal_file
from sima_core.scoring.metrics import (
    Map,
    Target,
    centre_map,
    random_heatmap,
    skip_reason,
    uniform_map,
)
from sima_core.scoring.summary import BASELINES, PictureResult, main_layer
from sima_core.weights.loading import load_model
from sima_core.weights.provenance import provenance


def baseline_maps(analysis: Analysis, image_id: int) -> dict[str, Map]:
    """The maps of no model: ``centre``, ``random`` and ``uniform``."""
    size = analysis.image.size
    noise = random_heatmap(analysis.grid, image_id).resize(size)
    return dict(zip(BASELINES, (centre_map(*size), noise, uniform_map(*size)), strict=True))


def untrained_twin(model: nn.Module) -> nn.Module:
    """The same architecture with random weights, always the same ones."""
    return load_model(provenance(model).architecture)


def evaluate(
    split: CocoSplit,
    model: nn.Module,
    layers: Sequence[int] = (12,),
    resolution: int = 224,
    limit: int | None = None,
    faithful: bool = False,
    resume: bool = True,
) -> Iterator[PictureResult]:
    """Score every picture of the split, one at a time, in order of their ids.

    What an interrupted run has done is taken from the cache folder; a whole run leaves nothing
    there. A picture that cannot be read is skipped and says why.

    Args:
        layers: numbers from 1; `layer_numbers` resolves others.
        limit: stop after so many pictures.
        faithful: insertion and deletion too: some 250 more forward passes a picture.

    Raises:
        ValueError: a layer that does not exist.
    """
    twin = untrained_twin(model)
    ids = split.ids[:limit]
    journal = Journal(journal_file(split, model, layers, resolution, faithful), resume)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for image_id in ids:
            result = journal.get(image_id)
            if result is None:
                result = _score_picture(
                    split, image_id, model, twin, layers, resolution, faithful, pool
                )
                if result.skipped != "unreadable":  # which may be mended before the next run
                    journal.add(result)
            yield result
    if journal.found.keys() <= set(ids):  # a look at a few keeps what a longer run has done
        journal.delete()


def _score_picture(
    split: CocoSplit,
    image_id: int,
    model: nn.Module,
    twin: nn.Module,
    layers: Sequence[int],
    resolution: int,
    faithful: bool,
    pool: ThreadPoolExecutor,
) -> PictureResult:
    if not split.is_annotated(image_id):
        return PictureResult(image_id, "unannotated")
    try:
        image = split.load(image_id)
        start = time.perf_counter()
        mask = split.mask(image_id)
        if reason := skip_reason(mask):
            return PictureResult(image_id, reason)
        masking = time.perf_counter() - start
        start = time.perf_counter()
        ours, random_weights = (analyze(m, image, resolution, layers) for m in (model, twin))
        forward = time.perf_counter() - start
    except (CocoError, ImageError) as error:
        return PictureResult(image_id, "unreadable", problem=str(error))
    start = time.perf_counter()
    target = Target(mask)
    heats: dict[str, Heatmap] = {}
    for prefix, analysis in (("", ours), ("untrained_", random_weights)):
        for side in SIDES:
            for layer in layers:
                heats[f"{prefix}{side}/{layer}"] = analysis.heatmap(side, layer)
    scores = {name: target.score(a) for name, a in baseline_maps(ours, image_id).items()}
    # In threads, as the forward passes are; resized only there, so that memory stays bounded.
    scored = pool.map(lambda heat: target.score(heat.resize(image.size)), heats.values())
    scores |= zip(heats, scored, strict=True)
    scoring = time.perf_counter() - start + masking
    followed = faithfulness(model, ours, image_id, main_layer(layers)) if faithful else {}
    areas = {name: {c: of.auc for c, of in found.items()} for name, found in followed.items()}
    return PictureResult(image_id, None, scores, areas, forward, scoring)


def faithfulness(
    model: nn.Module, analysis: Analysis, image_id: int, layer: int
) -> dict[str, Mapping[str, Curve]]:
    """Insertion and deletion for ``query``, ``key``, ``centre`` and ``random`` order, by curve.

    Raises:
        ValueError: the layer was not captured.
    """
    pixels = preprocess(analysis.image, analysis.resolution, patch_size(model))
    rows, cols = analysis.grid
    rankings: dict[str, ArrayLike] = {s: analysis.token_norms(s, layer) for s in SIDES}
    rankings["centre"] = centre_map(cols, rows)
    rankings["random"] = random_ranking(analysis.grid, image_id)
    return {name: curves(model, pixels, ranking) for name, ranking in rankings.items()}
