"""Fetch COCO 2017's pictures and annotations: checked, resumed, and never half-written in place."""

import os
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from sima_core.coco.annotations import Wanted, download_annotations, read_list
from sima_core.coco.http import Client, FetchError, UnreachableError, host_of
from sima_core.coco.root import (
    JPEG_END,
    SPLITS,
    CocoError,
    annotations_file,
    partial_folder,
    writing_to_root,
)
from sima_core.files import replacing
from sima_core.lens.pictures import ImageError, load_image

#: COCO's official bucket. Its plain name, images.cocodataset.org, has no valid certificate.
BASE_URL = "https://s3.amazonaws.com/images.cocodataset.org"
#: The largest picture taken; COCO's are below 1 MiB.
MAX_PICTURE_BYTES = 64 * 2**20
#: Pictures in a row for which no connection was made, after which the others are not tried.
MAX_UNREACHABLE = 8

#: The largest id that COCO's names of files have room for.
MAX_PICTURE_ID = 10**12 - 1


@dataclass(frozen=True)
class Report:
    """How many pictures were fetched and were there already; why each of the others failed."""

    fetched: int
    present: int
    failed: Mapping[str, str]


def download(
    root: Path,
    split: str,
    ids: Sequence[int] | None = None,
    num_images: int | None = None,
    annotations: bool = False,
    base_url: str = BASE_URL,
    progress: bool = True,
) -> Report:
    """Fetch a split's pictures: those of `ids`, else the first `num_images` by id, else all.

    The annotations, which list the pictures, are fetched when they are needed and absent. With
    `annotations` they are fetched in any case, anew if broken, and alone if no pictures are named.

    Raises:
        CocoError: nothing (more) can be fetched: no such split, no network, a full disk, …
    """
    if split not in SPLITS:
        raise CocoError(f"There is no split {split!r}: choose {', '.join(SPLITS)}.")
    if not host_of(base_url):
        raise CocoError("The address to download from must begin with https:// or http://.")
    if num_images is not None and num_images < 1:
        raise CocoError("At least one picture must be asked for.")
    if not all(0 <= i <= MAX_PICTURE_ID for i in ids or ()):
        raise CocoError("A picture's id is a whole number of at most twelve digits.")
    base_url = base_url.rstrip("/")
    path = annotations_file(root, split)
    if annotations or (ids is None and not path.exists()):
        download_annotations(root, split, base_url, progress)
    if annotations and ids is None and num_images is None:
        return Report(0, 0, {})
    if path.exists():
        listed = read_list(path)
    else:  # the names of COCO's own pictures follow from their ids
        listed = {i: Wanted(_file_name(i), None, None) for i in ids or ()}
    if ids is None:
        ids = sorted(listed)[:num_images]
    unlisted = {_file_name(i): f"not in {split}" for i in ids if i not in listed}
    wanted = [listed[i] for i in ids if i in listed]
    report = download_pictures(root, split, wanted, base_url, progress)
    return replace(report, failed={**unlisted, **report.failed})


def _file_name(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


def download_pictures(
    root: Path,
    split: str,
    pictures: Sequence[Wanted],
    base_url: str,
    progress: bool = True,
    workers: int = 4,
) -> Report:
    """Fetch those of `pictures` that are not there yet; each is decoded before it is put in place.

    Args:
        base_url: an address without a slash at its end.
        workers: how many are fetched at a time.

    Raises:
        CocoError: no connection, a full disk or the like: the other pictures would fail as well.
    """
    with writing_to_root():
        for leftover in partial_folder(root).glob(f"{split}-*"):
            leftover.unlink(missing_ok=True)  # of a run that was killed
    queue = deque({wanted.file_name: wanted for wanted in pictures}.values())
    with (
        Client() as client,
        tqdm(total=len(queue), unit="picture", desc=split, disable=not progress) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        run = _Run(queue, f"{base_url}/{split}", root / split, client, bar)
        try:
            for thread in as_completed([pool.submit(run.work) for _ in range(workers)]):
                thread.result()
        finally:  # also at Ctrl-C: the pool waits for its threads, and they for nothing more
            client.stop.set()
    return Report(run.fetched, run.present, run.failed)


class _PictureError(Exception):
    """One picture cannot be had; the message says why."""


class _Run:
    """What the threads of one download share."""

    def __init__(
        self, queue: deque[Wanted], url: str, folder: Path, client: Client, bar: Any
    ) -> None:
        self.queue, self.url, self.folder = queue, url, folder
        self.client, self.bar = client, bar
        self.fetched = self.present = 0
        self.failed: dict[str, str] = {}
        self._partial = partial_folder(folder.parent)
        self._lock = threading.Lock()
        self._patience = 1  # how many more pictures in a row may find no server: at first, none

    def work(self) -> None:
        """Take pictures from the queue until it is empty or the run stops."""
        while not self.client.stop.is_set():
            try:
                wanted = self.queue.popleft()
            except IndexError:
                return
            reason, fetched = "", False
            try:
                fetched = self._provide(wanted)
            except _PictureError as error:
                reason = str(error)
            with self._lock:
                self.fetched += fetched
                self.present += not (fetched or reason)
                if reason:
                    self.failed[wanted.file_name] = reason
                self.bar.update()

    def _provide(self, wanted: Wanted) -> bool:
        """Put the picture in place; False if it is there already."""
        name = wanted.file_name
        # It comes out of a file that anybody may have written, and goes into a path and a URL.
        if not re.fullmatch(r"\w[\w.-]{0,199}", name, re.ASCII):
            raise _PictureError("not a plain file name")
        target = self.folder / name
        if _is_complete(target, wanted):
            return False
        body = self._fetch(f"{self.url}/{name}")
        try:
            image = load_image(body, upright=False)
        except ImageError as error:
            raise _PictureError(f"what the server sent is no good: {error}") from None
        if not _has_size(image, wanted):
            raise _PictureError(f"not {wanted.width} × {wanted.height} pixels, as annotated")
        growing = self._partial / f"{self.folder.name}-{name}"
        with writing_to_root(), replacing(target, growing) as file:
            file.write(body)
        return True

    def _fetch(self, url: str) -> bytes:
        """The body at `url`.

        Raises:
            _PictureError: it cannot be had.
            CocoError: nor can any other, it seems: the network is gone.
        """
        try:
            body = self.client.whole(url, MAX_PICTURE_BYTES)
        except UnreachableError as error:
            with self._lock:
                self._patience -= 1
            if self._patience <= 0:
                raise CocoError(
                    f"{host_of(url)} cannot be reached: check the network, or the address."
                ) from None
            raise _PictureError(str(error)) from None
        except FetchError as error:
            self._patience = MAX_UNREACHABLE
            raise _PictureError(str(error)) from None
        self._patience = MAX_UNREACHABLE
        return body


def _is_complete(path: Path, wanted: Wanted) -> bool:
    """Whether the picture is there, by its header and its end; decoded only if the end is odd."""
    try:
        with path.open("rb") as file:
            file.seek(-len(JPEG_END), os.SEEK_END)
            if file.read() != JPEG_END:
                load_image(path)
            with Image.open(file, formats=("JPEG",)) as image:  # its header, which costs nothing
                return _has_size(image, wanted)
    except Exception:  # Pillow can raise anything over an odd header; the picture is fetched anew
        return False


def _has_size(image: Image.Image, wanted: Wanted) -> bool:
    """Whether a picture is as large as annotated; COCO does not turn pictures by their EXIF."""
    return None in (wanted.width, wanted.height) or image.size == (wanted.width, wanted.height)
