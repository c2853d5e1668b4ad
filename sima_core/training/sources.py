"""Where pictures to train on lie: folders and tar files, read within bounds and still encoded."""

import bz2
import gzip
import lzma
import math
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from PIL import Image

from sima_core.errors import SimaLensError, UnreadableError
from sima_core.files import open_regular
from sima_core.words import plain, printable

#: Bytes of the largest file of one picture; larger ones are left out as unreadable.
MAX_FILE_BYTES = 64 * 2**20
#: Bytes of all that stands before one member of a tar file: its name, and what describes it.
MAX_HEADER_BYTES = 2**20
#: How many times as large as its file the contents of a compressed tar file may be, beyond a
#: basis: pictures are compressed already.
MAX_EXPANSION, EXPANSION_BASIS = 20, 256 * 2**20
#: Characters of the longest name of a picture, folders included.
MAX_NAME = 4096
#: Entries of a folder that are no pictures, folders below it included: ImageNet-21k has 22,000
#: folders, a whole disk millions of files.
MAX_OTHERS = 100_000
#: Folder names above the classes that say what is held out.
TRAIN, HELD_OUT = {"train", "training"}, {"val", "valid", "validation", "test"}

#: How compressed files begin, and what inflates them.
_INFLATING: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open, b"]\0\0": lzma.open
}  # fmt: skip
#: What tarfile and the decompressors raise over bytes that are no good.
_DAMAGED = (
    tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError, ArithmeticError,
    LookupError, TypeError, AttributeError, RecursionError, MemoryError,
)  # fmt: skip


class TrainingDataError(SimaLensError, ValueError):
    """The pictures cannot be used; the message says why, and what to do, in one sentence."""


@dataclass(frozen=True)
class Entry:
    """Where one picture lies, and what that tells."""

    source: str
    class_id: str
    #: None where the source does not say.
    held_out: bool | None
    #: Where it lies inside the source, for messages.
    name: str


def encoded_pictures(sources: Sequence[Path]) -> Iterator[tuple[Entry, bytes]]:
    """All pictures of all sources, as their files hold them; empty where one cannot be read.

    Raises:
        TrainingDataError: there is no such source, or it is no whole tar file, or too large a one.
    """
    for path in map(Path, map(os.path.abspath, sources)):  # so that `.` has a name
        # In `os`, since pathlib's raise over a name that is too long.
        if os.path.isdir(path):  # noqa: PTH112
            named = path.name.lower() in TRAIN | HELD_OUT  # photos/train is of photos
            stem = f"{path.parent.name}-{path.name}" if named else path.name
            yield from _in_source(stem, _files(path))
        elif os.path.isfile(path):  # noqa: PTH113
            yield from _in_source(path.name.split(".")[0], _tar_members(path))
        else:
            raise TrainingDataError(
                f"There is no folder or tar file {plain(path.name)}: check the name and the folder."
            )


def _in_source(stem: str, pictures: Iterable[tuple[str, bytes]]) -> Iterator[tuple[Entry, bytes]]:
    """The pictures of one source; `stem` is its name, which may end in -train or -val."""
    before, _, after = stem.rpartition("-")
    split = after.lower() if before and after.lower() in TRAIN | HELD_OUT else None
    source = printable(before if split else stem).lower()
    for raw_name, encoded in pictures:
        parts = PurePosixPath(printable(raw_name[-MAX_NAME:])).parts
        if len(parts) < 2:
            continue  # in no class
        told = next((p.lower() for p in parts[:-2] if p.lower() in TRAIN | HELD_OUT), split)
        folder = parts[-2]
        class_id = folder if re.fullmatch(r"n\d{8}", folder) else f"{source}/{folder}"
        held_out = None if told is None else told in HELD_OUT
        yield Entry(source, class_id, held_out, "/".join(parts)), encoded


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Pictures in a folder, by names in order; what cannot be read is empty."""
    for path in sorted(_found(folder)):
        content = b""
        with suppress(UnreadableError, OSError), open_regular(path) as file:
            if os.fstat(file.fileno()).st_size <= MAX_FILE_BYTES:
                content = file.read(MAX_FILE_BYTES)
        yield path.relative_to(folder).as_posix(), content


def _found(folder: Path) -> Iterator[Path]:
    """What is named like a picture in a folder; links to folders are not followed.

    A folder that may not be read, or lies too deep for the system, counts as empty.

    Raises:
        TrainingDataError: more than `MAX_OTHERS` are something else.
    """
    extensions = Image.registered_extensions()
    waiting, others = [folder], 0
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif path.suffix.lower() in extensions:
                    yield path
                    continue
                others += 1
                if others > MAX_OTHERS:
                    raise TrainingDataError(
                        f"{plain(folder.name) or 'The folder'} holds more than {MAX_OTHERS:,} "
                        "files and folders that are no pictures: name the folder of the classes."
                    )


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Pictures in a tar file, in its order; what cannot be read is empty."""
    try:
        with open_regular(path) as file, _inflated(file) as inflated:
            yield from _members(_Bounded(inflated, _most(file, inflated)))
    except UnreadableError as error:
        raise TrainingDataError(f"{plain(path.name)} cannot be read. {error}") from None
    except _TooLargeError:
        raise TrainingDataError(
            f"{plain(path.name)} unpacks to much more than its pictures take: pack it anew, "
            "without compression."
        ) from None
    except _DAMAGED as error:
        raise TrainingDataError(
            f"{plain(path.name)} is not a whole tar file ({type(error).__name__}): copy it again."
        ) from None


def _inflated(file: BinaryIO) -> BinaryIO:
    """The tar file in a file that may be compressed."""
    start = file.read(max(map(len, _INFLATING)))
    file.seek(0)
    opener = next((o for magic, o in _INFLATING.items() if start.startswith(magic)), None)
    return cast(BinaryIO, opener(file)) if opener else file


def _most(file: BinaryIO, inflated: BinaryIO) -> float:
    """Bytes that a tar file may have once it is unpacked."""
    size = os.fstat(file.fileno()).st_size
    return math.inf if inflated is file else MAX_EXPANSION * size + EXPANSION_BASIS


def _members(bounded: "_Bounded") -> Iterator[tuple[str, bytes]]:
    extensions = Image.registered_extensions()
    bounded.allowed = MAX_HEADER_BYTES
    with tarfile.open(fileobj=cast(BinaryIO, bounded), mode="r:") as archive:
        while (member := archive.next()) is not None:
            if member.isfile() and PurePosixPath(member.name).suffix.lower() in extensions:
                content = b""
                if member.size <= MAX_FILE_BYTES and not member.issparse():
                    bounded.allowed = MAX_FILE_BYTES
                    packed = archive.extractfile(member)
                    content = packed.read() if packed else b""
                yield member.name, content
            for kept in ("members", "pax_headers"):  # all that tarfile has seen so far
                getattr(archive, kept).clear()
            bounded.allowed = MAX_HEADER_BYTES


class _TooLargeError(Exception):
    """More is to be read than a tar file of pictures has."""


class _Bounded:
    """The file that tarfile reads from, which believes whatever sizes it finds there."""

    def __init__(self, file: BinaryIO, most: float) -> None:
        self._file, self._most = file, most
        #: Bytes that may be read until this is set again.
        self.allowed = 0

    def read(self, size: int) -> bytes:
        """As a file does, if that is not too much."""
        self.allowed -= size
        if self.allowed < 0 or self._file.tell() > self._most:
            raise _TooLargeError
        return self._file.read(size)

    def seek(self, position: int) -> int:
        """As a file does; inflating all on the way."""
        if position > self._most:
            raise _TooLargeError
        return self._file.seek(position)

    def tell(self) -> int:
        """As a file does."""
        return self._file.tell()
