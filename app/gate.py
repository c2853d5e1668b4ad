"""The gate: what the page's server lets in, and what every answer carries.

An ASGI middleware that stands before Gradio and all that Gradio puts around itself. It lets in
requests to the hosts that are meant, from this page, to the routes that the page and its API need,
with bodies of bounded size and known shape (`app.bodies`); everything else is refused with a
sentence. Gradio's own exceptions end here.
"""

import contextlib
import ipaddress
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import mishaps
from app.arguments import uploaded
from app.bodies import Bodies, Refused
from app.uploads import take_only_files
from sima_core import environment
from sima_core.words import SENTENCE, plain

API = "/gradio_api"
#: The longest path and query string, in bytes.
MAX_ADDRESS = 8192

_READ = re.compile(
    r"/|/(config|theme\.css|robots\.txt|manifest\.json|favicon\.ico)/?"
    r"|/(static|assets|svelte)/[!-~]{1,200}"
    rf"|{API}/(info|openapi\.json|theme\.css|startup-events|app_id|queue/(data|status)"
    r"|upload_progress|heartbeat/[^/]+|call/(v2/)?[^/]+/[^/]+|file=.+)/?"
)
_SEND = re.compile(rf"{API}/(queue/join|upload|cancel|reset|(call/v2|call|run|api)/[^/]+)/?")
#: What no path of ours has, and what Gradio fails over when a page's stream ends.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: The ranges of a file that are given; others are passed over, as HTTP allows.
_RANGE = re.compile(r"bytes=(\d{1,15}-\d{0,15}|-\d{1,15})", re.ASCII)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(:\d{1,5})?")

#: What the page may load and run: its own, inline and made up as Gradio's page has it, and nothing
#: of any other host's.
_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors "
)
#: A visitor's file may load nothing.
_FILE_POLICY = "default-src 'none'; frame-ancestors "


class Gate:
    """Stands before an app; `Bodies` knows what its handlers take."""

    def __init__(self, app: ASGIApp, bodies: Bodies) -> None:
        self._app = app
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            path = _admitted(scope)
            if scope["method"] == "POST":
                receive = await self._bodies.checked(path, scope, receive)
            await self._app(scope, receive, answer.send)
        except Refused as refused:
            await answer.refuse(refused, receive)
        except (ClientDisconnect, HTTPException):
            await answer.end()  # a stream to someone who has left, or whom nothing awaits
        except Exception as error:
            said, status = _said_of(error, scope["path"])
            late = isinstance(
                error.__cause__, HTTPException
            )  # Starlette's, behind a stream's start
            mishaps.note(error, brief=late or status != 500)
            await answer.refuse(Refused(status, said["detail"]), receive)


class _Answer:
    """What goes back: always with our headers, and always to its end."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._begun = self._ended = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            self._add_headers(MutableHeaders(scope=message))
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, refused: Refused, receive: Receive) -> None:
        """Say why not, if nothing was said yet."""
        if self._begun:
            await self.end()
            return
        response = JSONResponse({"detail": refused.detail}, refused.status_code)
        await response(self._scope, receive, self.send)

    async def end(self) -> None:
        """End what was begun."""
        if self._begun and not self._ended:
            with contextlib.suppress(Exception):  # nobody listens any more
                await self.send({"type": "http.response.body", "body": b""})

    def _add_headers(self, headers: MutableHeaders) -> None:
        is_file = self._scope["path"].startswith(f"{API}/file=")
        on_space = bool(environment.SPACE_ID.get())
        framed_by = "'self' https://huggingface.co" if on_space else "'self'"
        policy = _FILE_POLICY if is_file else _PAGE_POLICY
        headers["Content-Security-Policy"] = policy + framed_by
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        if not on_space:
            headers["X-Frame-Options"] = "SAMEORIGIN"


def _admitted(scope: Scope) -> str:
    """The path of a request that may come in; drops headers that Gradio would wrongly believe.

    Raises:
        Refused: it may not.
    """
    headers = Headers(scope=scope)
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_ADDRESS:
        raise Refused(414, "this address is too long.")
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_ours(hosts[0], scope):
        raise Refused(
            421,
            "this page does not answer to this host: whoever runs it may name it in SIMA_HOSTS.",
        )
    _drop(scope, b"x-gradio-server")  # an address that the page would then ask in place of this
    if not all(_is_ours(host, scope) for host in headers.getlist("x-forwarded-host")):
        _drop(scope, b"x-forwarded-host")
    if not all(_RANGE.fullmatch(wanted) for wanted in headers.getlist("range")):
        _drop(scope, b"range")
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    if _CONTROL.search(path):
        raise Refused(404, "there is nothing at this address.")
    if scope["method"] in ("GET", "HEAD"):
        if not _READ.fullmatch(path):
            raise Refused(404, "there is nothing at this address.")
        if path.startswith(f"{API}/file=") and not uploaded(path.split("=", 1)[1]):
            raise Refused(403, "only files that were uploaded or made here can be fetched.")
        return path
    origins = headers.getlist("origin")
    cross_site = headers.get("sec-fetch-site") == "cross-site"
    if cross_site or not all(_is_ours(_host_of(origin), scope) for origin in origins):
        raise Refused(403, "requests of other sites' pages are refused.")
    if scope["method"] not in ("POST", "OPTIONS"):
        raise Refused(405, "this method is not used here: GET and POST are.")
    if not _SEND.fullmatch(path):
        raise Refused(404, "there is nothing at this address.")
    return path


def _drop(scope: Scope, name: bytes) -> None:
    """Have a request come in without a header."""
    scope["headers"] = [header for header in scope["headers"] if header[0] != name]


def _host_of(origin: str) -> str:
    """The host of an origin; empty for ``null`` and what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_ours(host: str, scope: Scope) -> bool:
    """Whether a host, with or without a port, is one that this page answers to.

    Names that lead here are for whoever owns the domain to choose, so that another site can make
    its own name lead here (DNS rebinding); only loopback, the address that was connected to, and
    names that whoever runs the page has given are no one else's.
    """
    parts = _HOST.fullmatch(host)
    if parts is None:
        return False
    name = parts[1].strip("[]").lower()
    if name == "localhost" or name in _named():
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    server = scope.get("server")
    return address.is_loopback or (server is not None and name == server[0])


def _named() -> set[str]:
    """The hosts that are named by whoever runs the page, or by the Space that it runs on."""
    variables = (environment.HOSTS, environment.SPACE_HOST, environment.SERVER_NAME)
    named = ",".join(variable.get() for variable in variables).lower().split(",")
    if space := environment.SPACE_ID.get().lower():  # owner/name
        named.append(re.sub(r"[^a-z0-9]+", "-", space) + ".hf.space")
    return {name.strip().strip("[]") for name in named} - {""}


def app_options(max_upload_bytes: int) -> dict[str, Any]:
    """Options of the FastAPI app that puts the gate before everything, and words into answers."""

    @contextlib.asynccontextmanager
    async def gated(app: Any) -> AsyncIterator[None]:
        take_only_files()
        # `middleware=` would stand behind Gradio's own, which answer some requests themselves.
        bodies = Bodies(app.get_blocks(), max_upload_bytes)
        app.middleware_stack = Gate(app.middleware_stack, bodies)
        yield

    return {
        "lifespan": gated,
        "exception_handlers": {
            RequestValidationError: _misshapen,
            HTTPException: _worded,
            Exception: _broken,
        },
    }


def _misshapen(request: Request, error: Any) -> JSONResponse:
    """Names what is missing or of the wrong kind; FastAPI would send it back whole."""
    names = {str(part["loc"][-1]) for part in error.errors()[:8] if part.get("loc")}
    listed = plain(", ".join(sorted(names)), 60)
    return JSONResponse({"detail": f"missing or of the wrong kind: {listed}."}, 422)


def _worded(request: Request, error: Any) -> JSONResponse:
    detail = error.detail
    if not isinstance(detail, str):
        detail = "this was refused."
    return JSONResponse({"detail": plain(detail, SENTENCE)}, error.status_code, error.headers)


def _broken(request: Request, error: Exception) -> JSONResponse:
    """The answer where Gradio has none; the gate notes what happened."""
    return JSONResponse(*_said_of(error, request.url.path))


def _said_of(error: Exception, path: str) -> tuple[dict[str, str], int]:
    """What is answered to an exception, and its status; 500 where it is a bug of ours."""
    said = mishaps.sentence(error)
    if said != mishaps.SENTENCE:
        return {"detail": said}, 507
    if path.endswith(f"{API}/upload"):
        return {"detail": "This is no upload that can be read: send files with their names."}, 400
    return {"detail": said}, 500
