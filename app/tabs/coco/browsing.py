"""Which pictures of COCO there are to look at: splits, filters, and pages of tiles."""

import base64
import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from app.tabs.coco.examples import EXAMPLES
from app.templating import render
from sima_core.coco.root import NO_COCO, CocoError, available_splits, find_root
from sima_core.coco.split import CocoSplit, Filter, open_split
from sima_core.errors import InputError

#: Pictures on a page of the gallery.
PAGE = 24

#: What the two number filters offer: words, and the bounds they stand for; the first lets all pass.
NUM_OBJECTS: dict[str, tuple[float, float]] = {
    "Any number": (0, math.inf),
    "None": (0, 0),
    "1": (1, 1),
    "2 to 5": (2, 5),
    "6 to 15": (6, 15),
    "16 or more": (16, math.inf),
}
LARGEST: dict[str, tuple[float, float]] = {
    "Any size": (0, 1),
    "Under 5 % of the picture": (0, 0.05),
    "5 to 20 %": (0.05, 0.2),
    "20 to 50 %": (0.2, 0.5),
    "Over 50 %": (0.5, 1),
}

_FETCHING = (
    "A few pictures of COCO are being fetched for you: this takes about a minute, and they appear "
    "here by themselves. Everything else works meanwhile."
)
READING = "The list of pictures is being read; a long one takes up to half a minute."


@dataclass(frozen=True)
class Asked:
    """What a visitor wants to see."""

    #: A split by name; None before one is known.
    split: str | None
    filter: Filter

    @classmethod
    def of(cls, split: str | None, categories: Sequence[str], number: str, size: str) -> "Asked":
        """As the four drop-downs say it."""
        return cls(split, Filter(tuple(categories), NUM_OBJECTS[number], LARGEST[size]))

    def ids(self) -> tuple[CocoSplit, list[int]]:
        """The split, and the pictures in it that pass the filter.

        Raises:
            CocoError: as `split_named`.
        """
        split = split_named(self.split)
        # Another split, chosen a moment ago, may lack some of the categories.
        known = tuple(c for c in self.filter.categories if c in split.categories)
        return split, split.select(replace(self.filter, categories=known))


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


def split_choices(current: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Updates of the two drop-downs: the splits and categories on offer now."""
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


@dataclass(frozen=True)
class GalleryPage:
    """One page of tiles, or why there is none."""

    tiles: Markup
    number: int = 1
    #: How many pages there are.
    of: int = 1
    #: What stands between the pager's buttons.
    words: str = ""
    #: Whether there is anything to filter and to turn.
    usable: bool = True


def browse(asked: Asked, page: float) -> GalleryPage:
    """The page of the gallery nearest to `page`, counted from 1."""
    try:
        split, ids = asked.ids()
    except CocoError as error:
        # Where a split was chosen, the others are still there to choose.
        if asked.split:
            return GalleryPage(render("coco/gallery", tiles=[], sentence=str(error)))
        return GalleryPage(empty_card(str(error)), usable=False)
    pages = max(1, math.ceil(len(ids) / PAGE))
    number = min(max(int(page), 1), pages)
    tiles = [Tile.of(split, image_id) for image_id in ids[(number - 1) * PAGE : number * PAGE]]
    sentence = "" if tiles else "No picture passes these filters: loosen one of them."
    words = f"{len(ids):,} picture{'s' * (len(ids) != 1)} · page {number:,} of {pages:,}"
    return GalleryPage(render("coco/gallery", tiles=tiles, sentence=sentence), number, pages, words)


def empty_card(sentence: str) -> Markup:
    """What stands in the tab in place of pictures."""
    return render("coco/empty", sentence=sentence)


@dataclass(frozen=True)
class Tile:
    """One picture of the gallery: a small JPEG in base64, or what is wrong with its file."""

    id: int
    data: str = ""
    problem: str = ""

    @classmethod
    def of(cls, split: CocoSplit, image_id: int) -> "Tile":
        try:
            return cls(image_id, data=base64.b64encode(split.thumbnail(image_id)).decode())
        except CocoError as error:
            return cls(image_id, problem=str(error))


def parse_number(typed: str | None) -> int:
    """The picture that was typed, such as 139 or 000000000139.jpg.

    Raises:
        InputError: it is none.
    """
    digits = (typed or "").strip().removesuffix(".jpg")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):  # as in file names
        raise InputError("type the number of a picture, such as 139.")
    return int(digits)
