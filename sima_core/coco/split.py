"""COCO on disk: its pictures, their objects, and which of them to show; built on pycocotools."""

import contextlib
import hashlib
import io
import math
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sima_core.coco.listing import fetch_again, read_listing
from sima_core.coco.outlines import OutlineError, object_mask, object_outline
from sima_core.coco.reading import MAX_ADDRESS, MAX_ID
from sima_core.coco.root import JPEG_END, SPLITS, CocoError, annotations_file
from sima_core.files import cache_folder, open_regular, write_bytes
from sima_core.lens.pictures import ImageError, load_image

#: Bytes of the largest thumbnail; they have some ten thousand.
_MAX_THUMBNAIL_BYTES = 2**20


@dataclass(frozen=True)
class Licence:
    """The licence a picture is under, as COCO lists it."""

    name: str
    url: str


@dataclass(frozen=True)
class CocoObject:
    """One annotated object; `outline` has polygons of (x, y) points in pixels of the picture."""

    category: str
    crowd: bool
    area: float
    outline: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True)
class CocoPicture:
    """What COCO says about one picture."""

    id: int
    file_name: str
    width: int
    height: int
    licence: Licence
    #: The photo's page at Flickr, or another address of it; empty where none is known.
    credit: str
    objects: tuple[CocoObject, ...]

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories that occur, in alphabetical order."""
        return tuple(sorted({o.category for o in self.objects}))


@dataclass(frozen=True)
class Filter:
    """Which pictures to show; one that names nothing lets all pass. Bounds are inclusive."""

    #: Every one of them must be in the picture.
    categories: tuple[str, ...] = ()
    #: The fewest and the most objects, crowds not counted.
    num_objects: tuple[float, float] = (0, math.inf)
    #: Bounds of the largest object's share of the picture, from 0 to 1.
    largest: tuple[float, float] = (0, 1)


class CocoSplit:
    """The pictures of one split, in order of their ids, and the objects in them.

    Args:
        root: a folder with ``annotations/`` and a folder of pictures for each split.

    Raises:
        CocoError: the list of pictures is absent, broken or half-written.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.root = root
        self.split = split
        self._listing = listing = read_listing(root, split)
        self.ids: tuple[int, ...] = tuple(map(int, listing.pictures["id"]))
        #: All category names of the split, in COCO's order.
        self.categories: tuple[str, ...] = tuple(listing.categories.values())
        # One row a picture, so that filtering 118,000 of them is a matter of milliseconds.
        rows = np.searchsorted(listing.pictures["id"], listing.objects["picture"])
        columns = {category: i for i, category in enumerate(listing.categories)}
        self._has = np.zeros((len(self.ids), len(columns)), dtype=bool)
        self._has[rows, [columns[c] for c in listing.objects["category"].tolist()]] = True
        single = listing.objects["crowd"] == 0
        self._num_objects = np.bincount(rows[single], minlength=len(self.ids))
        self._largest = np.zeros(len(self.ids))
        sizes = listing.pictures["width"] * listing.pictures["height"]
        np.maximum.at(self._largest, rows[single], (listing.areas / sizes[rows])[single])

    def present(self) -> NDArray[np.bool_]:
        """Which pictures of `ids` lie on this disk, (pictures,)."""
        try:
            with os.scandir(self.root / self.split) as entries:
                names = {entry.name for entry in entries}
        except OSError:
            names = set()
        return np.fromiter((n in names for n in self._listing.file_names), dtype=bool)

    def select(self, wanted: Filter = Filter()) -> list[int]:
        """Ids of the pictures on this disk that pass the filter, in order.

        Raises:
            CocoError: the split has no such category.
        """
        for category in wanted.categories:
            if category not in self.categories:
                raise CocoError(f"There is no category {category!r} in {self.split}.")
        columns = [self.categories.index(c) for c in wanted.categories]
        fewest, most = wanted.num_objects
        low, high = wanted.largest
        chosen = (
            self.present()
            & self._has[:, columns].all(axis=1)
            & (self._num_objects >= fewest)
            & (self._num_objects <= most)
            & (self._largest >= low)
            & (self._largest <= high)
        )
        return [self.ids[row] for row in np.flatnonzero(chosen)]

    def path(self, image_id: int) -> Path:
        """Where the picture lies, or would lie.

        Raises:
            CocoError: there is no such picture in this split.
        """
        return self.root / self.split / Path(self._listing.file_names[self._row(image_id)]).name

    def load(self, image_id: int) -> Image.Image:
        """The picture itself, RGB, at the size that its annotations are for.

        Raises:
            CocoError: there is no such picture, or its file is missing, broken or another's.
        """
        path, annotated = self.path(image_id), self._size(image_id)
        again = f"`python -m sima_core coco download --split {self.split} --ids {image_id}`"
        if not path.is_file():
            raise CocoError(f"Picture {image_id} is not on this disk: {again} fetches it.")
        try:
            image = load_image(path, upright=False)  # as the outlines are drawn
        except ImageError as error:
            raise CocoError(
                f"Picture {image_id} cannot be read. {error} Delete it and fetch it with {again}."
            ) from None
        if image.size != annotated:
            raise CocoError(
                f"Picture {image_id} has {image.width} × {image.height} pixels, but is annotated "
                f"at {annotated[0]} × {annotated[1]}. Delete it and fetch it with {again}."
            )
        return image

    def thumbnail(self, image_id: int, side: int = 192) -> bytes:
        """A small JPEG, at most `side` pixels each way; made once and kept in the cache folder.

        Raises:
            CocoError: as `load` does.
        """
        where = hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:12]
        kept = cache_folder() / "thumbnails" / where / self.split / f"{image_id}-{side}.jpg"
        with contextlib.suppress(OSError):
            if kept.stat().st_mtime > self.path(image_id).stat().st_mtime:
                with open_regular(kept) as file:
                    found = file.read(_MAX_THUMBNAIL_BYTES)
                if _is_thumbnail(found, side):
                    return found
        image = self.load(image_id)
        image.thumbnail((side, side))
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=82)
        with contextlib.suppress(OSError):  # a full or read-only disk: made again next time
            kept.unlink(missing_ok=True)  # whatever it is that was no thumbnail
            write_bytes(kept, encoded.getvalue())
        return encoded.getvalue()

    def picture(self, image_id: int) -> CocoPicture:
        """What is known about a picture.

        Raises:
            CocoError: there is no such picture in this split, or an object's outline is broken.
        """
        (width, height), row = self._size(image_id), self._row(image_id)
        entry, annotations = self._listing.words(row)
        objects = []
        for annotation in annotations:
            try:
                outline = object_outline(annotation.get("segmentation"), height, width)
            except OutlineError:
                raise self._broken_outline(image_id) from None
            crowd, area = bool(annotation.get("iscrowd")), float(annotation.get("area", 0))
            objects.append(CocoObject(self._category(annotation), crowd, area, outline))
        return CocoPicture(
            image_id,
            self._listing.file_names[row],
            width,
            height,
            self._licence(entry.get("license")),
            credit(entry),
            tuple(objects),
        )

    def mask(self, image_id: int, category: str | None = None) -> NDArray[np.bool_]:
        """Where the objects are, (height, width): the union of all that are not crowds.

        Args:
            category: only objects of this one.

        Raises:
            CocoError: as `picture` does.
        """
        width, height = self._size(image_id)
        union = np.zeros((height, width), dtype=bool)
        _, annotations = self._listing.words(self._row(image_id))
        for annotation in annotations:
            if annotation.get("iscrowd") or category not in (None, self._category(annotation)):
                continue
            try:
                union |= object_mask(annotation.get("segmentation"), height, width)
            except OutlineError:
                raise self._broken_outline(image_id) from None
        return union

    def is_annotated(self, image_id: int) -> bool:
        """Whether the picture has any annotation."""
        row = self._row(image_id)
        return bool(self._listing.first[row] < self._listing.first[row + 1])

    def _row(self, image_id: int) -> int:
        row = self._listing.row(image_id)
        if row is None:
            number = image_id if -MAX_ID < image_id < MAX_ID else "of such a number"
            raise CocoError(f"There is no picture {number} in {self.split}.")
        return row

    def _size(self, image_id: int) -> tuple[int, int]:
        """Width and height as annotated."""
        row, pictures = self._row(image_id), self._listing.pictures
        return int(pictures["width"][row]), int(pictures["height"][row])

    def _category(self, annotation: dict[str, Any]) -> str:
        return self._listing.categories[annotation["category_id"]]

    def _licence(self, number: Any) -> Licence:
        known = self._listing.licences.get(number) if type(number) is int else None
        return Licence(*known) if known else Licence("unknown licence", "")

    def _broken_outline(self, image_id: int) -> CocoError:
        again = fetch_again(self.split)
        return CocoError(f"An object's outline in picture {image_id} is broken: {again}.")


# One reader at a time: a second visitor waits for the first one's list, and reads none anew.
_READING = threading.Lock()
# What was read, by root and split, and when its file had changed.
_OPEN: dict[tuple[Path, str], tuple[int, CocoSplit]] = {}


def open_split(root: Path, split: str) -> CocoSplit:
    """The split, read once and kept while its file stays as it is.

    Raises:
        CocoError: as `CocoSplit` does.
    """
    try:
        changed = annotations_file(root, split).stat().st_mtime_ns
    except OSError:
        changed = 0
    key = (root, split)
    if (kept := _OPEN.get(key)) and kept[0] == changed:  # without waiting for another's reading
        return kept[1]
    with _READING:
        if not ((kept := _OPEN.get(key)) and kept[0] == changed):
            _OPEN.pop(key, None)  # so that only one of them is in memory
            kept = _OPEN[key] = changed, CocoSplit(root, split)
            while len(_OPEN) > len(SPLITS):
                del _OPEN[next(iter(_OPEN))]
        return kept[1]


def _is_thumbnail(content: bytes, side: int) -> bool:
    """Whether a kept thumbnail is whole: a JPEG with its end, and no larger than it should be."""
    if not content.endswith(JPEG_END):
        return False
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            return max(image.size) <= side
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def credit(entry: dict[str, Any]) -> str:
    """The address to credit a picture of COCO's list by: its page at Flickr where that is known."""
    address = entry.get("flickr_url") or entry.get("coco_url")
    if not (isinstance(address, str) and len(address) <= MAX_ADDRESS and address.isprintable()):
        return ""
    if photo := re.search(r"static\.?flickr\.com/\d+/(\d+)_", address):
        return f"https://www.flickr.com/photo.gne?id={photo[1]}"
    return address if address.startswith(("https://", "http://")) else ""
