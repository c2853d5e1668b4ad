"""Labelled pictures to train on: folders or tar files, decoded once, held-out ones apart."""

import dataclasses
import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data import ImageNetInfo
from tqdm import tqdm

from sima_core.lens.pictures import ImageError, load_image
from sima_core.machine import available_memory, cpu_quota
from sima_core.training.recipe import STORED_SIDE
from sima_core.training.sources import Entry, TrainingDataError, encoded_pictures
from sima_core.words import plain

#: Memory in bytes that must stay free beside the decoded pictures.
MEMORY_RESERVE = 2 * 2**30
#: Cosine of two signatures from which on two pictures count as the same. Between 0.95 and
#: 0.97 true copies lie among pictures that are only alike; leaving out too many does no harm.
DUPLICATE_SIMILARITY = 0.95
#: So many pictures that cannot be read are named; the others are only counted.
NAMED_PROBLEMS = 10
#: So many that cannot be read are enough to give up, where they are more than can be.
MAX_UNREADABLE = 500
#: Where no source says what is held out, one picture in so many is, chosen by its name.
HELD_OUT_EVERY = 20
#: The most classes; ImageNet-21k has 21,841.
MAX_CLASSES = 50_000

_SIGNATURE_SIDE = 16
#: The most pictures, and bytes of them as they were read, that wait to be decoded.
_CHUNK, _CHUNK_BYTES = 2048, 128 * 2**20


@dataclass(frozen=True)
class PictureSet:
    """Decoded pictures and their classes."""

    #: uint8 (height, width, 3) each.
    pixels: list[NDArray[np.uint8]]
    #: int64, an index into `TrainingData.class_ids` for each picture.
    labels: NDArray[np.int64]
    #: The source that each picture is from.
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Image.Image:
        """One picture, RGB."""
        return Image.fromarray(self.pixels[index])

    def without(self, left_out: NDArray[np.bool_]) -> "PictureSet":
        """The same without the pictures where `left_out` is true."""
        kept = np.flatnonzero(~left_out)
        return PictureSet(
            [self.pixels[i] for i in kept], self.labels[kept], tuple(self.sources[i] for i in kept)
        )


@dataclass(frozen=True)
class TrainingData:
    """One label space over all sources, and the pictures to train on and to hold out."""

    #: Sorted. A WordNet id means the same everywhere; other folder names get their source before
    #: them, such as ``caltech101/ant``.
    class_ids: tuple[str, ...]
    #: For people, in the same order.
    class_names: tuple[str, ...]
    training: PictureSet
    held_out: PictureSet
    #: Near-duplicates of the other part that were left out of each part.
    training_duplicates: int
    held_out_duplicates: int
    unreadable: int

    def labels_json(self) -> list[dict[str, str]]:
        """What goes into the `labels.json` beside the weights."""
        pairs = zip(self.class_ids, self.class_names, strict=True)
        return [{"id": id_, "name": name} for id_, name in pairs]

    def summary(self) -> str:
        """In one sentence, for people."""
        by_source = {s: self.training.sources.count(s) for s in sorted(set(self.training.sources))}
        parts = ", ".join(f"{count:,} of {source}" for source, count in by_source.items())
        unread = f"; {self.unreadable:,} could not be read" if self.unreadable else ""
        return (
            f"{len(self.training):,} pictures to train on ({parts}) and {len(self.held_out):,} "
            f"held out, in {len(self.class_ids)} classes; left out as near-duplicates of the "
            f"other part: {self.training_duplicates:,} and {self.held_out_duplicates:,}{unread}"
        )

    def fingerprint(self) -> str:
        """The same for the same classes and pictures in the same order: 16 hexadecimal digits.

        Of each picture only the middle row is read, which tells pictures apart and takes no time.
        """
        digest = hashlib.sha256("\n".join(self.class_ids).encode())
        for part in (self.training, self.held_out):
            digest.update(part.labels.tobytes())
            for pixels in part.pixels:
                digest.update(pixels[len(pixels) // 2].tobytes())
        return digest.hexdigest()[:16]


def read_training_data(
    sources: Sequence[Path], similarity: float = DUPLICATE_SIMILARITY
) -> TrainingData:
    """Read and decode all pictures of `sources`, and take out what lies in both parts.

    A source is a folder or a tar file of ``<class>/<picture>``. What is held out is told by a
    folder ``train`` or ``val`` above the classes, or by a source's name that ends so
    (``flowers-val.tar``); where nothing is said to be held out, about one picture in twenty is. A
    class that several sources have under one WordNet id is one class.

    Near-duplicates (`near_duplicates`) of held-out pictures are not trained on. Neither are they
    counted as held out: weights to start from may have seen their other copy.

    Raises:
        TrainingDataError: no such source, no pictures in classes, or more than fits in memory.
    """
    entries, pixels, unreadable = _read(sources)
    class_ids = tuple(sorted({entry.class_id for entry in entries}))
    if len(class_ids) < 2:
        raise TrainingDataError(
            f"All pictures are in one folder ({class_ids[0]:.60}): expected one folder a class."
        )
    if len(class_ids) > MAX_CLASSES:
        raise TrainingDataError(
            f"The pictures are in {len(class_ids):,} folders: one is a class, of which at most "
            f"{MAX_CLASSES:,} can be told apart."
        )
    index = {class_id: i for i, class_id in enumerate(class_ids)}
    labels = np.array([index[entry.class_id] for entry in entries], dtype=np.int64)
    everything = PictureSet(pixels, labels, tuple(entry.source for entry in entries))
    is_held_out = _held_out(entries)
    if is_held_out.all():
        raise TrainingDataError("All pictures are held out: name the pictures to train on as well.")
    training, held_out = everything.without(is_held_out), everything.without(~is_held_out)
    seen, shared = near_duplicates(signatures(training), signatures(held_out), similarity)
    training, held_out = training.without(seen), held_out.without(shared)
    for part, what in ((training, "train on"), (held_out, "hold out")):
        if not len(part):
            raise TrainingDataError(
                f"No picture is left to {what}: add pictures, or check that those to train on "
                "and those held out are not the same."
            )
    names = tuple(_class_name(class_id) for class_id in class_ids)
    duplicates = (int(seen.sum()), int(shared.sum()))
    return TrainingData(class_ids, names, training, held_out, *duplicates, unreadable)


def relabelled(pictures: PictureSet, class_ids: Sequence[str], ids: Sequence[str]) -> PictureSet:
    """The pictures whose class is among `ids`, labelled by its place there.

    Args:
        class_ids: what the labels of `pictures` mean now; `ids`: what they shall mean.

    Raises:
        TrainingDataError: no class of the pictures is among `ids`.
    """
    place = {class_id: i for i, class_id in enumerate(ids)}
    new = np.array([place.get(class_id, -1) for class_id in class_ids], dtype=np.int64)
    labels = new[pictures.labels]
    if not (labels >= 0).any():
        raise TrainingDataError(
            "The model knows none of the pictures' classes: they are compared by the ids in the "
            "labels.json beside the weights."
        )
    return dataclasses.replace(pictures, labels=labels).without(labels < 0)


def signatures(pictures: PictureSet) -> NDArray[np.float32]:
    """A unit vector for each picture that survives resizing and compression: (n, 256) float32.

    The grey picture at 16 × 16, without its mean.
    """
    side = _SIGNATURE_SIDE
    found = np.empty((len(pictures), side * side), np.float32)
    for row, pixels in zip(found, pictures.pixels, strict=True):
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        row[:] = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).ravel()
    found -= found.mean(axis=1, keepdims=True)
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6))


def near_duplicates(
    one: NDArray[np.float32], other: NDArray[np.float32], similarity: float = DUPLICATE_SIMILARITY
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pictures of each set have a near-duplicate in the other: boolean (n,) and (m,).

    Args:
        one: `signatures`, (n, 256); `other` likewise, (m, 256).
        similarity: the cosine from which on two pictures count as the same.
    """
    in_one, in_other = np.zeros(len(one), bool), np.zeros(len(other), bool)
    for start in range(0, len(one), _CHUNK):
        alike = one[start : start + _CHUNK] @ other.T >= similarity
        in_one[start : start + _CHUNK] = alike.any(axis=1)
        in_other |= alike.any(axis=0)
    return in_one, in_other


def _held_out(entries: Sequence[Entry]) -> NDArray[np.bool_]:
    if any(entry.held_out for entry in entries):
        return np.array([bool(entry.held_out) for entry in entries])
    # By name, so that it does not depend on the order of files.
    return np.array([zlib.crc32(entry.name.encode()) % HELD_OUT_EVERY == 0 for entry in entries])


def _read(sources: Sequence[Path]) -> tuple[list[Entry], list[NDArray[np.uint8]], int]:
    """All pictures that can be read, and how many cannot: where they lie, and their pixels.

    Raises:
        TrainingDataError: no such source, no pictures in classes, or more than fits in memory.
    """
    found: list[Entry] = []
    pixels: list[NDArray[np.uint8]] = []
    unreadable = 0
    with (
        ThreadPoolExecutor(cpu_quota()) as pool,
        tqdm(unit="picture", desc="reading", leave=False) as progress,
    ):
        for chunk in _chunks(encoded_pictures(sources)):
            decoded = pool.map(_decode, (content for _, content in chunk))
            for (entry, _), picture in zip(chunk, decoded, strict=True):
                if picture is None:
                    unreadable += 1
                    if unreadable <= NAMED_PROBLEMS:
                        name = plain(f"{entry.source}/{entry.name}")
                        tqdm.write(f"{name} cannot be read and is left out")
                    if unreadable > max(MAX_UNREADABLE, len(pixels)):
                        pool.shutdown(wait=False, cancel_futures=True)
                        raise TrainingDataError(
                            f"{unreadable:,} pictures cannot be read, more than can be: check that "
                            "the files are pictures, and copied whole."
                        )
                    continue
                found.append(entry)
                pixels.append(picture)
            progress.update(len(chunk))
            if available_memory() < MEMORY_RESERVE:
                raise TrainingDataError(
                    f"After {len(pixels):,} pictures the memory is nearly full: train on fewer."
                )
    if not pixels:
        raise TrainingDataError(
            "No picture was found: expected folders or tar files of <class>/<picture>."
        )
    return found, pixels, unreadable


def _chunks(encoded: Iterator[tuple[Entry, bytes]]) -> Iterator[list[tuple[Entry, bytes]]]:
    """The same in pieces, so that few encoded pictures wait."""
    chunk: list[tuple[Entry, bytes]] = []
    size = 0
    for entry, content in encoded:
        chunk.append((entry, content))
        size += len(content)
        if len(chunk) == _CHUNK or size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _decode(encoded: bytes) -> NDArray[np.uint8] | None:
    """RGB, no larger than needed; None if it cannot be read."""
    try:
        image = load_image(encoded, small_here=True)
    except ImageError:
        return None
    shorter = min(image.size)
    if shorter > STORED_SIDE:
        width, height = (round(side * STORED_SIDE / shorter) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(image)


def _class_name(class_id: str) -> str:
    if re.fullmatch(r"n\d{8}", class_id):
        try:
            description = ImageNetInfo("imagenet-22k").label_name_to_description(class_id)
        except (KeyError, ValueError):
            return class_id
        return str(description).split(",")[0]
    return class_id.partition("/")[2].replace("_", " ")
