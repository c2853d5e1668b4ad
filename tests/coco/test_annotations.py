"""Fetching the annotations: one member of a large archive, by ranges."""

import json
import resource
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from sima_core.coco import annotations, http
from sima_core.coco.root import CocoError, annotations_file

from .support import ARCHIVE, BLOCK, SPLIT, archive, error, fetch_list, files_in, listing, member


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_only_the_wanted_member_is_read(server, tmp_path, compression):
    wanted = listing([1, 2])
    others = np.random.default_rng(2).bytes(2_000_000)
    members = {"a.json": others, f"instances_{SPLIT}.json": wanted, "z.json": others}
    server.files[ARCHIVE] = archive(members, compression)
    assert fetch_list(tmp_path, server)
    assert annotations_file(tmp_path, SPLIT).read_bytes() == wanted
    size = member(server.files[ARCHIVE]).compress_size
    assert size <= server.served[ARCHIVE] <= size + 2000  # the archive's directory and headers
    assert files_in(tmp_path) == {f"annotations/instances_{SPLIT}.json"}
    server.requests.clear()
    assert not fetch_list(tmp_path, server)
    assert server.requests == []


def test_test2017_has_an_archive_of_its_own(server, tmp_path):
    content = archive({"image_info_test2017.json": listing([1], padding=10)})
    server.files["/annotations/image_info_test2017.zip"] = content
    assert fetch_list(tmp_path, server, "test2017")
    assert annotations_file(tmp_path, "test2017").exists()


@pytest.mark.parametrize("fault", ["cut", "promise less", "serve less", 503])
def test_any_request_may_fail(server, tmp_path, fault):
    content = listing([1], padding=10)
    server.files[ARCHIVE] = archive({f"instances_{SPLIT}.json": content})
    needed = 0
    while not needed or server.faults[ARCHIVE] == []:  # until the fault comes after all requests
        server.faults[ARCHIVE] = [None] * needed + [fault]
        root = tmp_path / str(needed)
        assert fetch_list(root, server)
        assert annotations_file(root, SPLIT).read_bytes() == content
        needed += 1
    assert needed > 3


def test_a_list_that_unpacks_to_too_much_is_not_fetched(server, tmp_path, monkeypatch):
    server.files[ARCHIVE] = archive(
        {f"instances_{SPLIT}.json": listing([1], padding=10) + b" " * 10**6}
    )
    size = member(server.files[ARCHIVE]).compress_size
    monkeypatch.setattr(annotations, "MAX_LIST_BYTES", 10**6)
    assert size < 10**6
    with pytest.raises(CocoError, match="too large to be read"):
        fetch_list(tmp_path, server)
    assert server.served[ARCHIVE] <= 2000  # of the archive's directory


def test_cut_blocks_are_fetched_again(bucket, tmp_path):
    bucket.faults[ARCHIVE] = ["cut", 503, *[None] * 7, "cut", None, "cut", 503, "cut", None, "cut"]
    assert fetch_list(tmp_path, bucket)
    assert bucket.faults[ARCHIVE] == []
    size = member(bucket.files[ARCHIVE]).compress_size
    assert bucket.served[ARCHIVE] < size + 4 * BLOCK + 2000


def test_what_arrived_is_kept_when_the_server_gives_up(bucket, tmp_path):
    bucket.faults[ARCHIVE] = [None] * 7 + ["cut"] * http.ATTEMPTS
    assert "check the network" in error(fetch_list, tmp_path, bucket)
    assert bucket.faults[ARCHIVE] == []
    assert not annotations_file(tmp_path, SPLIT).exists()
    first = bucket.served[ARCHIVE]
    assert fetch_list(tmp_path, bucket)
    size = member(bucket.files[ARCHIVE]).compress_size
    assert first > 3 * BLOCK
    assert bucket.served[ARCHIVE] < size + (http.ATTEMPTS + 1) * BLOCK


def test_killed_download_goes_on_where_it_stopped(bucket, tmp_path):
    bucket.delay = 0.05
    size = member(bucket.files[ARCHIVE]).compress_size
    code = (
        "import sys; from pathlib import Path; from sima_core.coco import annotations as c;"
        f"c.BLOCK_BYTES = {BLOCK}; c.download_annotations(Path(sys.argv[1]), *sys.argv[2:])"
    )
    command = [sys.executable, "-c", code, str(tmp_path), SPLIT, bucket.url]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while bucket.served[ARCHIVE] < size // 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    before = bucket.served[ARCHIVE]
    assert size // 2 <= before < size
    assert not annotations_file(tmp_path, SPLIT).exists()
    bucket.delay = 0
    assert fetch_list(tmp_path, bucket)
    assert bucket.served[ARCHIVE] < size + BLOCK + 2000
    assert len(json.loads(annotations_file(tmp_path, SPLIT).read_bytes())["images"]) == 6


def test_part_of_another_archive_is_not_continued(bucket, tmp_path):
    bucket.faults[ARCHIVE] = [None] * 7 + ["cut"] * http.ATTEMPTS
    error(fetch_list, tmp_path, bucket)
    renewed = listing([8, 9], padding=50_000)
    bucket.files[ARCHIVE] = archive({f"instances_{SPLIT}.json": renewed})
    assert fetch_list(tmp_path, bucket)
    assert annotations_file(tmp_path, SPLIT).read_bytes() == renewed
    assert files_in(tmp_path) == {f"annotations/instances_{SPLIT}.json"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_annotations_are_thrown_away(server, tmp_path, compression):
    good = archive({f"instances_{SPLIT}.json": listing([1])}, compression)
    middle = len(good) // 2
    server.files[ARCHIVE] = good[:middle] + bytes([good[middle] ^ 64]) + good[middle + 1 :]
    assert "damaged" in error(fetch_list, tmp_path, server)
    assert files_in(tmp_path) == set()
    server.files[ARCHIVE] = good
    assert fetch_list(tmp_path, server)


def test_archives_that_are_no_good(server, tmp_path):
    assert "check the address" in error(fetch_list, tmp_path, server)  # 404
    server.files[ARCHIVE] = b"<html>Welcome</html>" * 1000
    assert "no zip archive" in error(fetch_list, tmp_path, server)
    server.files[ARCHIVE] = archive({"instances_train2017.json": listing([1])})
    assert f"holds no instances_{SPLIT}.json" in error(fetch_list, tmp_path, server)
    server.files[ARCHIVE] = archive({f"instances_{SPLIT}.json": b'{"licenses": []}'})
    assert "damaged" in error(fetch_list, tmp_path, server)
    server.files[ARCHIVE] = archive({f"instances_{SPLIT}.json": listing([1])})
    server.ranges = False
    assert "does not serve parts" in error(fetch_list, tmp_path, server)
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("zeros", [0, 300_000])  # too large as it comes; only when inflated
def test_annotations_on_a_full_disk(server, small_disk, zeros):
    content = listing([1], padding=60_000 if zeros else 500_000) + b" " * zeros
    server.files[ARCHIVE] = archive({f"instances_{SPLIT}.json": content})
    assert "disk is full" in error(fetch_list, small_disk, server)
    assert not annotations_file(small_disk, SPLIT).exists()
    (part,) = files_in(small_disk)  # kept: the next run goes on from it
    assert part.endswith(".part")
    space = small_disk.parent / "more space"
    (space / ".partial").mkdir(parents=True)
    (space / part).write_bytes((small_disk / part).read_bytes())
    before = server.served[ARCHIVE]
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert fetch_list(space, server)
    assert annotations_file(space, SPLIT).read_bytes() == content
    rest = member(server.files[ARCHIVE]).compress_size - (small_disk / part).stat().st_size
    assert server.served[ARCHIVE] - before < rest + 2000
