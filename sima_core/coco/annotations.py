"""Fetch a split's list of pictures and objects: one member of a large archive, by ranges."""

import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from sima_core.coco.http import (
    AbsentError,
    Client,
    FetchError,
    NoRangesError,
    RemoteFile,
    StatusError,
    host_of,
)
from sima_core.coco.listing import MAX_LIST_BYTES, columns_of, read_columns
from sima_core.coco.root import (
    CocoError,
    RootNotWritableError,
    annotations_file,
    partial_folder,
    writing_to_root,
)
from sima_core.errors import UnreadableError
from sima_core.files import open_regular, replacing
from sima_core.sandbox.sandbox import SandboxError

#: Bytes of one range of the archive: the most that a cut connection costs.
BLOCK_BYTES = 2**20

#: What is wrong in a zip archive's directory, or in a member's bytes.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError,
    OverflowError,
)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """A picture to fetch; its size in pixels as annotated, where that is known."""

    file_name: str
    width: int | None
    height: int | None


def read_list(path: Path) -> dict[int, Wanted]:
    """The pictures that an annotations file lists, by id.

    Raises:
        CocoError: it is absent or broken.
    """
    broken = CocoError(f"{path.name} is broken: delete it, or fetch it anew with --annotations.")
    try:
        with open_regular(path) as file:
            said, data = read_columns(file, pictures_only=True)
    except UnreadableError as error:
        raise CocoError(f"{path.name} cannot be read. {error}") from None
    except SandboxError:
        raise broken from None
    if "wrong" in said:
        raise broken
    pictures, _, _, texts = columns_of(said, data)
    columns = (pictures[name].tolist() for name in ("id", "width", "height"))
    return {
        number: Wanted(name, width or None, height or None)
        for name, number, width, height in zip(texts["names"], *columns, strict=True)
    }


def download_annotations(root: Path, split: str, base_url: str, progress: bool = True) -> bool:
    """Fetch a split's list of pictures and objects; False if it is there already.

    Of the archive only that one member is read, by ranges; a run that was cut off is continued.

    Args:
        base_url: an address without a slash at its end.

    Raises:
        CocoError: it cannot be had or written.
    """
    target = annotations_file(root, split)
    with suppress(CocoError):
        read_list(target)
        return False
    archive = "image_info_test2017" if split.startswith("test") else "annotations_trainval2017"
    host = host_of(base_url)
    with _in_words(host), Client() as client:
        remote = RemoteFile(client, f"{base_url}/annotations/{archive}.zip")
        member = _find_member(remote, target.name, host)
        folder = partial_folder(root)
        # A part of another version of the archive has another name, so is never continued.
        part = folder / f"{target.name}-{member.CRC:08x}-{member.compress_size}.part"
        _fetch_member(remote, member, part, progress)
    _unpack(member, part, target)
    for leftover in folder.glob(f"{target.name}*"):
        leftover.unlink(missing_ok=True)
    return True


def _find_member(remote: RemoteFile, name: str, host: str) -> zipfile.ZipInfo:
    """The annotations' place in the archive, from the directory at its end."""
    try:
        contents = zipfile.ZipFile(remote)
    except _DAMAGED:
        raise CocoError(f"{host} sent no zip archive: check the address.") from None
    try:
        member = contents.getinfo(f"annotations/{name}")
    except KeyError:
        raise CocoError(f"The archive on {host} holds no {name}.") from None
    if max(member.file_size, member.compress_size) > MAX_LIST_BYTES:
        raise CocoError(f"The {name} on {host} is too large to be read: check the address.")
    return member


def _fetch_member(remote: RemoteFile, member: zipfile.ZipInfo, part: Path, progress: bool) -> None:
    """Bring `part` up to the whole of the member as it lies in the archive, compressed."""
    # The directory does not say how long the header before the member's bytes is.
    header = remote.read_at(member.header_offset, 30)
    start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    size, name = member.compress_size, Path(member.filename).name
    with (
        writing_to_root(),
        part.open("ab", buffering=0) as file,
        tqdm(
            total=size, initial=file.tell(), unit="B", unit_scale=True, desc=name,
            disable=not progress,
        ) as bar,
    ):  # fmt: skip
        while (done := file.tell()) < size:
            block = remote.read_at(start + done, min(BLOCK_BYTES, size - done))
            bar.update(file.write(block))  # fewer bytes than the block where the disk fills up


def _unpack(member: zipfile.ZipInfo, part: Path, target: Path) -> None:
    """Inflate a complete part into `target`, if its CRC and its contents are right."""
    growing = part.with_name(f"{target.name}.tmp")
    try:
        with (
            writing_to_root(),
            part.open("rb") as packed,
            replacing(target, growing) as file,
        ):
            # ZipExtFile inflates, or copies what is only stored, and checks CRC-32 and size.
            shutil.copyfileobj(zipfile.ZipExtFile(packed, "r", member), file, 2**18)
            file.flush()
            read_list(growing)
    except RootNotWritableError:
        raise  # the part is good, and kept until there is space
    except _DAMAGED:
        part.unlink(missing_ok=True)
        raise CocoError(
            f"{target.name} arrived damaged and was thrown away: run the same command again."
        ) from None


@contextmanager
def _in_words(host: str) -> Iterator[None]:
    """Say in a sentence why the archive cannot be read."""
    try:
        yield
    except AbsentError:
        raise CocoError(f"{host} has no annotations there: check the address.") from None
    except NoRangesError:
        raise CocoError(
            f"{host} does not serve parts of files, which the annotations need: "
            "try another address."
        ) from None
    except StatusError as error:
        raise CocoError(
            f"{host} answered with status {error.status}: try later. What has arrived is kept."
        ) from None
    except FetchError:
        raise CocoError(
            f"{host} cannot be reached, or cut the connection: check the network. "
            "What has arrived is kept."
        ) from None
