"""Writing files: whole or not at all, whatever the name stands for."""

import os
import threading

import pytest

from sima_core.files import replacing, write_bytes, write_text


def test_a_file_is_whole_or_as_it_was(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    write_text(target, "Q̂\n")
    with pytest.raises(TypeError), replacing(target) as file:
        file.write("no bytes")
    assert target.read_text("utf-8") == "Q̂\n"
    assert list(target.parent.iterdir()) == [target]


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
