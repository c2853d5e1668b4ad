"""Fetch COCO 2017's pictures and annotations: checked, resumed, and never half-written in place."""

import errno
import io
import json
import os
import re
import shutil
import struct
import threading
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import aiohttp
import fsspec
import httpx2
from PIL import Image
from tqdm import tqdm

from sima_core import __version__
from sima_core.coco.root import SPLITS, CocoError, annotations_file
from sima_core.lens.pictures import ImageError, load_image

#: COCO's official bucket. Its plain name, images.cocodataset.org, has no valid certificate.
BASE_URL = "https://s3.amazonaws.com/images.cocodataset.org"
#: How often one request is tried, and the wait after the first try; it doubles with each.
ATTEMPTS, BACKOFF_SECONDS = 5, 1.0
#: The longest wait between two tries, whatever the server asks for.
MAX_WAIT_SECONDS = 60.0
#: How long a server may stay silent.
TIMEOUT_SECONDS = 30.0
#: Bytes of one range of the annotations: the most that a cut connection costs.
BLOCK_BYTES = 2**20
#: The largest picture taken; COCO's are below 1 MiB.
MAX_PICTURE_BYTES = 64 * 2**20
#: Pictures in a row for which no connection was made, after which the others are not tried.
MAX_UNREACHABLE = 8

_HEADERS = {"User-Agent": f"SimA-Lens/{__version__}", "Accept-Encoding": "identity"}
_ABSENT = (403, 404, 410)  # the bucket says 403 of what it does not have
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)
_NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
_JPEG_END = b"\xff\xd9"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Wanted:
    """A picture to fetch; its size in pixels as annotated, where that is known."""

    file_name: str
    width: int | None
    height: int | None


@dataclass(frozen=True)
class Report:
    """How many pictures were fetched and were there already; why each of the others failed."""

    fetched: int
    present: int
    failed: Mapping[str, str]


class _PictureError(Exception):
    """One picture cannot be had; the message says why."""


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
    _require(split, base_url)
    if num_images is not None and num_images < 1:
        raise CocoError("At least one picture must be asked for.")
    path = annotations_file(root, split)
    if annotations or (ids is None and not path.exists()):
        download_annotations(root, split, base_url, progress)
    if annotations and ids is None and num_images is None:
        return Report(0, 0, {})
    if path.exists():
        listed = _read_list(path)
    else:  # the names of COCO's own pictures follow from their ids
        listed = {i: Wanted(_file_name(i), None, None) for i in ids or ()}
    if ids is None:
        ids = sorted(listed)[:num_images]
    unlisted = {_file_name(i): f"not in {split}" for i in ids if i not in listed}
    wanted = [listed[i] for i in ids if i in listed]
    report = download_images(root, split, wanted, base_url, progress)
    return replace(report, failed={**unlisted, **report.failed})


def _file_name(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


# ---- Annotations: one member of a large archive ----------------------------------------------


def download_annotations(
    root: Path, split: str, base_url: str = BASE_URL, progress: bool = True
) -> bool:
    """Fetch a split's list of pictures and objects; False if it is there already.

    Of the archive only that one member is read, by ranges; a run that was cut off is continued.

    Raises:
        CocoError: it cannot be had or written.
    """
    base = _require(split, base_url)
    target = annotations_file(root, split)
    with suppress(CocoError):
        _read_list(target)
        return False
    archive = "image_info_test2017" if split.startswith("test") else "annotations_trainval2017"
    url = f"{base}/annotations/{archive}.zip"
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS
    )
    options = {"headers": _HEADERS, "timeout": timeout, "trust_env": True}  # "env": the proxies
    # No cache: nothing is read twice, and what it would read ahead is mostly not wanted.
    file = fsspec.open(url, cache_type="none", client_kwargs=options)
    host = httpx2.URL(base).host
    with _patiently(file.open, host) as remote:
        contents = _patiently(lambda: zipfile.ZipFile(remote), host)
        try:
            member = contents.getinfo(f"annotations/{target.name}")
        except KeyError:
            raise CocoError(f"The archive on {host} holds no {target.name}.") from None
        folder = _partial_folder(root)
        # A part of another version of the archive has another name, so is never continued.
        part = folder / f"{target.name}-{member.CRC:08x}-{member.compress_size}.part"
        _fetch_member(remote, member, part, host, progress)
    _unpack(member, part, target)
    for leftover in folder.glob(f"{target.name}*"):
        leftover.unlink(missing_ok=True)
    return True


def _fetch_member(
    remote: BinaryIO, member: zipfile.ZipInfo, part: Path, host: str, progress: bool
) -> None:
    """Bring `part` up to the whole of the member as it lies in the archive, compressed."""

    def read_at(start: int, length: int) -> bytes:
        remote.seek(start)
        if len(block := remote.read(length)) != length:
            raise OSError("the connection was cut, or the archive has changed")
        return block

    # The directory does not say how long the header before the member's bytes is.
    header = _patiently(partial(read_at, member.header_offset, 30), host)
    start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    size, name = member.compress_size, Path(member.filename).name
    with (
        _writing(),
        part.open("ab", buffering=0) as file,
        tqdm(
            total=size, initial=file.tell(), unit="B", unit_scale=True, desc=name,
            disable=not progress,
        ) as bar,
    ):  # fmt: skip
        while (done := file.tell()) < size:
            length = min(BLOCK_BYTES, size - done)
            block = _patiently(partial(read_at, start + done, length), host)
            bar.update(file.write(block))  # fewer bytes than the block where the disk fills up


def _unpack(member: zipfile.ZipInfo, part: Path, target: Path) -> None:
    """Inflate a complete part into `target`, if its CRC and its contents are right."""
    try:
        with (
            part.open("rb") as packed,
            _replacing(target, part.with_name(f"{target.name}.tmp")) as file,
        ):
            # ZipExtFile inflates, or copies what is only stored, and checks CRC-32 and size.
            shutil.copyfileobj(zipfile.ZipExtFile(packed, "r", member), file, 2**18)
            file.flush()
            _read_list(Path(file.name))
    except _DiskError:
        raise  # the part is good, and kept until there is space
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, CocoError):
        part.unlink(missing_ok=True)
        raise CocoError(
            f"{target.name} arrived damaged and was thrown away: run the same command again."
        ) from None


def _patiently(read: Callable[[], _T], host: str) -> _T:
    """What `read` returns, tried again while the connection fails."""
    for attempt in range(ATTEMPTS):
        try:
            return read()
        except ValueError:  # so fsspec says that ranges are ignored
            raise CocoError(
                f"{host} does not serve parts of files, which the annotations need: "
                "try another address."
            ) from None
        except (aiohttp.ClientError, OSError, zipfile.BadZipFile) as error:
            # fsspec hides an answer's status behind FileNotFoundError
            answer = error.__cause__ if isinstance(error, FileNotFoundError) else error
            problem = "cannot be reached, or cut the connection: check the network"
            if isinstance(error, zipfile.BadZipFile) and error.__context__ is None:
                problem = "sent no zip archive: check the address"
            if isinstance(answer, aiohttp.ClientResponseError):
                if answer.status in _ABSENT:
                    raise CocoError(
                        f"{host} has no annotations there: check the address."
                    ) from None
                problem = f"answered with status {answer.status}: try later"
            headers = getattr(answer, "headers", None) or {}
            if attempt + 1 < ATTEMPTS:
                time.sleep(_wait(attempt, headers.get("Retry-After")))
    raise CocoError(f"{host} {problem}. What has arrived is kept.")


# ---- Pictures --------------------------------------------------------------------------------


def download_images(
    root: Path,
    split: str,
    images: Sequence[Wanted],
    base_url: str = BASE_URL,
    progress: bool = True,
    workers: int = 4,
) -> Report:
    """Fetch those of `images` that are not there yet; each is decoded before it is put in place.

    Raises:
        CocoError: no connection, a full disk or the like: the other pictures would fail as well.
    """
    base = _require(split, base_url)
    folder = _partial_folder(root)
    with _writing():
        for leftover in folder.glob(f"{split}-*"):
            leftover.unlink(missing_ok=True)  # of a run that was killed
    queue = deque({wanted.file_name: wanted for wanted in images}.values())
    with (
        httpx2.Client(headers=_HEADERS, timeout=TIMEOUT_SECONDS, follow_redirects=True) as client,
        tqdm(total=len(queue), unit="picture", desc=split, disable=not progress) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        run = _Run(queue, f"{base}/{split}", root / split, folder, client, bar)
        try:
            for thread in as_completed([pool.submit(run.work) for _ in range(workers)]):
                thread.result()
        finally:  # also at Ctrl-C: the pool waits for its threads, and they for nothing more
            run.stop.set()
    return Report(run.fetched, run.present, run.failed)


class _Run:
    """What the threads of one download share."""

    def __init__(
        self, queue: deque[Wanted], url: str, folder: Path, partial: Path, client: Any, bar: Any
    ) -> None:
        self.queue, self.url, self.folder, self.partial = queue, url, folder, partial
        self.client, self.bar = client, bar
        self.fetched = self.present = 0
        self.failed: dict[str, str] = {}
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._patience = 1  # how many more pictures in a row may find no server: at first, none

    def work(self) -> None:
        """Take pictures from the queue until it is empty or the run stops."""
        while not self.stop.is_set():
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
        body = self._get(f"{self.url}/{name}")
        try:
            load_image(body)
        except ImageError as error:
            raise _PictureError(f"what the server sent is no good: {error}") from None
        if not _has_size(io.BytesIO(body), wanted):
            raise _PictureError(f"not {wanted.width} × {wanted.height} pixels, as annotated")
        with _replacing(target, self.partial / f"{self.folder.name}-{name}") as file:
            file.write(body)
        return True

    def _get(self, url: str) -> bytes:
        """The body at `url`, tried again while that may help."""
        for attempt in range(ATTEMPTS):
            retry_after, connected = None, True
            try:
                with self.client.stream("GET", url) as response:
                    self._patience = MAX_UNREACHABLE
                    status = response.status_code
                    if status == 200:
                        return self._body(response)
                    if status in _ABSENT:
                        raise _PictureError("not on the server")
                    reason = f"the server answered with status {status}"
                    if status not in _TRY_AGAIN:
                        raise _PictureError(reason)
                    retry_after = response.headers.get("Retry-After")
            except httpx2.RequestError as error:
                connected = not isinstance(error, _NOT_CONNECTED)
                reason = "the connection was cut or stalled"
            if attempt + 1 < ATTEMPTS and self.stop.wait(_wait(attempt, retry_after)):
                break
        if not connected:
            with self._lock:
                self._patience -= 1
            if self._patience <= 0:
                host = httpx2.URL(url).host
                raise CocoError(f"{host} cannot be reached: check the network, or the address.")
            reason = "the server could not be reached"
        raise _PictureError(reason)

    def _body(self, response: Any) -> bytes:
        # Fewer bytes than Content-Length says are an error of httpx2's, which is tried again.
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > MAX_PICTURE_BYTES:
                raise _PictureError(f"larger than {MAX_PICTURE_BYTES >> 20} MiB")
            if self.stop.is_set():
                raise _PictureError("stopped")
        return bytes(body)


def _is_complete(path: Path, wanted: Wanted) -> bool:
    """Whether the picture is there, by its header and its end; decoded only if the end is odd."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_JPEG_END), os.SEEK_END)
            if file.read() != _JPEG_END:
                load_image(path)
            return _has_size(file, wanted)
    except (OSError, ImageError, Image.DecompressionBombError):
        return False


def _has_size(file: BinaryIO, wanted: Wanted) -> bool:
    """Whether a picture is as large as annotated; COCO does not turn pictures by their EXIF."""
    with Image.open(file) as image:
        return None in (wanted.width, wanted.height) or image.size == (wanted.width, wanted.height)


# ---- Shared ----------------------------------------------------------------------------------


class _DiskError(CocoError):
    """A file cannot be written."""


def _require(split: str, base_url: str) -> str:
    """The address without a slash at its end; CocoError if it or the split is no good."""
    if split not in SPLITS:
        raise CocoError(f"There is no split {split!r}: choose {', '.join(SPLITS)}.")
    try:
        url = httpx2.URL(base_url)
        usable = url.scheme in ("http", "https") and url.host
    except httpx2.InvalidURL:
        usable = False
    if not usable:
        raise CocoError("The address to download from must begin with https:// or http://.")
    return base_url.rstrip("/")


def _read_list(path: Path) -> dict[int, Wanted]:
    """The pictures that an annotations file lists, by id; CocoError if it is broken."""
    try:
        images = json.loads(path.read_bytes())["images"]
        if not isinstance(images, list):
            raise TypeError
        return {
            int(i["id"]): Wanted(str(i["file_name"]), i.get("width"), i.get("height"))
            for i in images
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CocoError(
            f"{path.name} is broken: delete it, or fetch it anew with --annotations."
        ) from None


def _wait(attempt: int, retry_after: str | None = None) -> float:
    """Seconds before the next try: what the server asks for, within bounds, or a doubled wait."""
    seconds: float = BACKOFF_SECONDS * 2**attempt
    with suppress(ValueError, TypeError):
        if retry_after and retry_after.isdecimal():
            seconds = float(retry_after)
        elif retry_after:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_WAIT_SECONDS)


def _partial_folder(root: Path) -> Path:
    """Where files grow before they are put in place, by renaming, which is atomic."""
    folder = root / ".partial"
    with _writing():
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _replacing(target: Path, temporary: Path) -> Iterator[BinaryIO]:
    """A new file that becomes `target` if the block ends well, and vanishes if it does not."""
    try:
        with _writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # before the name points to it, whatever crashes
            temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _writing() -> Iterator[None]:
    """Say in a sentence, and without a path, why writing fails."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _DiskError(
                "The disk is full: what is complete is kept; "
                "free some space and run the same command again."
            ) from None
        raise _DiskError(
            f"The COCO folder cannot be written to ({error.strerror}): "
            "check its permissions, or choose another."
        ) from None
