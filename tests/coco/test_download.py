"""Fetching COCO: what the command does, and its pictures."""

import errno
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from PIL import Image

from sima_core.coco import download as coco_download
from sima_core.coco import http
from sima_core.coco.annotations import Wanted, download_annotations
from sima_core.coco.download import Report, download, download_pictures
from sima_core.coco.root import annotations_file

from .support import ARCHIVE, SPLIT, error, fetch, fetch_list, files_in, jpeg, name_of, pictures

# ---- What the command does -------------------------------------------------------------------


def test_list_and_first_pictures_then_nothing_to_do(bucket, tmp_path):
    options = {"num_images": 3, "base_url": bucket.url, "progress": False}
    assert download(tmp_path, SPLIT, **options) == Report(3, 0, {})
    for i in (1, 2, 3):
        file = tmp_path / SPLIT / name_of(i)
        assert file.read_bytes() == bucket.files[f"/{SPLIT}/{name_of(i)}"]
    assert json.loads(annotations_file(tmp_path, SPLIT).read_bytes())["images"][0]["id"] == 6
    assert len(files_in(tmp_path)) == 4
    bucket.requests.clear()
    assert download(tmp_path, SPLIT, annotations=True, **options) == Report(0, 3, {})
    assert bucket.requests == []


def test_all_pictures_or_only_the_annotations(bucket, tmp_path):
    options = {"base_url": bucket.url, "progress": False}
    assert download(tmp_path, SPLIT, annotations=True, **options) == Report(0, 0, {})
    assert files_in(tmp_path) == {f"annotations/instances_{SPLIT}.json"}
    assert download(tmp_path, SPLIT, **options) == Report(6, 0, {})


def test_ids_need_no_list_but_follow_one(bucket, tmp_path):
    options = {"base_url": bucket.url, "progress": False}
    assert download(tmp_path, SPLIT, ids=[2], **options) == Report(1, 0, {})
    assert ARCHIVE not in bucket.requests
    report = download(tmp_path, SPLIT, ids=[2, 5, 99], annotations=True, **options)
    assert (report.fetched, report.present) == (1, 1)
    assert report.failed == {name_of(99): f"not in {SPLIT}"}
    assert f"/{SPLIT}/{name_of(99)}" not in bucket.requests


def test_names_come_from_the_list(bucket, tmp_path):
    path = annotations_file(tmp_path, SPLIT)
    path.parent.mkdir()
    path.write_text('{"images": [{"id": 7, "file_name": "COCO_7.jpg", "width": 9, "height": 8}]}')
    bucket.files[f"/mirror/{SPLIT}/COCO_7.jpg"] = jpeg(9, 8)
    report = download(tmp_path, SPLIT, [7], base_url=f"{bucket.url}/mirror/", progress=False)
    assert report == Report(1, 0, {})


@pytest.mark.parametrize("content", [b'{"images": [{"id"', b"[]", b'{"images": [3]}', b"\xff", b""])
def test_broken_list_is_named_and_fetched_anew_on_demand(bucket, tmp_path, content):
    path = annotations_file(tmp_path, SPLIT)
    path.parent.mkdir()
    path.write_bytes(content)
    options = {"base_url": bucket.url, "progress": False}
    for which in ({}, {"ids": [1]}, {"num_images": 1}):
        message = error(download, tmp_path, SPLIT, **which, **options)
        assert path.name in message
        assert "--annotations" in message
    assert path.read_bytes() == content
    download(tmp_path, SPLIT, annotations=True, **options)
    assert len(json.loads(path.read_bytes())["images"]) == 6


def test_bad_usage(tmp_path):
    assert "test2017" in error(download, tmp_path, "val2014")
    for address in ("ftp://example.org", "example.org", "/tmp/x", "http://", "http://a:b", ""):
        assert "http://" in error(download, tmp_path, SPLIT, base_url=address)
    assert "At least one" in error(download, tmp_path, SPLIT, num_images=0)
    assert files_in(tmp_path) == set()


# ---- Pictures --------------------------------------------------------------------------------


def test_one_bad_picture_does_not_stop_the_others(bucket, tmp_path):
    good = bucket.files[f"/{SPLIT}/{name_of(1)}"]
    bucket.files[f"/{SPLIT}/{name_of(2)}"] = good[: len(good) // 2]
    bucket.files[f"/{SPLIT}/{name_of(3)}"] = b"<html>Welcome</html>"
    bucket.files[f"/{SPLIT}/{name_of(4)}"] = jpeg(24, 32)
    bucket.faults[f"/{SPLIT}/{name_of(5)}"] = ["promise less"]
    bucket.faults[f"/{SPLIT}/{name_of(6)}"] = ["promise more"] * http.ATTEMPTS
    bucket.faults[f"/{SPLIT}/{name_of(8)}"] = [403]
    report = fetch(tmp_path, bucket, *range(1, 9))
    assert (report.fetched, report.present) == (1, 0)
    expected = {
        2: "ends too early",
        3: "not a picture",
        4: "not 32 × 24 pixels",
        5: "ends too early",
        6: "the connection was cut",
        7: "not on the server",
        8: "not on the server",
    }
    assert report.failed.keys() == set(map(name_of, expected))
    for i, reason in expected.items():
        assert reason in report.failed[name_of(i)]
    assert files_in(tmp_path) == {f"{SPLIT}/{name_of(1)}"}
    assert bucket.requests.count(f"/{SPLIT}/{name_of(7)}") == 1


def test_passing_troubles_are_waited_out(bucket, tmp_path):
    bucket.faults[f"/{SPLIT}/{name_of(1)}"] = ["cut", "cut"]
    bucket.faults[f"/{SPLIT}/{name_of(2)}"] = [500, 502, "cut", 504]
    assert fetch(tmp_path, bucket, 1, 2, 3) == Report(3, 0, {})
    assert len(bucket.requests) == 3 + 5 + 1


def test_a_silent_server_is_asked_again(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT_SECONDS", 0.2)
    for path in (f"/{SPLIT}/{name_of(1)}", ARCHIVE):
        bucket.faults[path] = [lambda: time.sleep(10)]
    start = time.monotonic()
    assert fetch(tmp_path, bucket, 1) == Report(1, 0, {})
    assert fetch_list(tmp_path, bucket)
    assert time.monotonic() - start < 8


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed_up_to_a_limit(bucket, tmp_path, monkeypatch, status):
    monkeypatch.setattr(http, "MAX_WAIT_SECONDS", 0.4)
    bucket.faults[f"/{SPLIT}/{name_of(1)}"] = [status]
    start = time.monotonic()
    assert fetch(tmp_path, bucket, 1).fetched == 1
    assert 0.4 <= time.monotonic() - start < 5


def test_a_server_that_stays_busy(bucket, tmp_path):
    bucket.faults[f"/{SPLIT}/{name_of(1)}"] = [503] * http.ATTEMPTS
    assert "status 503" in fetch(tmp_path, bucket, 1).failed[name_of(1)]


def test_huge_picture_is_refused(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_download, "MAX_PICTURE_BYTES", 2**20)
    bucket.files[f"/{SPLIT}/{name_of(1)}"] += bytes(2**20)
    assert "larger than 1 MiB" in fetch(tmp_path, bucket, 1, 2).failed[name_of(1)]
    assert files_in(tmp_path) == {f"{SPLIT}/{name_of(2)}"}


def test_grey_and_turned_pictures_are_as_annotated(bucket, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90°
    bucket.files[f"/{SPLIT}/{name_of(1)}"] = jpeg(32, 24, mode="L")
    bucket.files[f"/{SPLIT}/{name_of(2)}"] = jpeg(32, 24, exif=exif)
    assert fetch(tmp_path, bucket, 1, 2) == Report(2, 0, {})
    assert fetch(tmp_path, bucket, 1, 2) == Report(0, 2, {})


def test_files_in_place_are_kept_only_if_whole(bucket, tmp_path):
    fetch(tmp_path, bucket, 1, 2, 3, 4, 5)
    folder, good = tmp_path / SPLIT, bucket.files[f"/{SPLIT}/{name_of(1)}"]
    (folder / name_of(1)).write_bytes(good[:-100])
    (folder / name_of(2)).write_bytes(b"")
    (folder / name_of(3)).write_bytes(jpeg(10, 10))
    (folder / name_of(4)).write_bytes(good + b"\0\0")  # unusual, but decodes
    bucket.requests.clear()
    assert fetch(tmp_path, bucket, 1, 2, 3, 4, 5) == Report(3, 2, {})
    assert set(bucket.requests) == {f"/{SPLIT}/{name_of(i)}" for i in (1, 2, 3)}
    assert (folder / name_of(1)).read_bytes() == good


def test_a_picture_asked_for_twice_is_fetched_once(bucket, tmp_path):
    assert fetch(tmp_path, bucket, 1, 1, 1) == Report(1, 0, {})


def test_leftovers_are_swept_but_annotations_in_progress_are_not(bucket, tmp_path):
    bucket.faults[ARCHIVE] = [None] * 7 + ["cut"] * http.ATTEMPTS
    error(fetch_list, tmp_path, bucket)
    (part,) = files_in(tmp_path)
    folder = tmp_path / Path(part).parent
    (folder / f"{SPLIT}-{name_of(1)}").write_bytes(b"half a pic")
    fetch(tmp_path, bucket, 2)
    assert files_in(tmp_path) == {part, f"{SPLIT}/{name_of(2)}"}


@pytest.mark.parametrize(
    "name",
    ["../1.jpg", "..", "/etc/1.jpg", "a/1.jpg", "a\\1.jpg", ".partial", "", "1\n.jpg", "x" * 300],
)
def test_hostile_file_names(bucket, tmp_path, name):
    bucket.files[f"/{SPLIT}/{name}"] = bucket.files[f"/{name}"] = jpeg(32, 24)
    root = tmp_path / "root"
    images = [Wanted(name, None, None), *pictures(1)]
    report = download_pictures(root, SPLIT, images, bucket.url, progress=False)
    assert report == Report(1, 0, {name: "not a plain file name"})
    assert bucket.requests == [f"/{SPLIT}/{name_of(1)}"]
    assert files_in(tmp_path) == {f"root/{SPLIT}/{name_of(1)}"}


def test_nothing_listening(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        start = time.monotonic()
        images = pictures(*range(5000))
        assert "cannot be reached" in error(
            download_pictures, tmp_path, SPLIT, images, url, progress=False
        )
        assert "cannot be reached" in error(
            download_annotations, tmp_path, SPLIT, url, progress=False
        )
        assert time.monotonic() - start < 5
    assert files_in(tmp_path) == set()


def test_network_lost_on_the_way(bucket, tmp_path):
    bucket.faults[f"/{SPLIT}/{name_of(2)}"] = [bucket.socket.close]
    message = error(fetch, tmp_path, bucket, *range(1, 1000), workers=1)
    assert "cannot be reached" in message
    assert f"{SPLIT}/{name_of(1)}" in files_in(tmp_path)


def test_interrupt_stops_the_queue(bucket, tmp_path):
    first = f"/{SPLIT}/{name_of(1)}"
    bucket.faults[first] = [lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.3))]
    # A run in a shell's background ignores the signal unless told otherwise.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path, bucket, *range(1, 1000), workers=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert bucket.requests == [first]
    assert files_in(tmp_path) == set()


def test_pictures_on_a_full_disk(bucket, small_disk):
    bucket.files[f"/{SPLIT}/{name_of(2)}"] = jpeg(1000, 600)
    images = [*pictures(1), Wanted(name_of(2), 1000, 600), *pictures(3, 4)]
    message = error(
        download_pictures, small_disk, SPLIT, images, bucket.url, progress=False, workers=1
    )
    assert "disk is full" in message
    assert files_in(small_disk) == {f"{SPLIT}/{name_of(1)}"}
    assert f"/{SPLIT}/{name_of(3)}" not in bucket.requests
    assert fetch(small_disk, bucket, 1, 3) == Report(1, 1, {})  # space for a small one is left


def test_folder_that_cannot_be_written(bucket, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert "cannot be written" in error(fetch, tmp_path / "file", bucket, 1)
    assert "cannot be written" in error(fetch_list, tmp_path / "file", bucket)

    def read_only(*arguments: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(os, "fsync", read_only)
    assert "Read-only" in error(fetch, tmp_path, bucket, 1)
    assert files_in(tmp_path) == {"file"}


def test_nothing_is_asked_again_once_stopped(bucket):
    path = f"/{SPLIT}/{name_of(1)}"
    with http.Client() as client:
        client.stop.set()
        bucket.faults[path] = [503] * 9
        with pytest.raises(http.FetchError):
            client.whole(f"{bucket.url}{path}", 1000)
    assert bucket.requests == [path]
