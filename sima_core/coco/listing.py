"""A split's list of pictures and objects: its columns in memory, its words left on the disk."""

import io
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sima_core.coco.reading import MAX_PIECE, OBJECT_COLUMNS, PICTURE_COLUMNS, read
from sima_core.coco.root import CocoError, annotations_file
from sima_core.errors import UnreadableError
from sima_core.files import open_regular
from sima_core.lens.pictures import MAX_IMAGE_PIXELS
from sima_core.sandbox.sandbox import BrokenError, Limits, Sandbox, TooLargeError, TooSlowError

#: Bytes of the largest list; that of train2017 has 450 MB.
MAX_LIST_BYTES = 2 * 2**30
#: Up to so many bytes a list is read in this process, which takes milliseconds.
SMALL_LIST_BYTES = 2**20
#: Seconds for a list, and bytes that are read in a second even on a busy machine.
SECONDS, BYTES_PER_SECOND = 8.0, 8 * 2**20
#: What reading may take beyond the warm process: a piece of the list, and the columns.
MEMORY_BYTES = 512 * 2**20
#: The most objects in one picture, and their pixels together: each is as large as the picture.
MAX_OBJECTS, MAX_OBJECT_PIXELS = 5000, 2**31

_SANDBOX = Sandbox("sima_core.coco.reading")
_Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """What a list says of pictures and objects, by columns, in order of the pictures' ids."""

    file: Path
    #: What tells whether the file is still the one that was read.
    version: tuple[int, ...]
    #: By the names of `PICTURE_COLUMNS`, (pictures,) each.
    pictures: Mapping[str, _Numbers]
    file_names: tuple[str, ...]
    #: By the names of `OBJECT_COLUMNS`, (objects,) each, a picture's objects beside each other.
    objects: Mapping[str, _Numbers]
    #: (objects,).
    areas: NDArray[np.float64]
    #: By id, in the list's order.
    categories: Mapping[int, str]
    #: Name and address by id.
    licences: Mapping[int, tuple[str, str]]

    @cached_property
    def first(self) -> _Numbers:
        """Where each picture's objects begin among `objects`, and where the last one's end."""
        ids = self.pictures["id"]
        last = [len(self.areas)]
        return np.append(np.searchsorted(self.objects["picture"], ids), last)

    def row(self, image_id: int) -> int | None:
        """The place of a picture; None if it is not listed."""
        ids = self.pictures["id"]
        if type(image_id) is not int or not 0 <= image_id < 2**63:
            return None
        found = int(np.searchsorted(ids, image_id))
        return found if found < len(ids) and ids[found] == image_id else None

    def words(self, row: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """All that the list says of one picture, and of each of its objects.

        Raises:
            CocoError: the list has changed since it was read, or the picture has too many objects.
        """
        first, last = self.first[row], self.first[row + 1]
        area = self.pictures["width"][row] * self.pictures["height"][row]
        lengths = self.objects["length"][first:last]
        if (
            last - first > MAX_OBJECTS
            or (last - first) * area > MAX_OBJECT_PIXELS
            or lengths.sum() > MAX_PIECE
        ):
            raise CocoError(f"Picture {self.pictures['id'][row]} has too many objects to be shown.")
        try:
            with open_regular(self.file) as file:
                if _version(file) != self.version:
                    raise ValueError
                picture = _piece(file, self.pictures["begin"][row], self.pictures["length"][row])
                begins = self.objects["begin"][first:last]
                return picture, [_piece(file, *at) for at in zip(begins, lengths, strict=True)]
        except (OSError, ValueError, RecursionError):
            raise CocoError("The list of pictures has changed meanwhile: try again.") from None


def read_listing(root: Path, split: str) -> Listing:
    """The list of a split, by columns.

    Raises:
        CocoError: it is absent, broken or half-written, too large, or names no picture.
    """
    file = annotations_file(root, split)
    if not file.exists():
        raise CocoError(f"There is no list of {split}: {fetch_again(split)}.")
    try:
        with open_regular(file) as source:
            said, data = read_columns(source, pictures_only=False)
            version = _version(source)
    except UnreadableError as error:
        raise CocoError(f"The list of {split} cannot be read. {error}") from None
    except TooSlowError:
        raise CocoError(
            f"The list of {split} takes too long to read: {fetch_again(split)}."
        ) from None
    except TooLargeError:
        raise CocoError(
            f"The list of {split} is too large to read: {fetch_again(split)}."
        ) from None
    except BrokenError:
        raise broken_list(split) from None
    if "wrong" in said:
        raise broken_list(split, said["wrong"])
    return _listing(split, file, version, said, data)


def read_columns(file: BinaryIO, pictures_only: bool) -> tuple[dict[str, Any], memoryview]:
    """What `reading.read` says and writes of a list, in a process of its own unless it is short.

    Raises:
        TooSlowError, TooLargeError, BrokenError: it came to no result.
    """
    size = os.fstat(file.fileno()).st_size
    if size > MAX_LIST_BYTES:
        raise TooLargeError
    if size <= SMALL_LIST_BYTES:
        out = io.BytesIO()
        return read(io.BytesIO(file.read(SMALL_LIST_BYTES)), out, pictures_only), out.getbuffer()
    limits = Limits(SECONDS + size / BYTES_PER_SECOND, MEMORY_BYTES, MEMORY_BYTES)
    result = _SANDBOX.run("sima_core.coco.reading:read", file, limits, pictures_only=pictures_only)
    return result.answer, result.data


def columns_of(
    said: Mapping[str, int], data: memoryview
) -> tuple[dict[str, _Numbers], dict[str, _Numbers], NDArray[np.float64], dict[str, Any]]:
    """The columns of pictures and objects, the objects' areas, and texts, as `read` wrote them."""
    counts = [said["pictures"]] * len(PICTURE_COLUMNS) + [said["objects"]] * len(OBJECT_COLUMNS)
    ends = np.cumsum([0, *counts])
    numbers = np.frombuffer(data, np.int64, ends[-1])
    columns = [numbers[a:b] for a, b in itertools.pairwise(ends)]
    pictures = dict(zip(PICTURE_COLUMNS, columns, strict=False))
    objects = dict(zip(OBJECT_COLUMNS, columns[len(PICTURE_COLUMNS) :], strict=True))
    areas = np.frombuffer(data, np.float64, said["objects"], 8 * int(ends[-1]))
    texts = json.loads(bytes(data[8 * (int(ends[-1]) + said["objects"]) :]))
    return pictures, objects, areas, texts


def _listing(
    split: str, file: Path, version: tuple[int, ...], said: Mapping[str, int], data: memoryview
) -> Listing:
    """The columns in order, once they fit each other.

    Raises:
        CocoError: they do not.
    """
    pictures, objects, areas, texts = columns_of(said, data)
    order = np.argsort(pictures["id"], kind="stable")
    by_picture = np.argsort(objects["picture"], kind="stable")
    names: list[str] = texts["names"]
    found = Listing(
        file,
        version,
        {name: column[order] for name, column in pictures.items()},
        tuple(names[i] for i in order),
        {name: column[by_picture] for name, column in objects.items()},
        areas[by_picture],
        dict(texts["categories"]),
        {number: (name, address) for number, name, address in texts["licences"]},
    )
    for wrong, what in (
        (not names, "no pictures"),
        (_repeats(pictures["id"]), "two pictures of one id"),
        (_repeats(objects["id"]), "two objects of one id"),
        (len(found.categories) < len(texts["categories"]), "two categories of one id"),
        (not _all_in(objects["picture"], pictures["id"]), "objects in no picture"),
        (not _all_in(objects["category"], list(found.categories)), "objects in no category"),
        (
            bool((pictures["width"] * pictures["height"] > MAX_IMAGE_PIXELS).any()),
            "a picture's size",
        ),
    ):
        if wrong:
            raise broken_list(split, what)
    return found


def _repeats(ids: _Numbers) -> bool:
    return len(np.unique(ids)) < len(ids)


def _all_in(ids: _Numbers, known: Any) -> bool:
    return bool(np.isin(ids, np.asarray(known, np.int64)).all())


def _version(file: BinaryIO) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _piece(file: BinaryIO, begin: int, length: int) -> dict[str, Any]:
    file.seek(begin)
    found = json.loads(file.read(length))
    if not isinstance(found, dict):
        raise ValueError
    return found


def broken_list(split: str, what: str = "") -> CocoError:
    """What to raise where the list is not what it should be.

    Args:
        what: is wrong, in a few words.
    """
    words = f" (wrong: {what})" if what else ""
    return CocoError(f"The list of {split} is broken or half-written: {fetch_again(split)}{words}.")


def fetch_again(split: str) -> str:
    """What to do about a list that is absent or broken, as the end of a sentence."""
    return f"fetch it anew with `python -m sima_core coco download --split {split} --annotations`"
