"""Folders and tar files that strangers packed: pictures, what cannot be read, or a sentence."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from sima_core.training import data, sources
from sima_core.training.data import read_training_data
from sima_core.training.sources import TrainingDataError, encoded_pictures
from tests.training.support import picture, tar_of


def member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of one member, in the old GNU form."""
    found = tarfile.TarInfo(name)
    found.size, found.type = size, kind
    return found.tobuf(tarfile.GNU_FORMAT)


def read(path: Path) -> list[tuple[str, int]]:
    return [(entry.name, len(content)) for entry, content in encoded_pictures([path])]


def refusal(path: Path) -> str:
    with pytest.raises(TrainingDataError) as caught:
        read(path)
    said = str(caught.value)
    assert len(said) <= 200
    assert str(path.parent) not in said
    return said


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tar_files_are_read_alike(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    plain = tar_of(tmp_path / "plain.tar", {f"{c}/1.webp": picture(ord(c)) for c in "ab"})
    packed = tmp_path / "packed.tar.x"
    packed.write_bytes(pack(plain.read_bytes()))
    assert [c for _, c in encoded_pictures([packed])] == [c for _, c in encoded_pictures([plain])]
    packed.write_bytes(packed.read_bytes()[:-700])  # two blocks of zeros are at the end
    if pack is not bytes:
        assert "not a whole tar file" in refusal(packed)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["a/1.jpg", "a/1.txt"])
def test_a_bomb_is_left_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes], name: str
) -> None:
    monkeypatch.setattr(sources, "EXPANSION_BASIS", 2**20)
    bomb = tmp_path / "bomb.tar.x"
    size = 64 * 2**20
    bomb.write_bytes(pack(member(name, size + 1) + bytes(size) + bytes(2048)))
    tracemalloc.start()
    assert "unpacks to much more" in refusal(bomb)
    assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    tracemalloc.stop()


def test_a_picture_too_large_is_left_out_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "some.tar"
    content = b"".join(
        member(f"a/{size}.jpg", size) + bytes(-(-size // 512) * 512) for size in (1000, 1001, 5)
    )
    path.write_bytes(content + bytes(1024))
    assert read(path) == [("a/1000.jpg", 1000), ("a/1001.jpg", 0), ("a/5.jpg", 5)]
    folder = tmp_path / "some" / "a"
    folder.mkdir(parents=True)
    for size in (1000, 1001):
        (folder / f"{size}.jpg").write_bytes(bytes(size))
    assert read(tmp_path / "some") == [("a/1000.jpg", 1000), ("a/1001.jpg", 0)]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_endless_headers_are_not_read(
    tmp_path: Path, kind: bytes, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "headers.tar"
    one = member("x", 2**24, kind) + bytes(2**24)
    path.write_bytes(pack(one))
    tracemalloc.start()
    refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
    many = member("x", 1024, kind) + b"30 comment=12345678901234567890\n".ljust(1024, b"\0")
    path.write_bytes(pack(many * 3000))
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        member("a/1.jpg", 2**33 - 1),  # much is promised
        member("a/1.jpg", 2**70),
        member("a/1.jpg", 5000) + bytes(100),
        member("a/1.jpg", 0)[:300],
        b"x" * 5000,
        member("a/1.jpg", 512, tarfile.GNUTYPE_SPARSE) + bytes(100),
        gzip.compress(b"x" * 5000)[:-5],
        b"\x1f\x8b",
        b"BZh9",
        b"\xfd7zXZ\0",
        b"",
    ],
)
def test_no_whole_tar_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.tar"
    path.write_bytes(content)
    assert "broken.tar is not a whole tar file" in refusal(path)


def test_links_devices_and_sparse_members_are_no_pictures(tmp_path: Path) -> None:
    path = tmp_path / "odd.tar"
    kinds = (
        tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
    )  # fmt: skip
    path.write_bytes(b"".join(member("a/1.jpg", 0, kind) for kind in kinds) + bytes(1024))
    assert read(path) == []
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        sparse = tarfile.TarInfo("a/2.jpg")
        sparse.pax_headers = {
            "GNU.sparse.map": "0,5",
            "GNU.sparse.size": "5",
            "GNU.sparse.numblocks": "1",
        }
        sparse.size = 5
        archive.addfile(sparse, io.BytesIO(b"12345"))
    assert read(path) == [("a/2.jpg", 0)]


def test_folders_of_a_stranger(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    where = root / "a"
    where.mkdir(parents=True)
    picture(1).save(where / "good.png")
    os.mkfifo(where / "pipe.png")
    (where / "loop.png").symlink_to("loop.png")
    (where / "nothing.png").symlink_to("/nowhere")
    (where / "device.png").symlink_to("/dev/zero")
    (where / "folder.png").mkdir()
    (root / "b").symlink_to(root)
    found = dict(read(root))
    assert found.pop("a/good.png") > 0
    assert found == {f"a/{name}.png": 0 for name in ("pipe", "loop", "nothing", "device")}


def test_a_pipe_that_took_a_tar_files_place_meanwhile_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "some.tar")
    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    assert refusal(tmp_path / "some.tar").startswith("some.tar cannot be read.")


def test_folders_as_deep_as_the_system_has_them(tmp_path: Path) -> None:
    root, depth = tmp_path / "deep", 1500
    root.mkdir()
    picture(1).save(root / "1.png")
    before = Path.cwd()
    try:  # a step at a time, down and up: none of the usual ways goes so deep
        os.chdir(root)
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        assert read(tmp_path) == [("deep/1.png", (root / "1.png").stat().st_size)]
    finally:
        for _ in range(depth):
            os.chdir("..")
            Path("d").rmdir()
        os.chdir(before)


def test_names_that_steer_a_terminal_are_made_harmless(tmp_path: Path) -> None:
    path = tmp_path / "names.tar"
    names = ("\x1b[31mred/1.webp", "b\u202e/1.webp", "x" * 5000 + "/1.webp", "c/\n.webp")
    tar_of(path, {name: picture(i) for i, name in enumerate(names)})
    for entry, content in encoded_pictures([path]):
        assert (entry.source + entry.class_id + entry.name).isprintable()
        assert len(entry.name) <= sources.MAX_NAME
        assert content


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\x1b[31m", "none"])
def test_what_is_not_there_is_a_sentence(tmp_path: Path, name: str) -> None:
    assert "no folder or tar file" in refusal(tmp_path / name)


def test_few_encoded_pictures_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = [f"{part}/{of}/{i}.webp" for part in ("train", "val") for of in "ab" for i in range(8)]
    path = tar_of(tmp_path / "some.tar", {name: picture(i) for i, name in enumerate(where)})
    whole = read_training_data([path])
    monkeypatch.setattr(data, "_CHUNK_BYTES", 0)
    assert [len(c) for c in data._chunks(encoded_pictures([path]))] == [1] * 32
    assert read_training_data([path]).fingerprint() == whole.fingerprint()
    monkeypatch.setattr(data, "MAX_CLASSES", 1)
    with pytest.raises(TrainingDataError, match="in 2 folders: one is a class"):
        read_training_data([path])


def test_a_link_to_a_whole_disk_is_not_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_OTHERS", 5)
    folder = tmp_path / "disk" / "a"
    folder.mkdir(parents=True)
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(b"")
    for number in range(4):
        (folder / f"{number}.txt").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert len(read(tmp_path / "link")) == 10  # the folder and four others
    (folder / "more").mkdir()
    assert "link holds more than 5 files and folders" in refusal(tmp_path / "link")


def test_where_most_pictures_cannot_be_read_it_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MAX_UNREADABLE", 3)
    path = tmp_path / "broken.tar"
    one = member("a/1.jpg", 1) + b"x".ljust(512)
    path.write_bytes(one * 30 + bytes(1024))
    with pytest.raises(TrainingDataError, match="4 pictures cannot be read, more than can be"):
        read_training_data([path])
