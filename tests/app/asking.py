"""Requests to a running app as any program can make them, not only the page."""

import http.client
import json
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

JSON = {"Content-Type": "application/json"}


def send(
    app: str, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer; a header's name is written with underscores."""
    connection = http.client.HTTPConnection(urlsplit(app).netloc, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": urlsplit(app).netloc, **named}.items():
        if value is not None:
            connection.putheader(name, value)
    if method != "GET" and "Transfer-Encoding" not in named:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    text = b"" if answer.headers.get_content_type() == "text/event-stream" else answer.read()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text


def post(app: str, path: str, body: object) -> tuple[int, Any]:
    """Status and answer to a JSON body, or to what is given as bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, text = send(app, "POST", f"/gradio_api/{path}", raw, **JSON)
    return status, json.loads(text)


def upload(app: str, *files: Path) -> list[str]:
    """The paths under which files were stored."""
    edge = uuid.uuid4().hex
    body = b""
    for file in files:
        about = f'Content-Disposition: form-data; name="files"; filename="{file.name}"'
        body += f"--{edge}\r\n{about}\r\n\r\n".encode() + file.read_bytes() + b"\r\n"
    body += f"--{edge}--\r\n".encode()
    kind = f"multipart/form-data; boundary={edge}"
    status, _, text = send(app, "POST", "/gradio_api/upload", body, Content_Type=kind)
    assert status == 200, text
    return json.loads(text)


def call(app: str, endpoint: str, data: list[object]) -> Any:
    """What a named endpoint answers: a list, or an object with its error."""
    status, joined = post(app, f"call/{endpoint}", {"data": data})
    if status != 200:
        return {"error": joined["detail"]}
    return list(_events(app, f"/gradio_api/call/{endpoint}/{joined['event_id']}"))[-1]


def _events(app: str, path: str) -> Any:
    connection = http.client.HTTPConnection(urlsplit(app).netloc, timeout=60)
    connection.request("GET", path)
    for line in connection.getresponse():
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
    connection.close()
