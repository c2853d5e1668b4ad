"""What the server lets in, and what every answer carries."""

import hashlib
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gradio import routes
from gradio.route_utils import FileUploadProgress
from starlette.exceptions import HTTPException

from app.bodies import MAX_JSON, Bodies, Refused
from app.gate import Gate
from app.uploads import MAX_FILES, MAX_TRACKED, forget_progress
from tests.app.asking import JSON, post, send, upload
from tests.support import ROOT, awaited

PAGE_HEADERS = ("content-security-policy", "x-content-type-options", "referrer-policy")


def sentence(body: bytes) -> str:
    """What an answer says, which must be short and fit to be printed."""
    said = json.loads(body)["detail"]
    assert isinstance(said, str)
    assert 10 < len(said) <= 200
    assert said.isprintable()
    return said


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        *((host, True) for host in ("127.0.0.1", "127.0.0.1:7860", "localhost", "LOCALHOST:1")),
        *((host, True) for host in ("127.8.9.1", "[::1]", "[::1]:80")),
        *((host, False) for host in ("evil.example", "evil.example:7860", "127.0.0.1.nip.io")),
        *((host, False) for host in ("localhost.evil.example", "", "10.0.0.7", "0.0.0.0", "[::2]")),
        *(
            (host, False)
            for host in ("127.0.0.1@evil.example", "evil.example/localhost", "x" * 300)
        ),
        *((host, False) for host in ("localhost, evil.example", "user:pass@localhost", "[::1")),
    ],
)
def test_only_hosts_that_are_meant_are_answered(app, host, taken):
    status, _, body = send(app, "GET", "/gradio_api/info", Host=host)
    assert status == (200 if taken else 421)
    if not taken:
        assert "SIMA_HOSTS" in sentence(body)


def test_a_request_without_a_host_is_refused(app):
    with socket.create_connection(urlsplit(app).netloc.split(":"), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 421 " in connection.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://[::1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
    ids=str,
)
def test_uploads_of_other_sites_are_not_stored(app, photo_file, tmp_path, headers):
    stored = Path(upload(app, photo_file)[0]).parent.parent
    other = f"of another site {headers}".encode()
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body += other + b"\r\n--x--\r\n"
    kind = "multipart/form-data; boundary=x"
    status, _, said = send(app, "POST", "/gradio_api/upload", body, Content_Type=kind, **headers)
    assert status in (403, 421)
    assert sentence(said)
    assert not (stored / hashlib.sha256(other).hexdigest()).exists()
    own = send(app, "POST", "/gradio_api/upload", body, Content_Type=kind, Origin=app)
    assert own[0] == 200


CLOSED = [
    *(("GET", path) for path in ("monitoring", "monitoring/summary", "monitoring/x", "docs")),
    *(("GET", path) for path in ("gradio_api/heartbeat/%00", "gradio_api/heartbeat/%0d%0aX")),
    *(("GET", path) for path in ("gradio_api/dev/reload", "gradio_api/vibe-code", "../etc/passwd")),
    *(("GET", path) for path in ("gradio_api/proxy=http://127.0.0.1:1/", "gradio_api/deep_link")),
    *(("GET", path) for path in ("gradio_api/custom_component/a/client/b/c", "gradio_api/runs")),
    *(("GET", path) for path in ("gradio_api/stream/a/b/1/playlist.m3u8", "openapi.json")),
    *(("POST", path) for path in ("login", "gradio_api/vibe-edit", "gradio_api/undo-vibe-edit")),
    *(("POST", path) for path in ("gradio_api/process_recording", "gradio_api/stream/x", "")),
    *(("POST", path) for path in ("gradio_api/component_server", "gradio_api/stream/x/close")),
    *(("POST", path) for path in ("gradio_api/run-history/connect", "gradio_api/queue/join/x")),
    *(("POST", path) for path in ("gradio_api/vibe-code", "gradio_api/vibe-starter-queries")),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_the_page_does_not_need_is_closed(app, method, path):
    status, headers, body = send(app, method, f"/{path}", b"{}" * (method == "POST"), **JSON)
    assert status == 404
    assert sentence(body)
    assert all(headers[name] for name in PAGE_HEADERS)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE"])
def test_other_methods_are_closed(app, method):
    status, _, body = send(app, method, "/gradio_api/upload")
    assert status == 405
    assert sentence(body)


JOINS = [
    *({"fn_index": n} for n in (9999, -1, "1", 1.5, None, True, [1], {}, 2**70, float("nan"))),
    *({"data": data} for data in (None, "x", 5, {}, [0] * 1000, True)),
    *({"session_hash": s} for s in (None, "", "x" * 1000, 5, [], "\ud800", "a b", "\x1b[31m", {})),
    *({"trigger_id": t} for t in ("x", 1.5, [], {}, 2**80, True, float("inf"))),
]


@pytest.mark.parametrize("wrong", JOINS, ids=lambda w: ascii(w)[:40])
def test_a_wrong_request_for_the_queue_is_a_sentence(app, wrong):
    sent = {"fn_index": 0, "data": [], "session_hash": "visit", "trigger_id": None} | wrong
    status, said = post(app, "queue/join", sent)
    assert status == 422
    assert next(iter(wrong)) in sentence(json.dumps(said).encode())


@pytest.mark.parametrize(
    "route", ["queue/join", "cancel", "reset", "call/heatmap", "call/v2/heatmap"]
)
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"5", b'"x"', b"{", b"\xff\xfe", b"{}", b"{'a': 1}", b"NaN", b"\0"),
        b"[" * 100_000,
        b'{"data":' + b"[" * 50 + b"]" * 50 + b"}",
        b'{"data": ' + b"9" * 5000 + b"}",
        b'{"session_hash": 5, "fn_index": "x", "event_id": [], "data": 5, "image": []}',
    ],
    ids=lambda b: ascii(b)[:12],
)
def test_no_body_breaks_a_route(app, route, body):
    status, said = post(app, route, body)
    assert status in (400, 422)
    assert sentence(json.dumps(said).encode())


def test_bodies_that_are_too_long_are_refused(app):
    long = b" " * (MAX_JSON + 1)
    status, said = post(app, "queue/join", long)
    assert status == 413
    assert "1 MiB" in said["detail"]
    chunks = (b"%x\r\n%s\r\n" % (2**16, b" " * 2**16)) * 20 + b"0\r\n\r\n"
    headers = JSON | {"Transfer_Encoding": "chunked"}
    assert send(app, "POST", "/gradio_api/queue/join", chunks, **headers)[0] == 413
    for length in ("9" * 30, str(10**12)):
        with socket.create_connection(urlsplit(app).netloc.split(":"), timeout=20) as connection:
            kind = "Content-Type: multipart/form-data; boundary=x"
            connection.sendall(
                f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n"
                f"Content-Length: {length}\r\n\r\n".encode()
            )
            assert connection.recv(4096).split()[1] in (b"413", b"400")


@pytest.mark.parametrize("value", ["[]", "{}", "1", '{"path": "a"}'])
def test_bodies_of_too_many_values_are_refused(app, value):
    """They stop the server for seconds, whatever a handler says to them."""
    many = ", ".join([value] * 20_000)
    for data in (f"[{many}]", f"[[{many}]]", f'[{{"a": [{many}]}}]'):
        body = f'{{"fn_index": 0, "session_hash": "visit", "data": {data}}}'.encode()
        for route in ("queue/join", "call/heatmap"):
            status, said = post(app, route, body)
            assert (status, said["detail"]) == (400, "A body holds at most 4,000 values.")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_other_kinds_of_bodies_are_refused(app, kind):
    """What a form of another site can send without asking first."""
    for path in ("queue/join", "call/heatmap", "upload", "cancel"):
        status, _, body = send(app, "POST", f"/gradio_api/{path}", b"{}", Content_Type=kind)
        assert status == 415
        assert sentence(body)


@pytest.mark.parametrize("name", ["nothing", "explore", "use_model", "%2e%2e", "heatmap/x"])
def test_endpoints_that_are_not_there(app, name):
    for route in ("call", "call/v2", "run", "api"):
        status, said = post(app, f"{route}/{name}", {"data": []})
        assert status == 404
        assert sentence(json.dumps(said).encode())


def test_the_named_arguments_of_an_endpoint(app, photo_file):
    [path] = upload(app, photo_file)
    status, said = post(app, "call/v2/heatmap", {"image": {"path": path}, "lair": 3})
    assert status == 422
    assert "image, layer" in said["detail"]
    assert post(app, "call/v2/heatmap", {"image": {"path": path}, "resolution": 64})[0] == 200


def part(about: str, content: bytes = b"x") -> bytes:
    return b"--x\r\n" + about.encode() + b"\r\n\r\n" + content + b"\r\n"


FILES = 'Content-Disposition: form-data; name="files"; filename='


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary="),
        (b"", "multipart/form-data; boundary=x"),
        (b"no parts", "multipart/form-data; boundary=x"),
        (part(FILES + '"a.png"') + b"--y--", "multipart/form-data; boundary=x"),
        (part(FILES + '"a.png"')[:50], "multipart/form-data; boundary=x"),
        (part(FILES + f'"{"a" * 10_000_000}"'), "multipart/form-data; boundary=x"),
        (part(FILES + '"' + "b" * 3000 + '.png"') + b"--x--", "multipart/form-data; boundary=x"),
        (part(FILES + '"a.png"', b"") * 1200 + b"--x--", "multipart/form-data; boundary=x"),
        (part("X-None: 1") + b"--x--", "multipart/form-data; boundary=x"),
        (
            part('Content-Disposition: form-data; name="files"') + b"--x--",
            "multipart/form-data; boundary=x",
        ),
        (part(FILES + '"a.png"') + b"--x--", "multipart/form-data; boundary=x; charset=\x7fnone"),
        *(
            (part(FILES + name) + b"--x--", "multipart/form-data; boundary=x")
            for name in (
                '"../../../../etc/cron.d/x"',
                '"/etc/passwd"',
                '".."',
                '"."',
                '""',
                '"\x1b[31m"',
            )
        ),
        (part(FILES + '"a\0b.png"') + b"--x--", "multipart/form-data; boundary=x"),
    ],
    ids=range(19),
)
def test_no_upload_breaks_the_server(app, body, kind):
    for query in ("", "?upload_id=x"):
        path = f"/gradio_api/upload{query}"
        status, _, said = send(app, "POST", path, body, Content_Type=kind)
        assert status in (200, 400, 413), said
        assert len(said) < 200_000
        if status == 200:
            stored = [Path(name).resolve() for name in json.loads(said)]
            assert all(len(name.parent.name) == 64 for name in stored)  # a folder by its hash


@pytest.mark.parametrize(
    "parts",
    [
        part(FILES + '"a.png"') + part('Content-Disposition: form-data; name="x"', b"y" * 2**20),
        part(FILES + '"a.png"') * (MAX_FILES + 1),
    ],
    ids=["a field", "too many files"],
)
def test_uploads_hold_files_alone_and_few(app, parts):
    """A field would be gathered in memory, and thousands of files stop the server for seconds."""
    kind = "multipart/form-data; boundary=x"
    body = parts + b"--x--\r\n"
    status, _, said = send(app, "POST", "/gradio_api/upload", body, Content_Type=kind)
    assert status == 400
    assert said.decode() == f"Send files alone here, at most {MAX_FILES} at once."


def test_the_progress_of_uploads_that_nobody_asks_for_is_forgotten(monkeypatch):
    progress = FileUploadProgress()
    monkeypatch.setattr(routes, "file_upload_statuses", progress)
    for number in range(MAX_TRACKED + 5):
        progress.append(str(number), "a.png", b"x")
    forget_progress()
    assert len(progress._statuses) == len(progress._signals) == MAX_TRACKED
    assert not progress.is_done(str(MAX_TRACKED + 4))


@pytest.mark.parametrize("name", ["page.html", "drawing.svg", "script.js", "page.xhtml"])
def test_an_uploaded_page_is_not_shown_as_a_page(app, tmp_path, name):
    (tmp_path / name).write_text("<script>alert(1)</script>")
    [path] = upload(app, tmp_path / name)
    status, headers, _ = send(app, "GET", f"/gradio_api/file={path}")
    assert status == 200
    assert headers["content-disposition"].startswith("attachment")
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/etc/passwd",
            "etc/passwd",
            "/proc/self/environ",
            "/dev/ptmx",
            "",
            "/",
            "../../etc/passwd",
        ),
        *(
            str(ROOT / "app.py"),
            "app.py",
            "./app.py",
            "http://127.0.0.1:1/",
            "https://example.org/",
        ),
        *(
            "{folder}",
            "{folder}/",
            "{folder}/../../etc/passwd",
            "{folder}/%2e%2e/%2e%2e/etc/passwd",
        ),
        *(
            "{folder}/missing",
            "{folder}/%00",
            "file:///etc/passwd",
            "//etc/passwd",
            "%2Fetc%2Fpasswd",
        ),
    ],
)
def test_only_files_that_were_uploaded_are_fetched(app, photo_file, path):
    folder = Path(upload(app, photo_file)[0]).parent.parent
    address = f"/gradio_api/file={path.replace('{folder}', str(folder))}"
    status, _, body = send(app, "GET", address)
    assert status in (403, 404)
    assert sentence(body)


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        *((wanted, 206) for wanted in ("bytes=0-10", "bytes=5-", "bytes=-5")),
        *((wanted, 200) for wanted in ("bytes=1-2-3", "bytes=\xb2-\xb3", "bytes=-", "lines=1-2")),
        *((wanted, 200) for wanted in (f"bytes=0-{'9' * 5000}", "bytes=" + "0-1," * 1000)),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_ranges_that_make_no_sense_are_passed_over(app, photo_file, wanted, status):
    [path] = upload(app, photo_file)
    answered, _, body = send(app, "GET", f"/gradio_api/file={path}", Range=wanted)
    assert answered == status
    assert (body == photo_file.read_bytes()) == (status == 200)


@pytest.mark.parametrize("path", ["a%00b", "a" * 300, "a/" * 3000])
def test_names_that_no_file_has_are_not_looked_for(app, path):
    for folder in ("static", "assets", "svelte"):
        status, _, body = send(app, "GET", f"/{folder}/{path}")
        assert status == 404
        assert sentence(body)


def test_a_long_address_is_refused(app):
    for path in ("/?" + "x" * 20_000, "/gradio_api/file=/" + "x" * 20_000):
        status, _, body = send(app, "GET", path)
        assert status == 414
        assert sentence(body)


def test_the_page_names_no_folder_of_the_server(app, photo_file):
    folder = str(Path(upload(app, photo_file)[0]).parent.parent)
    places = {folder, str(ROOT), str(Path.home()), "site-packages", str(Path.cwd())} - {"/"}
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/theme.css"):
        _, _, body = send(app, "GET", path)
        assert not [place for place in places if place in body.decode()], path


def test_every_answer_has_the_headers_and_none_is_for_another_host(app):
    for path in ("/", "/config", "/assets/none.js", "/theme.css", "/gradio_api/info"):
        _, headers, _ = send(app, "GET", path)
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'self'" in policy
        assert "http" not in policy
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"]


def test_another_host_is_not_written_into_answers(app):
    for header in ("X_Forwarded_Host", "X_Gradio_Server", "X_Direct_Url"):
        _, _, body = send(app, "GET", "/config", **{header: "http://evil.example"})
        assert b"evil.example" not in body
    _, _, body = send(app, "GET", "/config", X_Forwarded_Host="evil.example")
    assert b"evil.example" not in body


def answer(app: object, **scope: object) -> tuple[int, dict[str, str], bytes]:
    """What the gate before an app answers to one request."""
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send_on(message: dict[str, object]) -> None:
        sent.append(message)

    request = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "root_path": ""}
    request |= {"headers": [(b"host", b"localhost")], "server": ("127.0.0.1", 80), **scope}
    awaited(Gate(app, Bodies(None, 0))(request, receive, send_on))
    headers = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
    assert not sent[-1].get("more_body")
    return sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:])


async def well(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"well"})


@pytest.mark.parametrize("begun", [False, True])
def test_what_breaks_behind_the_gate_is_a_sentence_and_a_short_note(capfd, begun):
    async def broken(scope, receive, send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("\x1b[31m" + "x" * 10**7)

    status, _, body = answer(broken)
    assert (status, len(body) > 0) == ((200, False) if begun else (500, True))
    noted = capfd.readouterr().err
    assert "KeyError" in noted
    assert len(noted) < 10_000
    assert "\x1b" not in noted


def test_a_stream_that_nothing_belongs_to_is_a_word_in_the_log(capfd):
    async def behind_a_stream(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("response already started") from HTTPException(404)

    assert answer(behind_a_stream)[0] == 200
    assert len(capfd.readouterr().err) < 100


def test_hosts_that_are_named_and_the_address_itself(monkeypatch):
    def status(host: bytes, server: str = "127.0.0.1") -> int:
        return answer(well, headers=[(b"host", host)], server=(server, 80))[0]

    assert status(b"lens.example.org:443") == 421
    monkeypatch.setenv("SIMA_HOSTS", "lens.example.org, Other.example")
    assert status(b"lens.example.org:443") == status(b"other.example") == 200
    assert status(b"x.lens.example.org") == status(b"lens.example.org.evil.example") == 421
    assert status(b"192.168.1.5:7860", server="192.168.1.5") == 200
    assert status(b"192.168.1.6:7860", server="192.168.1.5") == 421


@pytest.mark.parametrize("named", [True, False])
def test_a_space_may_be_framed_by_its_host_alone(monkeypatch, named):
    monkeypatch.setenv("SPACE_ID", "Someone/lens")
    if named:
        monkeypatch.setenv("SPACE_HOST", "someone-lens.hf.space")
    assert answer(well, headers=[(b"host", b"other-lens.hf.space")])[0] == 421
    status, headers, _ = answer(well, headers=[(b"host", b"someone-lens.hf.space")])
    assert status == 200
    assert "x-frame-options" not in headers
    policy = headers["content-security-policy"]
    assert policy.endswith("frame-ancestors 'self' https://huggingface.co")


def test_a_sentence_begins_like_one():
    assert Refused(400, "this is no JSON.").detail == "This is no JSON."
