"""The COCO tab: browse pictures, see their objects, and score the heatmaps against them."""

import base64
import contextlib
import json
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from sima_core import Analysis, analyze
from sima_core.coco.download import download
from sima_core.coco.root import NO_COCO, CocoError, available_splits, default_root, find_root
from sima_core.coco.split import CocoPicture, CocoSplit, Filter, open_split
from sima_core.files import ASSETS
from sima_core.lens.heatmaps import COLORMAPS
from sima_core.lens.layers import SIDES
from sima_core.scoring.evaluation import baseline_maps, faithfulness
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

from .charts import Series, linear_chart
from .explore import DEFAULT_LAYER, Explore
from .viewer import escape, viewer, viewer_html
from .visitors import (
    COMPUTE,
    MAX_COST,
    cache_folder,
    capitalized,
    model_for,
    plainly,
    require_affordable,
    require_photo,
    whole,
)

PAGE = 24
RESOLUTION = 224
ALL_OBJECTS = "All objects"

#: Choices of the two number filters: words, and the bounds they stand for.
NUM_OBJECTS: dict[str, tuple[float, float]] = {
    "Any number": (0, float("inf")),
    "None": (0, 0),
    "1": (1, 1),
    "2 to 5": (2, 5),
    "6 to 15": (6, 15),
    "16 or more": (16, float("inf")),
}
LARGEST: dict[str, tuple[float, float]] = {
    "Any size": (0, 1),
    "Under 5 % of the picture": (0, 0.05),
    "5 to 20 %": (0.05, 0.2),
    "20 to 50 %": (0.2, 0.5),
    "Over 50 %": (0.5, 1),
}

_BASELINES = {"centre": "Centre", "random": "Random", "uniform": "Uniform"}
_FETCHING = (
    "A few pictures of COCO are being fetched for you: this takes about a minute, and they appear "
    "here by themselves. Everything else works meanwhile."
)
_READING = "The list of pictures is being read; a long one takes up to half a minute."
_GALLERY_SCRIPT = """
element.addEventListener('click', (event) => {
  const tile = event.target.closest('button[data-picture]');
  if (tile) trigger('click', { picture: Number(tile.dataset.picture) });
});
"""
_SCROLL_TO_PICTURE = (
    "() => document.querySelector('#coco-detail').scrollIntoView({behavior: 'smooth'})"
)
# Later than the event, whose result may only now give the place its height.
_SCROLL_TO_CURVES = (
    "() => setTimeout(() => document.querySelector('#coco-relied').scrollIntoView("
    "{behavior: 'smooth'}), 150)"
)
_RELYING = (
    '<section class="sl-card sl-score"><h3>Does the model rely on these tokens?</h3><p>The model '
    "looks at the picture again and again, with more and more of its tokens: this takes some "
    "seconds.</p></section>"
)


class Examples:
    """Fetches the hand-picked example pictures in the background, once."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def fetching(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin, where this is a Space without COCO; elsewhere nothing is fetched unasked."""
        if os.environ.get("SPACE_ID") and self._thread is None:
            self._thread = threading.Thread(target=self._fetch, daemon=True)
            self._thread.start()

    @staticmethod
    def _fetch() -> None:
        listed = json.loads((ASSETS / "coco_examples.json").read_text("utf-8"))
        ids = [image["id"] for image in listed["images"]]
        try:
            download(default_root(), listed["split"], ids, annotations=True, progress=False)
        except CocoError as error:
            print(f"the COCO examples could not be fetched: {error}")


EXAMPLES = Examples()


@dataclass(frozen=True)
class Shown:
    """A picture of COCO and what the model made of it, kept for a visit."""

    split: str
    picture: CocoPicture
    path: Path
    analysis: Analysis
    #: The visitor's model that made it.
    model_key: str | None


def split_named(name: str | None) -> CocoSplit:
    """The split of that name in the root that is there now, else the first that can be read.

    Raises:
        CocoError: there is none; says what to run.
    """
    root = find_root()
    if root is None:
        raise CocoError(_FETCHING if EXAMPLES.fetching else NO_COCO)
    splits = available_splits(root)
    if name in splits:
        return open_split(root, name)
    for other in splits[:-1]:
        with contextlib.suppress(CocoError):  # a broken list leaves the other splits
            return open_split(root, other)
    return open_split(root, splits[-1])


def matching(split: CocoSplit, categories: Sequence[str], number: str, size: str) -> list[int]:
    """Ids that pass the filters."""
    known = tuple(c for c in categories if c in split.categories)
    return split.select(Filter(known, NUM_OBJECTS[number], LARGEST[size]))


def browse(
    split_name: str | None, categories: Sequence[str], number: str, size: str, page: float
) -> tuple[str, int, int, str, dict[str, Any]]:
    """One page of the gallery: its tiles, its number, of how many, the pager's words, controls."""
    try:
        split = split_named(split_name)
        ids = matching(split, categories, number, size)
    except CocoError as error:
        sentence = escape(error).replace("`python", "<code>python").replace("`", "</code>")
        if split_name:  # the other splits are still there to choose
            said = f'<div class="sl-tiles"><p>{sentence}</p></div>'
            return said, 1, 1, "", gr.update(visible=True)
        return empty_card(sentence), 1, 1, "", gr.update(visible=False)
    pages = max(1, -(-len(ids) // PAGE))
    page = min(max(int(page), 1), pages)
    tiles = "".join(tile(split, image_id) for image_id in ids[(page - 1) * PAGE : page * PAGE])
    if not tiles:
        tiles = "<p>No picture passes these filters: loosen one of them.</p>"
    words = f"{len(ids):,} picture{'s' * (len(ids) != 1)} · page {page:,} of {pages:,}"
    return f'<div class="sl-tiles">{tiles}</div>', page, pages, words, gr.update(visible=True)


def empty_card(sentence: str) -> str:
    """What stands in the tab in place of pictures; HTML."""
    return f'<section class="sl-card sl-empty"><h3>COCO</h3><p>{sentence}</p></section>'


def tile(split: CocoSplit, image_id: int) -> str:
    """One picture of the gallery, as a button."""
    try:
        data = base64.b64encode(split.thumbnail(image_id)).decode()
    except CocoError as error:
        return f'<span class="sl-broken" title="{escape(error)}">{image_id}: unreadable</span>'
    return (
        f'<button type="button" data-picture="{image_id}" title="{image_id}">'
        f'<img src="data:image/jpeg;base64,{data}" alt="COCO picture {image_id}"></button>'
    )


def jumped(number: str, split_name: str | None, model_key: str | None) -> Shown:
    """Show the picture whose number was typed, such as 139 or 000000000139.jpg."""
    digits = (number or "").strip().removesuffix(".jpg")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):  # as in file names
        raise ValueError("type the number of a picture, such as 139.")
    return show(int(digits), split_name, model_key)


def show(image_id: int, split_name: str | None, model_key: str | None) -> Shown:
    """Run the model on a picture of COCO."""
    split = split_named(split_name)
    picture = split.picture(image_id)
    model, image = model_for(model_key), split.load(picture.id)
    require_affordable(model, image, RESOLUTION)
    analysis = analyze(model, image, RESOLUTION)
    return Shown(split.split, picture, split.path(picture.id), analysis, model_key)


def clicked(event: gr.EventData, split_name: str | None, model_key: str | None) -> Shown:
    """Show the picture whose tile was clicked."""
    return show(int(event.picture), split_name, model_key)


def surprise(
    split_name: str | None,
    categories: Sequence[str],
    number: str,
    size: str,
    model_key: str | None,
) -> Shown:
    """Show any picture that passes the filters."""
    ids = matching(split_named(split_name), categories, number, size)
    if not ids:
        raise ValueError("no picture passes these filters: loosen one of them.")
    return show(random.choice(ids), split_name, model_key)


def choices(shown: Shown, wanted: float) -> tuple[Any, ...]:
    """The controls for another picture: its layers and categories; the old curves go."""
    depth = max(shown.analysis.norms)
    annotated = sorted({o.category for o in shown.picture.objects if not o.crowd})
    return (
        gr.update(maximum=depth, value=min(int(wanted), depth)),
        gr.update(choices=[ALL_OBJECTS, *annotated], value=ALL_OBJECTS),
        gr.update(visible=True),
        "",
    )


def draw(shown: Shown | None, layer: float | None, against: str) -> str:
    """The picture with its maps, objects and scores; runs no model."""
    if shown is None:
        return ""
    layer = min(whole(layer, DEFAULT_LAYER), max(shown.analysis.norms))
    picture, analysis = shown.picture, shown.analysis
    split = split_named(shown.split)
    category = None if against == ALL_OBJECTS else against
    mask = split.mask(picture.id, category)
    reason = skip_reason(mask)
    maps: dict[str, Map] = {
        side: analysis.heatmap(side, layer).resize(analysis.image.size) for side in SIDES
    }
    target = Target(mask) if mask.any() and not mask.all() else None
    on_top = {}
    for side in SIDES:
        at = peak(maps[side])
        outcome = target.pointing_game(maps[side]) if target else ""
        on_top[side] = objects_svg(picture) + peak_svg(picture, at, outcome)
    maps |= baseline_maps(analysis, picture.id)
    if not picture.objects:
        card = "<p>Nothing is annotated in this picture, so there is nothing to score against.</p>"
    elif target is None:
        card = f"<p>{nothing_to_score(picture, mask)}</p>"
    else:
        scores = {name: target.score(a) for name, a in maps.items()}
        names = map_names(analysis)
        card = scorecard(scores, reason, float(mask.mean()), against, names)
    return (
        facts_html(shown, layer)
        + viewer_html(analysis, layer, None, COLORMAPS[0], on_top)
        + toggles_html(picture)
        + f'<section class="sl-card sl-score"><h3>How well the maps find the objects</h3>{card}'
        "</section>"
    )


def nothing_to_score(picture: CocoPicture, mask: Mask) -> str:
    """Why there is no telling objects from the rest of an annotated picture."""
    if mask.all():
        return "Objects cover the whole picture: there is nothing beside them to tell them from."
    if all(found.crowd for found in picture.objects):
        return "Only crowds are annotated in this picture: there is no object to score on."
    return "The objects in this picture are smaller than a pixel: there is nothing to score on."


def facts_html(shown: Shown, layer: int) -> str:
    """One line of facts: the picture, its licence and whom to credit."""
    picture = shown.picture
    origin = shown.analysis.provenance
    facts = [
        f"<b>{picture.id}</b> of {shown.split}",
        f"{picture.width} × {picture.height}",
        f"{escape(origin.architecture)}, layer <b>{layer}</b>"
        + ("" if origin.trained else " <mark>untrained weights</mark>"),
        link(picture.licence.url, picture.licence.name or "licence"),
    ]
    if picture.credit:
        facts.append(link(picture.credit, "photographer and source"))
    return f'<p class="sl-summary">{"".join(f"<span>{f}</span>" for f in facts)}</p>'


def link(address: str, words: str) -> str:
    """A link to another site; the words alone where the address is none."""
    if not address.startswith(("http://", "https://")):
        return escape(words)
    return f'<a href="{escape(address)}" target="_blank" rel="noopener">{escape(words)}</a>'


def objects_svg(picture: CocoPicture) -> str:
    """The objects' outlines, a group a category."""
    groups = ""
    for number, category in enumerate(picture.categories):
        paths = ""
        for found in picture.objects:
            if found.category != category:
                continue
            shape = "".join(
                "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in polygon) + "Z"
                for polygon in found.outline
            )
            paths += f'<path d="{shape}"{_CROWD * found.crowd}/>'
        groups += f'<g class="sl-k{number % 8}" data-category="{escape(category)}">{paths}</g>'
    return (
        f'<svg class="sl-objects" viewBox="0 0 {picture.width} {picture.height}" '
        f'preserveAspectRatio="none" aria-hidden="true">{groups}</svg>'
    )


def peak_svg(picture: CocoPicture, at: tuple[int, int] | None, outcome: str) -> str:
    """The map's maximum, the disc of the pointing game's tolerance, and the outcome in words."""
    if at is None or not outcome:
        return ""
    y, x = at[0] + 0.5, at[1] + 0.5
    return (
        f'<svg class="sl-peak sl-{outcome}" viewBox="0 0 {picture.width} {picture.height}" '
        f'preserveAspectRatio="none" aria-hidden="true">'
        f'<circle class="sl-halo" cx="{x}" cy="{y}" r="{TOLERANCE}"/>'
        f'<circle cx="{x}" cy="{y}" r="{TOLERANCE}"/><circle class="sl-dot" cx="{x}" cy="{y}" '
        f'r="2.5"/></svg><span class="sl-verdict sl-{outcome}">{_OUTCOMES[outcome]}</span>'
    )


_CROWD = ' class="sl-crowd"'
_OUTCOMES = {"hit": "✓ peak hits", "miss": "✗ peak misses", "skipped": "not scored"}


def toggles_html(picture: CocoPicture) -> str:
    """Switches for the outlines of each category."""
    counts = {c: sum(o.category == c for o in picture.objects) for c in picture.categories}
    chips = "".join(
        f'<label class="sl-chip sl-k{number % 8}"><input type="checkbox" checked '
        f'data-toggle="{escape(category)}"><i></i>{escape(category)} <small>{count}</small></label>'
        for number, (category, count) in enumerate(counts.items())
    )
    if not chips:
        return ""
    return (
        '<div class="sl-chips" role="group" aria-label="Outlines to show"><span>Outlines</span>'
        f'<label class="sl-chip"><input type="checkbox" checked data-toggle="*"><i></i>all</label>'
        f"{chips}</div>"
    )


def map_names(analysis: Analysis) -> dict[str, str]:
    """What the model's maps and the baselines are called on the page."""
    return {side: analysis.symbol(side) for side in SIDES} | _BASELINES


def scorecard(
    scores: Mapping[str, Scores],
    reason: str | None,
    coverage: float,
    against: str,
    names: Mapping[str, str],
) -> str:
    """The metrics of both maps and of the baselines as a table, the best of each marked."""
    best = {m: max(getattr(s, m) for s in scores.values()) for m in METRICS}
    head = "".join(f"<th>{capitalized(METRIC_NAMES[m])}</th>" for m in METRICS)
    rows = ""
    for name, found in scores.items():
        cells = ""
        for metric in METRICS:
            value = getattr(found, metric)
            if metric == "pointing_game":
                outcome = "skipped" if reason else "hit" if value else "miss"
                mark = {"hit": "✓ hit", "miss": "✗ miss", "skipped": "skipped"}[outcome]
                cells += f'<td class="sl-{outcome}">{mark}</td>'
            else:
                number = f"{value:.3f}" if metric != "energy_lift" else f"{value:.2f} ×"
                cells += f"<td>{f'<b>{number}</b>' if value == best[metric] else number}</td>"
        rows += f"<tr><th>{names[name]}</th>{cells}</tr>"
    what = "the objects" if against == ALL_OBJECTS else f"“{escape(against)}”"
    note = ""
    if reason:
        bound = "under 1 %" if reason == "small" else "over 80 %"
        note = f" That is {bound}, so <code>evaluate</code> leaves this picture out."
    return (
        f"<p>Scored against {what}, which cover {100 * coverage:.1f} % of the picture.{note}</p>"
        f'<div class="sl-wide"><table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div>"
        '<p class="sl-fine"><b>Pointing game</b>: does the brightest spot, give or take 15 pixels, '
        "lie on an object? <b>Energy</b>: the share of the map’s total that lies on objects; "
        "<b>lift</b>: that over an even map’s. <b>Rank accuracy</b>: of as many brightest pixels "
        "as objects have, the share on objects. <b>AUC</b>: how often a pixel on an object is "
        "brighter than one beside it (0.5 is chance). Bold: the best. <b>Centre</b> is a blob in "
        "the middle of the picture, where photographers put things: the one to beat.</p>"
    )


def rely_on(shown: Shown | None, layer: float | None) -> str:
    """Insertion and deletion curves of both maps, with tokens in random order beside them."""
    if shown is None:
        raise ValueError("choose a picture first.")
    layer = min(whole(layer, DEFAULT_LAYER), max(shown.analysis.norms))
    model = model_for(shown.model_key)
    require_affordable(model, shown.analysis.image, RESOLUTION, MAX_COST / 60)
    found = faithfulness(model, shown.analysis, shown.picture.id, layer)
    names = map_names(shown.analysis)
    charts = ""
    for curve, title in _CURVES.items():
        series = [
            Series(
                f"{names[name]} ({of[curve].auc:.2f})",
                list(zip(of[curve].shares, of[curve].probabilities, strict=True)),
                dashed=name in ("random", "centre"),
                marks=False,
                color={"query": 0, "key": 1, "centre": 2, "random": 4}[name],
            )
            for name, of in found.items()
        ]
        areas = ", ".join(s.name for s in series)
        chart = linear_chart(series, "share of tokens", "probability", f"{title}: {areas}")
        charts += f"<div><h4>{title}</h4>{chart}</div>"
    return (
        f'<section class="sl-card sl-score"><h3>Does the model rely on these tokens?</h3>'
        f"<p>Tokens of layer {layer}’s maps come into an empty picture (insertion) or leave the "
        "whole one (deletion), brightest first, while the probability of the model’s own answer, "
        f"<b>{escape(shown.analysis.predictions[0].label)}</b>, is followed. A map that matters "
        "to the model rises early and falls early; one that does no better than random order says "
        f'little about the answer.</p><div class="sl-grid-of-charts">{charts}</div>'
        '<p class="sl-fine">In brackets: the area under the curve; higher is better for '
        "insertion, lower for deletion. Empty means blurred, or the training images’ mean colour "
        "(RISE, Petsiuk et al. 2018).</p></section>"
    )


_CURVES = {
    "insertion_blurred": "Insertion into a blurred picture",
    "deletion_zero": "Deletion to mean colour",
    "insertion_zero": "Insertion into mean colour",
    "deletion_blurred": "Deletion to blur",
}


def open_in_explore(shown: Shown | None) -> tuple[str, dict[str, Any]]:
    """A copy of the picture for the Explore tab, and the way there."""
    if shown is None:
        raise ValueError("choose a picture first.")
    photo = require_photo(shown.path)
    folder = Path(tempfile.mkdtemp(dir=cache_folder()))
    return shutil.copy(photo, folder / f"coco-{shown.picture.id}.jpg"), gr.update(
        selected="explore-tab"
    )


def split_choices(current: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The splits and categories on offer now."""
    try:
        root = find_root()
        split = split_named(current)
    except CocoError:
        return gr.update() if current else gr.update(visible=False), gr.update()
    assert root is not None
    splits = available_splits(root)
    return (
        gr.update(choices=splits, value=split.split, visible=len(splits) > 1),
        gr.update(choices=sorted(split.categories)),
    )


def build(tab: gr.Tab, tabs: gr.Tabs, explore: Explore) -> None:
    """Lay the tab out inside the current Blocks."""
    EXAMPLES.start()
    shown = gr.State()  # a Shown
    page = gr.State(1)
    wanted = gr.State(DEFAULT_LAYER)  # the layer chosen, which a shallower model may not have
    with gr.Column(elem_id="coco"):
        with gr.Column(elem_id="coco-filters") as filters:
            split = gr.Dropdown([], label="Split", filterable=False, visible=False)
            categories = gr.Dropdown(
                [], multiselect=True, label="Shows all of these", elem_id="coco-categories"
            )
            number = gr.Dropdown(
                list(NUM_OBJECTS), value="Any number", label="Objects", filterable=False
            )
            size = gr.Dropdown(
                list(LARGEST), value="Any size", label="Largest object", filterable=False
            )
            jump = gr.Textbox(label="Picture number", placeholder="139", max_lines=1)
            with gr.Row():
                go = gr.Button("Show", size="sm", min_width=90)
                lucky = gr.Button("Surprise me", size="sm", min_width=120)
        with gr.Column(elem_id="coco-result"):
            gallery = gr.HTML(
                empty_card(_READING), js_on_load=_GALLERY_SCRIPT, elem_id="coco-gallery"
            )
            with gr.Row(elem_id="coco-pager") as pager:
                back = gr.Button("‹ Back", size="sm", min_width=80)
                words = gr.HTML(elem_id="coco-words")
                forth = gr.Button("Next ›", size="sm", min_width=80)
        with gr.Column(elem_id="coco-settings", visible=False) as settings:
            layer = gr.Slider(1, 12, DEFAULT_LAYER, step=1, precision=0, label="Layer")
            against = gr.Dropdown(
                [ALL_OBJECTS], value=ALL_OBJECTS, label="Score against", filterable=False
            )
            carry = gr.Button("Open in Explore", variant="primary")
            rely = gr.Button("Does the model rely on them?")
        with gr.Column(elem_id="coco-detail"):
            detail = viewer("")
            relied = gr.HTML(elem_id="coco-relied")
    timer = gr.Timer(3, active=EXAMPLES.fetching)

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    run: dict[str, Any] = {
        **COMPUTE,
        "api_visibility": "private",
        "show_progress_on": detail,
        "trigger_mode": "always_last",
    }
    asked = [split, categories, number, size]

    def turn(by: int | None) -> Any:
        def turned(
            split_name: str | None, names: Sequence[str], count: str, share: str, at: float
        ) -> tuple[Any, ...]:
            tiles, now, pages, said, shown_or_not = browse(
                split_name, names, count, share, 1 if by is None else at + by
            )
            back_on, forth_on = gr.update(interactive=now > 1), gr.update(interactive=now < pages)
            return tiles, now, said, shown_or_not, shown_or_not, back_on, forth_on

        return plainly(turned)

    listing = [gallery, page, words, filters, pager, back, forth]
    tab.select(plainly(split_choices), split, [split, categories], **quiet).then(
        turn(0), [*asked, page], listing, **quiet
    )
    gr.on(
        [categories.input, number.input, size.input],
        turn(None), [*asked, page], listing, trigger_mode="always_last", **quiet,
    )  # fmt: skip
    split.input(
        turn(None), [*asked, page], listing, trigger_mode="always_last",
        **{**quiet, "show_progress": "minimal", "show_progress_on": words},  # it may be long
    )  # fmt: skip
    back.click(turn(-1), [*asked, page], listing, **quiet)
    forth.click(turn(1), [*asked, page], listing, **quiet)
    timer.tick(plainly(split_choices), split, [split, categories], **quiet).then(
        turn(0), [*asked, page], listing, **quiet
    ).then(lambda: gr.Timer(active=EXAMPLES.fetching), None, timer, **quiet)

    for event in (
        gallery.click(plainly(clicked), [split, explore.model_key], shown, **run),
        gr.on(
            [jump.submit, go.click], plainly(jumped), [jump, split, explore.model_key], shown, **run
        ),
        lucky.click(plainly(surprise), [*asked, explore.model_key], shown, **run),
    ):
        event.success(
            choices, [shown, wanted], [layer, against, settings, relied], **quiet
        ).success(plainly(draw), [shown, layer, against], detail, **quiet).success(
            None, js=_SCROLL_TO_PICTURE
        )
    layer.input(lambda number: number, layer, wanted, **quiet)
    gr.on(
        [layer.change, against.input],
        plainly(draw), [shown, layer, against], detail, trigger_mode="always_last", **quiet,
    )  # fmt: skip
    relying = rely.click(lambda: _RELYING, None, relied, **quiet).then(
        plainly(rely_on), [shown, layer], relied, **{**run, "show_progress_on": relied}
    )
    relying.success(None, js=_SCROLL_TO_CURVES)
    relying.failure(lambda: "", None, relied, **quiet)
    rely.click(None, js=_SCROLL_TO_CURVES)
    carried = carry.click(plainly(open_in_explore), shown, [explore.photo, tabs], **quiet)
    carried.success(None, js="() => window.scrollTo({ top: 0 })")
    explore.look_after(carried)
