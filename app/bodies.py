"""What may be sent to the server: the size and the shape of bodies, before Gradio reads them."""

import asyncio
import inspect
import json
import re
from collections.abc import Callable
from typing import Any

from gradio import Blocks
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from app.words import capitalized

#: Bytes of a JSON body, and of what surrounds a file in an upload.
MAX_JSON = 2**20
#: Seconds in which a JSON body must have come, and for which an upload may pause.
MAX_SECONDS, MAX_PAUSE = 30, 60
#: Values in a body, all together, and how deep they may lie in one another: every one costs Gradio
#: time, in which nobody is answered. The page sends some hundred, 6 deep.
MAX_PARTS, MAX_DEPTH = 4000, 20
#: Values that one call may hand over; the page's handlers take up to 9.
MAX_VALUES = 64

_SESSION = re.compile(r"[!-~]{1,128}")
_ROUTE = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset|call/v2|call|run|api)/?(.*?)/?")


class Refused(HTTPException):
    """A request that is not let in: a status, and a sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, capitalized(sentence))


class Bodies:
    """Checks the bodies of requests to the handlers of a page."""

    def __init__(self, page: Blocks, max_upload_bytes: int) -> None:
        self._page = page
        self._max_upload = max_upload_bytes + MAX_JSON

    async def checked(self, path: str, scope: Scope, receive: Receive) -> Receive:
        """What gives the app the body of a POST: checked, or counted while it comes.

        Raises:
            Refused: too long, or not what this route takes.
        """
        route = _ROUTE.fullmatch(path)
        assert route is not None  # the gate lets nothing else in
        headers = Headers(scope=scope)
        is_upload = route[1] == "upload"
        most = self._max_upload if is_upload else MAX_JSON
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length[:16]) > most:
            raise _too_long(most)
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        wanted = "multipart/form-data" if is_upload else "application/json"
        if kind != wanted:
            raise Refused(415, f"send this as {wanted}.")
        if is_upload:
            return _counted(receive, most)
        try:
            async with asyncio.timeout(MAX_SECONDS):
                body = await _whole(receive, most)
        except TimeoutError:
            raise Refused(408, f"the body did not come within {MAX_SECONDS} seconds.") from None
        sent = _parsed(body)
        body = json.dumps(self._call(route[1], route[2], sent)).encode()
        others = [header for header in scope["headers"] if header[0] != b"content-length"]
        scope["headers"] = [*others, (b"content-length", str(len(body)).encode())]
        return _given(body, receive)

    def _call(self, route: str, name: str, sent: dict[str, Any]) -> dict[str, Any]:
        """The fields of a body that this route takes, checked.

        Raises:
            Refused: one is missing or cannot be used.
        """
        if route == "reset":
            return _fields(sent, event_id=_is_id)
        if route == "cancel":
            return _fields(sent, session_hash=_is_id, fn_index=_is_int, event_id=_is_id)
        if route == "queue/join":
            fields = _fields(sent, session_hash=_is_id, fn_index=_is_int, data=_is_list)
            if fields["fn_index"] not in self._page.fns:
                raise Refused(422, "the field fn_index names no handler of this page.")
            fields["trigger_id"] = _optional(sent, "trigger_id", _is_int)
            return fields | {"event_data": sent.get("event_data")}
        self._require_endpoint(name)
        if route == "call/v2":
            self._require_arguments(name, sent)
            return sent
        return _fields(sent, data=_is_list) | {
            "session_hash": _optional(sent, "session_hash", _is_id)
        }

    def _require_endpoint(self, name: str) -> None:
        fns = self._page.fns.values()
        public = sorted(str(fn.api_name) for fn in fns if fn.api_visibility == "public")
        if name not in public:
            raise Refused(404, f"the endpoints here are {', '.join(f'/{one}' for one in public)}.")

    def _require_arguments(self, name: str, sent: dict[str, Any]) -> None:
        """The second version of calls names the arguments."""
        [handler] = [fn.fn for fn in self._page.fns.values() if fn.api_name == name]
        assert handler is not None
        takes = inspect.signature(handler).parameters
        needed = {p.name for p in takes.values() if p.default is p.empty}
        if not needed <= set(sent) <= set(takes):
            raise Refused(422, f"the arguments here are {', '.join(takes)}.")


def _fields(sent: dict[str, Any], **checks: Callable[[object], bool]) -> dict[str, Any]:
    """These fields of a body, each of its kind."""
    for name, is_good in checks.items():
        if not is_good(sent.get(name)):
            raise Refused(422, f"the field {name} is missing or of the wrong kind.")
    return {name: sent[name] for name in checks}


def _optional(sent: dict[str, Any], name: str, is_good: Callable[[object], bool]) -> Any:
    return None if sent.get(name) is None else _fields(sent, **{name: is_good})[name]


def _is_id(value: object) -> bool:
    """A visit's or event's id: some printable characters."""
    return isinstance(value, str) and _SESSION.fullmatch(value) is not None


def _is_int(value: object) -> bool:
    return type(value) is int and abs(value) < 2**31


def _is_list(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MAX_VALUES


def _parsed(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        Refused: there is none, or one too deep, or of too many values.
    """
    if sum(map(body.count, (b"[", b"{", b","))) > MAX_PARTS:
        raise Refused(400, f"a body holds at most {MAX_PARTS:,} values.")
    try:
        sent = json.loads(body.decode())
    except (ValueError, RecursionError):  # no UTF-8, no JSON, too deep, a number too long
        raise Refused(400, "this is no JSON that can be read.") from None
    if not isinstance(sent, dict):
        raise Refused(422, "a JSON object is needed here.")
    level: list[Any] = [sent]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return sent
    raise Refused(400, f"values lie in one another more than {MAX_DEPTH} deep.")


async def _whole(receive: Receive, most: int) -> bytes:
    """All of a body, unless it is too long."""
    receive = _counted(receive, most)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused(400, "the body broke off.")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _counted(receive: Receive, most: int) -> Receive:
    """The same messages, of which the bodies together may have so many bytes, and none keeps one
    waiting for long.
    """
    came, more = 0, True

    async def counted() -> Message:
        nonlocal came, more
        try:
            # Behind the body comes only that the client leaves, which may take as long as it likes.
            async with asyncio.timeout(MAX_PAUSE if more else None):
                message = await receive()
        except TimeoutError:
            raise Refused(408, f"nothing came for {MAX_PAUSE} seconds.") from None
        came += len(message.get("body", b""))
        more = message.get("more_body", False)
        if came > most:
            raise _too_long(most)
        return message

    return counted


def _given(body: bytes, receive: Receive) -> Receive:
    """What gives this body at once, and afterwards what comes, which is that the client leaves."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return messages.pop() if messages else await receive()

    return given


def _too_long(most: int) -> Refused:
    return Refused(413, f"this is too long: at most {most // 2**20} MiB are taken here.")
