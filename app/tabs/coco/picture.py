"""One picture of COCO: its maps, its objects, and how well the maps find them."""

import shutil
from collections import Counter
from dataclasses import asdict

from markupsafe import Markup

from app.controls import whole
from app.tabs.coco.browsing import split_named
from app.templating import render
from app.turns import TURNS
from app.viewer import viewer_html
from app.visit import CocoLook
from app.visitors import (
    lens_for,
    new_folder,
    require_affordable,
    require_photo,
    require_visit,
)
from sima_core import Analysis
from sima_core.coco.split import CocoObject, CocoPicture
from sima_core.defaults import LAYER, RESOLUTION
from sima_core.errors import InputError
from sima_core.lens.heatmaps import COLORMAPS
from sima_core.lens.layers import SIDES
from sima_core.scoring.evaluation import baseline_maps
from sima_core.scoring.metrics import (
    METRICS,
    TOLERANCE,
    Map,
    Mask,
    Scores,
    Target,
    peak,
    skip_reason,
)
from sima_core.scoring.summary import METRIC_NAMES

#: What to score against where no category is chosen.
ALL_OBJECTS = "All objects"

_BASELINES = {"centre": "Centre", "random": "Random", "uniform": "Uniform"}
_OUTCOMES = {"hit": "✓ peak hits", "miss": "✗ peak misses", "skipped": "not scored"}


def require_shown(shown: CocoLook | None) -> CocoLook:
    """What is shown.

    Raises:
        InputError: nothing is, or the visit was forgotten.
    """
    if shown is None:
        raise InputError("choose a picture first.")
    return shown


def show(image_id: int, split_name: str | None, model_key: str | None) -> CocoLook:
    """Run the model on a picture of COCO."""
    split = split_named(split_name)
    picture = split.picture(image_id)
    lens, image = lens_for(model_key), split.load(picture.id)
    require_affordable(lens, image, RESOLUTION)
    with TURNS.turn():
        analysis = lens.analyze(image, RESOLUTION)
    return CocoLook(split.split, picture, split.path(picture.id), analysis, model_key)


def copy_of(shown: CocoLook | None) -> str:
    """The path of a copy of the picture, which another tab may take for an upload."""
    shown = require_shown(shown)
    photo = require_photo(shown.path)
    with new_folder("the picture's copy") as folder:
        return str(shutil.copy(photo, str(folder / f"coco-{shown.picture.id}.jpg")))


def nearest_layer(shown: CocoLook, layer: float | None) -> int:
    """The layer that was asked for, or the last one of a shallower model."""
    return min(whole(layer, LAYER), max(shown.analysis.norms))


def map_names(analysis: Analysis) -> dict[str, str]:
    """What the model's maps and the baselines are called on the page."""
    return {side: analysis.symbol(side) for side in SIDES} | _BASELINES


def draw(
    shown: CocoLook | None, layer: float | None, against: str, model_key: str | None = None
) -> Markup:
    """The picture with its maps, objects and scores; runs no model."""
    if shown is None:
        require_visit(model_key)
        return Markup()
    number = nearest_layer(shown, layer)
    picture, analysis = shown.picture, shown.analysis
    category = None if against == ALL_OBJECTS else against
    mask = split_named(shown.split).mask(picture.id, category)
    target = Target(mask) if mask.any() and not mask.all() else None
    size = analysis.image.size
    maps: dict[str, Map] = {side: analysis.heatmap(side, number).resize(size) for side in SIDES}
    outlines = objects_svg(picture)
    on_top = {side: outlines + peak_svg(picture, maps[side], target) for side in SIDES}
    return render(
        "coco/picture",
        picture=picture,
        split=shown.split,
        model=analysis.name,
        trained=analysis.trained,
        layer=number,
        maps=viewer_html(analysis, number, None, COLORMAPS[0], on_top),
        counts=dict(sorted(Counter(found.category for found in picture.objects).items())),
        scores=_scores(shown, maps, mask, target, category),
    )


def _scores(
    shown: CocoLook,
    maps: dict[str, Map],
    mask: Mask,
    target: Target | None,
    category: str | None,
) -> Markup:
    """How well the maps find the objects, beside the baselines; or why that cannot be said."""
    picture = shown.picture
    if target is None:
        return render("coco/unscored", reason=nothing_to_score(picture, mask))
    analysis = shown.analysis
    baselines = baseline_maps(analysis.image.size, analysis.grid, picture.id)
    scores = {name: target.score(a) for name, a in (*maps.items(), *baselines.items())}
    return scorecard(scores, skip_reason(mask), float(mask.mean()), category, map_names(analysis))


def nothing_to_score(picture: CocoPicture, mask: Mask) -> str:
    """Why there is no telling objects from the rest of a picture."""
    if not picture.objects:
        return "Nothing is annotated in this picture, so there is nothing to score against."
    if mask.all():
        return "Objects cover the whole picture: there is nothing beside them to tell them from."
    if all(found.crowd for found in picture.objects):
        return "Only crowds are annotated in this picture: there is no object to score on."
    return "The objects in this picture are smaller than a pixel: there is nothing to score on."


def scorecard(
    scores: dict[str, Scores],
    reason: str | None,
    coverage: float,
    category: str | None,
    names: dict[str, str],
) -> Markup:
    """The metrics of both maps and of the baselines as a table, the best of each marked."""
    return render(
        "coco/scores",
        category=category,
        coverage=coverage,
        reason=reason,
        metrics={metric: METRIC_NAMES[metric] for metric in METRICS},
        map_names=names,
        scores={name: asdict(found) for name, found in scores.items()},
        best={m: max(getattr(found, m) for found in scores.values()) for m in METRICS},
    )


def objects_svg(picture: CocoPicture) -> Markup:
    """The objects' outlines, a group a category."""
    return render("coco/objects", picture=picture, path=_path)


def _path(found: CocoObject) -> str:
    """An outline as SVG writes paths."""
    return "".join(
        "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in polygon) + "Z" for polygon in found.outline
    )


def peak_svg(picture: CocoPicture, a: Map, target: Target | None) -> Markup:
    """Where a map peaks, and whether that hits an object; nothing for a flat map."""
    at = peak(a)
    if at is None or target is None:
        return Markup()
    outcome = target.pointing_game(a)
    return render(
        "coco/peak",
        picture=picture,
        x=at[1] + 0.5,
        y=at[0] + 0.5,
        tolerance=TOLERANCE,
        outcome=outcome,
        words=_OUTCOMES[outcome],
    )
