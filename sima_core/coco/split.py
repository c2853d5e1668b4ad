"""COCO on disk: its pictures, their objects, and which of them to show; built on pycocotools."""

import contextlib
import gc
import hashlib
import io
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from sima_core.coco.root import SPLITS, CocoError, annotations_file
from sima_core.files import cache_folder
from sima_core.lens.pictures import MAX_IMAGE_PIXELS, ImageError, load_image


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
        with _collecting_no_garbage():
            self._coco = _read(root, split)
            try:
                self._index()
            except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
                raise CocoError(_broken(split)) from None

    def _index(self) -> None:
        coco = self._coco
        self.ids: tuple[int, ...] = tuple(sorted(int(i) for i in coco.imgs))
        #: All category names of the split, in COCO's order.
        self.categories: tuple[str, ...] = tuple(str(c["name"]) for c in coco.cats.values())
        self._licences = {
            licence["id"]: Licence(str(licence.get("name", "")), str(licence.get("url", "")))
            for licence in coco.dataset.get("licenses") or ()
        }
        columns = {category: i for i, category in enumerate(coco.cats)}
        # One row a picture, so that filtering 118,000 of them is a matter of milliseconds.
        self._has = np.zeros((len(self.ids), len(columns)), dtype=bool)
        self._num_objects = np.zeros(len(self.ids), dtype=np.int64)
        self._largest = np.zeros(len(self.ids))
        self._file_names = []
        for row, image_id in enumerate(self.ids):
            image = coco.imgs[image_id]
            self._file_names.append(str(image["file_name"]))
            area = int(image["width"]) * int(image["height"])
            for annotation in coco.imgToAnns.get(image_id, ()):
                self._has[row, columns[annotation["category_id"]]] = True
                if not annotation.get("iscrowd"):
                    self._num_objects[row] += 1
                    share = float(annotation.get("area", 0)) / area
                    self._largest[row] = max(self._largest[row], share)

    def present(self) -> NDArray[np.bool_]:
        """Which pictures of `ids` lie on this disk, (pictures,)."""
        try:
            with os.scandir(self.root / self.split) as entries:
                names = {entry.name for entry in entries}
        except OSError:
            names = set()
        return np.fromiter((n in names for n in self._file_names), dtype=bool)

    def select(
        self,
        categories: Sequence[str] = (),
        num_objects: tuple[float, float] = (0, float("inf")),
        largest: tuple[float, float] = (0, 1),
    ) -> list[int]:
        """Ids of the pictures on this disk that show all of `categories`, in order.

        Args:
            num_objects: the fewest and the most objects, crowds not counted.
            largest: bounds of the largest object's share of the picture, from 0 to 1.
        """
        wanted = [self.categories.index(c) for c in categories]
        chosen = (
            self.present()
            & self._has[:, wanted].all(axis=1)
            & (self._num_objects >= num_objects[0])
            & (self._num_objects <= num_objects[1])
            & (self._largest >= largest[0])
            & (self._largest <= largest[1])
        )
        return [self.ids[row] for row in np.flatnonzero(chosen)]

    def path(self, image_id: int) -> Path:
        """Where the picture lies, or would lie.

        Raises:
            CocoError: there is no such picture in this split.
        """
        return self.root / self.split / Path(self._entry(image_id)["file_name"]).name

    def load(self, image_id: int) -> Image.Image:
        """The picture itself, RGB, at the size that its annotations are for.

        Raises:
            CocoError: there is no such picture, or its file is missing, broken or another's.
        """
        entry, path = self._entry(image_id), self.path(image_id)
        again = f"`python -m sima_core coco download --split {self.split} --ids {image_id}`"
        if not path.is_file():
            raise CocoError(f"Picture {image_id} is not on this disk: {again} fetches it.")
        try:
            image = load_image(path, upright=False)  # as the outlines are drawn
        except ImageError as error:
            raise CocoError(
                f"Picture {image_id} cannot be read. {error} Delete it and fetch it with {again}."
            ) from None
        if image.size != (entry["width"], entry["height"]):
            raise CocoError(
                f"Picture {image_id} has {image.width} × {image.height} pixels, but is annotated "
                f"at {entry['width']} × {entry['height']}. Delete it and fetch it with {again}."
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
                return kept.read_bytes()
        image = self.load(image_id)
        image.thumbnail((side, side))
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=82)
        with contextlib.suppress(OSError):  # a full or read-only disk: made again next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as part:
                part.write(encoded.getvalue())
            Path(part.name).replace(kept)
        return encoded.getvalue()

    def picture(self, image_id: int) -> CocoPicture:
        """What is known about a picture.

        Raises:
            CocoError: there is no such picture in this split, or an object's outline is broken.
        """
        entry = self._entry(image_id)
        objects = []
        for annotation in self._annotations(image_id):
            outline = self._outline(image_id, annotation)
            category = str(self._coco.cats[annotation["category_id"]]["name"])
            crowd = bool(annotation.get("iscrowd"))
            objects.append(CocoObject(category, crowd, float(annotation.get("area", 0)), outline))
        return CocoPicture(
            image_id,
            str(entry["file_name"]),
            int(entry["width"]),
            int(entry["height"]),
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
        entry = self._entry(image_id)
        union = np.zeros((int(entry["height"]), int(entry["width"])), dtype=bool)
        for annotation in self._annotations(image_id):
            name = self._coco.cats[annotation["category_id"]]["name"]
            if not annotation.get("iscrowd") and category in (None, name):
                union |= self._object_mask(image_id, annotation)
        return union

    def is_annotated(self, image_id: int) -> bool:
        """Whether the picture has any annotation."""
        return bool(self._annotations(image_id))

    def _entry(self, image_id: int) -> dict[str, Any]:
        if image_id not in self._coco.imgs:
            raise CocoError(f"There is no picture {image_id} in {self.split}.")
        entry: dict[str, Any] = self._coco.imgs[image_id]
        return entry

    def _annotations(self, image_id: int) -> list[dict[str, Any]]:
        self._entry(image_id)
        found: list[dict[str, Any]] = self._coco.imgToAnns.get(image_id, [])
        return found

    def _licence(self, number: int | None) -> Licence:
        return self._licences.get(number, Licence("unknown licence", ""))

    def _object_mask(self, image_id: int, annotation: dict[str, Any]) -> NDArray[np.bool_]:
        entry = self._entry(image_id)
        height, width = int(entry["height"]), int(entry["width"])
        try:
            # pycocotools trusts these numbers: others would crash it, or leave memory unset.
            runs = annotation["segmentation"]
            if height * width > MAX_IMAGE_PIXELS:
                raise ValueError
            if isinstance(runs, dict) and list(runs["size"]) != [height, width]:
                raise ValueError
            # As pycocotools does it, but all polygons of an object in one pass.
            encoded = self._coco.annToRLE(annotation)
            if isinstance(runs, dict) and _length(encoded["counts"]) != height * width:
                raise ValueError
            mask = np.asarray(rle.decode(encoded))
            if mask.shape != (height, width):
                raise ValueError
        except Exception:  # pycocotools raises whatever its parser meets
            raise CocoError(
                f"An object's outline in picture {image_id} is broken: {_fetch_again(self.split)}."
            ) from None
        return mask.view(bool)

    def _outline(
        self, image_id: int, annotation: dict[str, Any]
    ) -> tuple[NDArray[np.float64], ...]:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            with contextlib.suppress(ValueError, TypeError):
                return tuple(np.array(p, dtype=np.float64).reshape(-1, 2) for p in segmentation)
        mask = self._object_mask(image_id, annotation)  # run lengths, or broken
        contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_TC89_L1)
        return tuple(contour[:, 0].astype(np.float64) + 0.5 for contour in contours)


# One reader at a time: a large list takes gigabytes while it is parsed.
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


def credit(entry: dict[str, Any]) -> str:
    """The address to credit a picture of COCO's list by: its page at Flickr where that is known."""
    address = str(entry.get("flickr_url") or entry.get("coco_url") or "")
    if photo := re.search(r"static\.?flickr\.com/\d+/(\d+)_", address):
        return f"https://www.flickr.com/photo.gne?id={photo[1]}"
    return address if address.startswith(("https://", "http://")) else ""


def _length(counts: str | bytes) -> int:
    """Pixels that run lengths cover, in COCO's compressed form (rleFrString in its maskApi.c).

    Raises:
        ValueError: a negative length.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode() if isinstance(counts, str) else counts:
        code = byte - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the last byte of a number, and its sign
            value -= (code & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if min(runs, default=0) < 0:
        raise ValueError
    return sum(runs)


@contextlib.contextmanager
def _collecting_no_garbage() -> Iterator[None]:
    """Parsing makes millions of objects and no garbage; looking for some takes half the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _QuietCOCO(COCO):  # type: ignore[misc]  # pycocotools is untyped
    """pycocotools' COCO, which prints while it reads; stdout belongs to all threads."""

    def createIndex(self) -> None:  # noqa: N802  # pycocotools' name
        """Index pictures, annotations and categories by id."""
        self.anns = {a["id"]: a for a in self.dataset.get("annotations", ())}
        self.imgs = {i["id"]: i for i in self.dataset.get("images", ())}
        self.cats = {c["id"]: c for c in self.dataset.get("categories", ())}
        for annotation in self.anns.values():
            self.imgToAnns[annotation["image_id"]].append(annotation)
            self.catToImgs[annotation["category_id"]].append(annotation["image_id"])


def _read(root: Path, split: str) -> COCO:
    file = annotations_file(root, split)
    try:
        coco = _QuietCOCO()
        coco.dataset = json.loads(file.read_bytes())
        coco.createIndex()
    except FileNotFoundError:
        raise CocoError(f"There is no list of {split}: {_fetch_again(split)}.") from None
    except OSError as error:
        raise CocoError(f"The list of {split} cannot be read: {error.strerror}.") from None
    except (ValueError, AssertionError, KeyError, TypeError, AttributeError, RecursionError):
        raise CocoError(_broken(split)) from None
    if not coco.imgs:
        raise CocoError(_broken(split))
    return coco


def _broken(split: str) -> str:
    return f"The list of {split} is broken or half-written: {_fetch_again(split)}"


def _fetch_again(split: str) -> str:
    return f"fetch it anew with `python -m sima_core coco download --split {split} --annotations`"
