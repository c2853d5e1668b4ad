"""Files are written whole, or not at all."""

import errno
import os
import stat
import threading

import pytest

from sima_core.errors import DiskError
from sima_core.files import (
    cache_folder,
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
