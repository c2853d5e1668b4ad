"""Files are written whole, or not at all."""

import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from sima_core import files
from sima_core.errors import DiskError, UnreadableError
from sima_core.files import (
    cache_folder,
    open_regular,
    replacing,
    write_bytes,
    write_text,
    writing,
)


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
    target = tmp_path / "folder" / "a.txt"
    write_text(target, "first")
    with pytest.raises(TypeError), replacing(target) as file:
        file.write(b"half") + None
    assert target.read_text() == "first"
    with replacing(target) as file:
        file.write(b"second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    write_text(tmp_path / "ours", "")
    (tmp_path / "theirs").write_text("")
    ours, theirs = (stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("ours", "theirs"))
    assert ours == theirs


def test_a_file_keeps_its_own_permissions(tmp_path):
    target = tmp_path / "a"
    write_text(target, "secret")
    target.chmod(0o600)
    write_text(target, "secret still")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_file_in_a_folder_that_takes_no_others_is_written_in_place(tmp_path, monkeypatch):
    target = tmp_path / "a"
    target.write_text("old")
    before = target.stat().st_ino
    monkeypatch.setattr("os.access", lambda path, mode: False)
    write_text(target, "new")
    assert (target.read_text(), target.stat().st_ino) == ("new", before)


def test_the_cache_of_a_user_without_a_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nobody() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", nobody)
    assert cache_folder().name == "sima-lens"


def test_two_writers_do_not_meet(tmp_path):
    target = tmp_path / "a"
    with replacing(target) as one, replacing(target) as other:
        one.write(b"one")
        other.write(b"other")
    assert target.read_bytes() in (b"one", b"other")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    target, link = tmp_path / "a" / "file.txt", tmp_path / "link.txt"
    write_text(target, "old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_and_not_replaced(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"scores")
    reader.join()
    assert read == [b"scores"]
    assert pipe.is_fifo()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipes_reader_may_come_a_little_later(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Timer(0.3, lambda: read.append(pipe.read_bytes()))
    reader.daemon = True  # without a writer it would wait for ever
    reader.start()
    write_bytes(pipe, b"scores")
    reader.join()
    assert read == [b"scores"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_that_nobody_reads_is_waited_for_only_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "READER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        write_bytes(tmp_path / "pipe", b"scores")


def test_names_that_cannot_be_are_errors_of_the_system(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("loop", "x" * 300):
        with pytest.raises(OSError, match=r"Too many levels|too long"):
            write_bytes(tmp_path / name, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "The disk is full, so the plot cannot be written"),
        (errno.EACCES, "the plot cannot be written: Permission denied"),
    ],
)
def test_why_writing_fails_is_said_without_a_path(number, said):
    with pytest.raises(DiskError, match=said) as caught, writing("the plot"):
        raise OSError(number, os.strerror(number), "/some/where")
    assert "/some" not in str(caught.value)


def test_a_real_file_is_opened_whatever_its_name(tmp_path):
    for name in ("plain", "näme", os.fsdecode(b"\xff\xfe")):
        (tmp_path / name).write_bytes(b"content")
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / name)
        for path in (tmp_path / name, str(tmp_path / name), tmp_path / "link"):
            with open_regular(path) as file:
                assert file.read() == b"content"
                assert not os.get_inheritable(file.fileno())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_real_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "astray").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    before = len(list(Path("/dev/fd").iterdir()))
    for path, said in (
        (tmp_path / "pipe", "a named pipe, not a file"),
        (tmp_path / "folder", "a folder, not a file"),
        (tmp_path / "socket", "a socket, not a file"),
        (Path("/dev/zero"), "a device, not a file"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "File name too long"),
        ("x" * 10**6, "File name too long"),
        (tmp_path / "astray", "no such file"),
        (tmp_path / "file" / "inside", "no such file"),
        (f"{tmp_path}/zero\0byte", "no such file"),
        (f"{tmp_path}/half\ud800", "no such file"),
        ("", "folder"),
    ):
        with pytest.raises(UnreadableError, match=said) as caught:
            open_regular(path)
        assert len(str(caught.value)) < 100
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_that_took_a_files_place_meanwhile_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    a_file = (tmp_path / "file").stat()
    monkeypatch.setattr("os.stat", lambda path, **_: a_file)
    with pytest.raises(UnreadableError, match="named pipe"):
        open_regular(tmp_path / "pipe")
