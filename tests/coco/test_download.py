"""Fetching COCO: from a local server that can do all that a bad connection does."""

import errno
import http.server
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sima_core.coco import download as coco_download
from sima_core.coco.download import Report, Wanted, download, download_annotations, download_images
from sima_core.coco.root import CocoError, annotations_file

SPLIT = "val2017"
ARCHIVE = "/annotations/annotations_trainval2017.zip"
BLOCK = 2**12


def jpeg(width: int, height: int, seed: int = 0, mode: str = "RGB", **options: object) -> bytes:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def name_of(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


def listing(ids: list[int], padding: int = 60_000) -> bytes:
    """An annotations file; `padding` bytes of it hardly compress."""
    images = [{"id": i, "file_name": name_of(i), "width": 32, "height": 24} for i in ids]
    noise = np.random.default_rng(1).bytes(padding // 2).hex()
    return json.dumps({"images": images, "info": noise}).encode()


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            # Zip64 puts more into the header before a member than the directory says of it.
            with file.open(f"annotations/{name}", "w", force_zip64=True) as member:
                member.write(content)
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """COCO's bucket. `faults` holds, by path, what goes wrong with the next GETs, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[object]] = defaultdict(list)
        self.requests: list[str] = []
        self.served: Counter[str] = Counter()
        self.ranges = True
        self.delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *args: object) -> None:
        pass  # clients of these tests hang up as they like


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, or each answer takes 40 ms
    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        server, path = self.server, self.path
        server.requests.append(path)
        fault = server.faults[path].pop(0) if body and server.faults[path] else None
        content, status = server.files.get(path), 200
        if callable(fault):
            fault()
        if isinstance(fault, int) or content is None:
            self.send_response(fault if isinstance(fault, int) else 404)
            self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = self.headers["Range"] if server.ranges else None
        if wanted:
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            content, status = content[first : last + 1], 206
            time.sleep(server.delay)
        if fault == "serve less":
            content = content[: len(content) // 2]
        self.send_response(status)
        promised = 2 * len(content) if fault == "promise more" else len(content)
        promised = len(content) // 2 if fault == "promise less" else promised
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        if body:
            sent = content[: len(content) // 2] if fault == "cut" else content
            # Counted first: the client may go on before this thread comes back from the network.
            server.served[path] += len(sent)
            self.wfile.write(sent)
            self.wfile.flush()
        self.close_connection = fault is not None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def bucket(server: Server) -> Server:
    """The server with six pictures and, in the archive, their list and two large other members."""
    for i in range(1, 7):
        server.files[f"/{SPLIT}/{name_of(i)}"] = jpeg(32, 24, seed=i)
    noise = np.random.default_rng(2).bytes(2_000_000)
    server.files[ARCHIVE] = archive(
        {
            "instances_train2017.json": noise,
            f"instances_{SPLIT}.json": listing([6, 3, 1, 2, 4, 5]),
            "captions_val2017.json": noise,
        }
    )
    return server


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_download, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(coco_download, "MAX_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(coco_download, "BLOCK_BYTES", BLOCK)


def pictures(*ids: int) -> list[Wanted]:
    return [Wanted(name_of(i), 32, 24) for i in ids]


def fetch(root: Path, bucket: Server, *ids: int, **options: int) -> Report:
    return download_images(root, SPLIT, pictures(*ids), bucket.url, progress=False, **options)


def fetch_list(root: Path, bucket: Server, split: str = SPLIT) -> bool:
    return download_annotations(root, split, bucket.url, progress=False)


def error(function: object, *arguments: object, **options: object) -> str:
    with pytest.raises(CocoError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "/tmp" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def files_in(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


def member(content: bytes, split: str = SPLIT) -> zipfile.ZipInfo:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return file.getinfo(f"annotations/{annotations_file(Path(), split).name}")


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


# ---- Annotations -----------------------------------------------------------------------------


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


def test_cut_blocks_are_fetched_again(bucket, tmp_path):
    bucket.faults[ARCHIVE] = ["cut", 503, *[None] * 7, "cut", None, "cut", 503, "cut", None, "cut"]
    assert fetch_list(tmp_path, bucket)
    assert bucket.faults[ARCHIVE] == []
    size = member(bucket.files[ARCHIVE]).compress_size
    assert bucket.served[ARCHIVE] < size + 4 * BLOCK + 2000


def test_what_arrived_is_kept_when_the_server_gives_up(bucket, tmp_path):
    bucket.faults[ARCHIVE] = [None] * 7 + ["cut"] * coco_download.ATTEMPTS
    assert "check the network" in error(fetch_list, tmp_path, bucket)
    assert bucket.faults[ARCHIVE] == []
    assert not annotations_file(tmp_path, SPLIT).exists()
    first = bucket.served[ARCHIVE]
    assert fetch_list(tmp_path, bucket)
    size = member(bucket.files[ARCHIVE]).compress_size
    assert first > 3 * BLOCK
    assert bucket.served[ARCHIVE] < size + (coco_download.ATTEMPTS + 1) * BLOCK


def test_killed_download_goes_on_where_it_stopped(bucket, tmp_path):
    bucket.delay = 0.05
    size = member(bucket.files[ARCHIVE]).compress_size
    code = (
        "import sys; from pathlib import Path; from sima_core import coco_download as c;"
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
    bucket.faults[ARCHIVE] = [None] * 7 + ["cut"] * coco_download.ATTEMPTS
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


# ---- Pictures --------------------------------------------------------------------------------


def test_one_bad_picture_does_not_stop_the_others(bucket, tmp_path):
    good = bucket.files[f"/{SPLIT}/{name_of(1)}"]
    bucket.files[f"/{SPLIT}/{name_of(2)}"] = good[: len(good) // 2]
    bucket.files[f"/{SPLIT}/{name_of(3)}"] = b"<html>Welcome</html>"
    bucket.files[f"/{SPLIT}/{name_of(4)}"] = jpeg(24, 32)
    bucket.faults[f"/{SPLIT}/{name_of(5)}"] = ["promise less"]
    bucket.faults[f"/{SPLIT}/{name_of(6)}"] = ["promise more"] * coco_download.ATTEMPTS
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
    monkeypatch.setattr(coco_download, "TIMEOUT_SECONDS", 0.2)
    for path in (f"/{SPLIT}/{name_of(1)}", ARCHIVE):
        bucket.faults[path] = [lambda: time.sleep(10)]
    start = time.monotonic()
    assert fetch(tmp_path, bucket, 1) == Report(1, 0, {})
    assert fetch_list(tmp_path, bucket)
    assert time.monotonic() - start < 8


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed_up_to_a_limit(bucket, tmp_path, monkeypatch, status):
    monkeypatch.setattr(coco_download, "MAX_WAIT_SECONDS", 0.4)
    bucket.faults[f"/{SPLIT}/{name_of(1)}"] = [status]
    start = time.monotonic()
    assert fetch(tmp_path, bucket, 1).fetched == 1
    assert 0.4 <= time.monotonic() - start < 5


def test_a_server_that_stays_busy(bucket, tmp_path):
    bucket.faults[f"/{SPLIT}/{name_of(1)}"] = [503] * coco_download.ATTEMPTS
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
    bucket.faults[ARCHIVE] = [None] * 7 + ["cut"] * coco_download.ATTEMPTS
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
    report = download_images(root, SPLIT, images, bucket.url, progress=False)
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
            download_images, tmp_path, SPLIT, images, url, progress=False
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


# ---- Disks -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes no file above 200 kB: a disk of that size, or else a limit on files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if mounted:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_pictures_on_a_full_disk(bucket, small_disk):
    bucket.files[f"/{SPLIT}/{name_of(2)}"] = jpeg(1000, 600)
    images = [*pictures(1), Wanted(name_of(2), 1000, 600), *pictures(3, 4)]
    message = error(
        download_images, small_disk, SPLIT, images, bucket.url, progress=False, workers=1
    )
    assert "disk is full" in message
    assert files_in(small_disk) == {f"{SPLIT}/{name_of(1)}"}
    assert f"/{SPLIT}/{name_of(3)}" not in bucket.requests
    assert fetch(small_disk, bucket, 1, 3) == Report(1, 1, {})  # space for a small one is left


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


def test_folder_that_cannot_be_written(bucket, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert "cannot be written" in error(fetch, tmp_path / "file", bucket, 1)
    assert "cannot be written" in error(fetch_list, tmp_path / "file", bucket)

    def read_only(*arguments: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(os, "fsync", read_only)
    assert "Read-only" in error(fetch, tmp_path, bucket, 1)
    assert files_in(tmp_path) == {"file"}
