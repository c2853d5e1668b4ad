"""Hostile HTTP: what no browser sends, and what a browser sends for somebody else's page."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from tests.support import ROOT

_API = "/gradio_api"
_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": "multipart/form-data; boundary=b"}
_UPLOAD = (
    b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nx\r\n--b--\r\n'
)
#: Seconds until a request must be answered, with whatever it is.
TIMEOUT = 10.0


@dataclass(frozen=True)
class Request:
    """One request; it must be refused where `refused`, and never be a server's error."""

    name: str
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    refused: bool = False


def _join(name: str, **changes: object) -> Request:
    body = {"data": [], "fn_index": 72, "session_hash": "s", **changes}
    text = json.dumps(body).encode("utf-8", "surrogatepass")
    return Request(f"join {name}", "POST", f"{_API}/queue/join", _JSON, text)


def requests() -> Iterator[Request]:
    """All of them."""
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:7860", "[::2]", ""):
        yield Request(f"host {host!r}", "GET", "/", {"Host": host}, refused=True)
    elsewhere = {"Host": "evil.example", "Origin": "http://evil.example"}
    yield Request(
        "upload for another host", "POST", f"{_API}/upload", {**_FORM, **elsewhere}, _UPLOAD, True
    )
    for origin in ("http://evil.example", "null"):
        headers = {**_FORM, "Origin": origin}
        yield Request(f"upload from {origin}", "POST", f"{_API}/upload", headers, _UPLOAD, True)
        body = b'{"data":[],"fn_index":1,"session_hash":"s"}'
        yield Request(
            f"join from {origin}",
            "POST",
            f"{_API}/queue/join",
            {**_JSON, "Origin": origin},
            body,
            True,
        )
    for index in (-1, 10**9, 10**400, "x", None, 1.5, [], {}, True, 0):
        yield _join(f"index {str(index)[:20]}", fn_index=index)
    for name, value in (
        ("list", [1]),
        ("null", None),
        ("object", {}),
        ("number", 7),
        ("surrogate", "\ud800"),
        ("long", "s" * 10**6),
    ):
        yield _join(f"session {name}", session_hash=value)
    for name, value in (("text", "x"), ("null", None), ("object", {}), ("long", [0] * 10**5)):
        yield _join(f"data {name}", data=value)
    for field_ in ("event_data", "trigger_id", "simple_format", "batched", "event_id", "request"):
        for value in ("x", [[]], 10**30, {"a": {}}):
            yield _join(f"{field_} {value!r:.12}", **{field_: value})
    deep = b"[" * 100_000 + b"]" * 100_000
    for name, body in (
        ("deep", b'{"data":' + deep + b"}"),
        ("rubbish", b"\xff\xfe"),
        ("empty", b""),
        ("cut", b'{"data":['),
        ("digits", b'{"data":[' + b"9" * 10**5 + b"]}"),
        ("large", b'{"data":["' + b"x" * (20 << 20) + b'"]}'),
        ("nan", b'{"data":[NaN],"fn_index":NaN}'),
    ):
        for path in ("queue/join", "call/heatmap", "cancel", "reset", "component_server"):
            yield Request(f"{path} body {name}", "POST", f"{_API}/{path}", _JSON, body)
    for path in _PATHS:
        yield Request(f"path {path[:40]}", "GET", path)
    for path in _CLOSED:
        yield Request(f"closed {path[:60]}", "GET", path, refused=True)
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND"):
        yield Request(f"method {method}", method, "/")
    for name, form in _FORMS.items():
        yield Request(f"form {name}", "POST", f"{_API}/upload", _FORM, form)
    yield Request(
        "form no boundary", "POST", f"{_API}/upload", {"Content-Type": "multipart/form-data"}, b"x"
    )
    yield Request("upload id", "POST", f"{_API}/upload?upload_id=" + "a" * 5000, _FORM, _UPLOAD)
    yield Request("header long", "GET", "/", {"X-Long": "a" * 60_000})
    yield Request("cookie long", "GET", "/", {"Cookie": "a=" + "b" * 30_000})
    yield Request("range", "GET", "/", {"Range": "bytes=" + "0-1," * 5000})
    yield Request(
        "forwarded",
        "GET",
        "/",
        {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "javascript"},
    )


#: May be answered or not, but never with an error of the server's.
_PATHS = (
    "/?__theme=%00", "/" + "a" * 20_000, "/%00", "/%ff%fe", "/static/../../../../etc/passwd",
    f"{_API}/queue/data?session_hash=nobody", f"{_API}/queue/data", f"{_API}/call/heatmap/nothing",
    f"{_API}/heartbeat/%00", f"{_API}/info?serialize=x", f"{_API}/startup-events", "/config",
    f"{_API}/upload_progress?upload_id=nobody", f"{_API}/queue/status", "/theme.css", "/robots.txt",
    f"{_API}/stream/s/r/c/playlist.m3u8", f"{_API}/custom_component/x/y/z/w", "/svelte/x",
    f"{_API}/deep_link", f"{_API}/openapi.json", f"{_API}/app_id", "/manifest.json", "/pwa_icon",
    f"{_API}/dev/reload",
)  # fmt: skip
#: What must not be had.
_CLOSED = (
    "/monitoring", "/monitoring/x", f"{_API}/file=/etc/passwd", f"{_API}/file=../../etc/passwd",
    f"{_API}/file={ROOT}/app.py", f"{_API}/file=%2Fetc%2Fpasswd", f"{_API}/file=/proc/self/environ",
    f"{_API}/file=http://127.0.0.1:9/", f"{_API}/proxy=http://127.0.0.1:9/", "/assets/../app.py",
    "/assets/..%2f..%2fapp.py", f"{_API}/file=/dev/zero",
)  # fmt: skip
_FORMS = {
    "name traversal": _UPLOAD.replace(b"a.png", b"../../../../../../tmp/pwned/a.png"),
    "name absolute": _UPLOAD.replace(b"a.png", b"/tmp/pwned/a.png"),
    "name long": _UPLOAD.replace(b"a.png", b"n" * 100_000),
    "name nul": _UPLOAD.replace(b"a.png", b"a\0.png"),
    "name no utf-8": _UPLOAD.replace(b"a.png", b"\xff\xfe"),
    "name empty": _UPLOAD.replace(b"a.png", b""),
    "name control": _UPLOAD.replace(b"a.png", b"\x1b[2J.png"),
    "cut": _UPLOAD[:60],
    "many": _UPLOAD[:-7] * 2_000 + b"--b--\r\n",
    "no file": b"--b--\r\n",
    "empty": b"",
}


def wrong_with_request(url: str, request: Request) -> list[str]:
    """Send it; what is wrong with the answer."""
    try:
        with (
            httpx2.Client(base_url=url, timeout=TIMEOUT) as client,
            client.stream(
                request.method, request.path, headers=request.headers, content=request.body
            ) as answer,
        ):
            start = next(answer.iter_bytes(4096), b"") if _ends(answer) else b""
    except httpx2.TimeoutException:
        return [f"no answer in {TIMEOUT:.0f} s"]
    except httpx2.InvalidURL:
        return []  # cannot be sent at all
    except httpx2.HTTPError:
        return []  # the door was shut
    found = []
    if answer.status_code >= 500 and answer.status_code != 503:
        found.append(f"answered with {answer.status_code}")
    if request.refused and answer.status_code < 400:
        found.append(f"was not refused: {answer.status_code}")
    ours = str(ROOT).encode() if str(ROOT) not in request.path else b"import app"
    if any(told in start for told in (b"Traceback", b"root:x:", ours)):
        found.append("told of the server")
    return found


def _ends(answer: httpx2.Response) -> bool:
    return not answer.headers.get("content-type", "").startswith("text/event-stream")


def wrong_with_page(url: str) -> list[str]:
    """What is wrong with the page itself: headers that are missing, folders that it names."""
    page = httpx2.get(url, timeout=TIMEOUT)
    config = httpx2.get(f"{url}/config", timeout=TIMEOUT)
    policy = page.headers.get("content-security-policy", "")
    found = []
    if "frame-ancestors" not in policy and "x-frame-options" not in page.headers:
        found.append("the page may be framed")
    if not policy:
        found.append("the page has no content-security policy")
    folders = (str(ROOT), str(Path(httpx2.__file__).parent.parent), str(Path.home() / ".cache"))
    if any(folder in text for folder in folders for text in (page.text, config.text)):
        found.append("the page names a folder of the server")
    return found


def hold_connections(url: str, count: int = 100) -> list[socket.socket]:
    """Open connections that never end their request; the caller closes them."""
    where = urlsplit(url)
    held = []
    for _ in range(count):
        with suppress(OSError):
            one = socket.create_connection((where.hostname or "", where.port or 0), timeout=5)
            one.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
            held.append(one)
    return held
