"""A web server that can do all that a bad connection does, and what to ask of it."""

import http.server
import io
import json
import time
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sima_core.coco.annotations import Wanted, download_annotations
from sima_core.coco.download import Report, download_pictures
from sima_core.coco.root import CocoError, annotations_file

SPLIT = "val2017"
ARCHIVE = "/annotations/annotations_trainval2017.zip"
#: Bytes of a range in these tests.
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


def pictures(*ids: int) -> list[Wanted]:
    return [Wanted(name_of(i), 32, 24) for i in ids]


def fetch(root: Path, bucket: Server, *ids: int, **options: int) -> Report:
    return download_pictures(root, SPLIT, pictures(*ids), bucket.url, progress=False, **options)


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
