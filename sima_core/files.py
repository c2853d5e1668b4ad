"""Files: where they lie, and the one way in which they are written: whole, or not at all."""

import errno
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sima_core import environment
from sima_core.errors import DiskError

_PACKAGE = Path(__file__).resolve().parent
#: What comes with the program: weights, labels, evidence. Inside an installed package, beside it in
#: a checkout.
ASSETS = next(
    (folder for folder in (_PACKAGE / "assets", _PACKAGE.parent / "assets") if folder.is_dir()),
    _PACKAGE / "assets",
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder() -> Path:
    """Where this program keeps what it can make again; it need not be there yet."""
    if base := environment.CACHE_HOME.get():
        return Path(base) / "sima-lens"
    try:
        return Path.home() / ".cache" / "sima-lens"
    except RuntimeError:  # nobody's home: a container's user without a name
        return Path(tempfile.gettempdir()) / "sima-lens"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason(error: OSError) -> str:
    """Why the system refused, in its own few words and without a path."""
    return error.strerror or type(error).__name__


def is_full(error: OSError) -> bool:
    """Whether the disk, a quota or a limit of size was in the way."""
    return error.errno in _FULL


@contextmanager
def replacing(target: Path, partial: Path | None = None) -> Iterator[BinaryIO]:
    """A new file that becomes `target` if the block ends well, and vanishes if it does not.

    Whatever happens meanwhile, the name points to the old file or to the whole new one, which keeps
    the old one's permissions. Folders are made as needed. What cannot be replaced is written as it
    comes: a pipe, or a file in a folder that takes no others.

    Args:
        partial: where the file grows; on the same disk. Else beside the target, under a name of its
            own.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    target = target.resolve()  # a link stays, and what it points to is replaced
    old = target.stat() if target.exists() else None
    if old and (
        not target.is_file() or os.path.ismount(target) or not os.access(target.parent, os.W_OK)
    ):
        with target.open("wb") as file:
            yield file
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if partial is None:
        partial = target.parent / f".{secrets.token_hex(8)}.partial"
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the name points to it: a power cut leaves one of both
        if old:
            partial.chmod(stat.S_IMODE(old.st_mode))
        partial.replace(target)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file whole, or not at all.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(target) as file:
        file.write(content)


def write_text(target: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all.

    Raises:
        OSError: as `replacing`.
    """
    write_bytes(target, text.encode("utf-8"))


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Say in a sentence why `what`, such as "the figure", cannot be written.

    Raises:
        DiskError: in place of every OSError inside.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        if is_full(error):
            raise DiskError(f"The disk is full, so {what} cannot be written: make room.") from None
        raise DiskError(f"{what} cannot be written: {reason(error)}") from None
