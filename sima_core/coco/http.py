"""Bytes over HTTP: asked for again while that may help; a file read by parts where it lies."""

import errno
import io
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from sima_core import __version__
from sima_core.errors import InputError

#: How often one request is tried, and the wait after the first try; it doubles with each.
ATTEMPTS, BACKOFF_SECONDS = 5, 1.0
#: The longest wait between two tries, whatever the server asks for.
MAX_WAIT_SECONDS = 60.0
#: How long a server may stay silent.
TIMEOUT_SECONDS = 30.0

_HEADERS = {"User-Agent": f"SimA-Lens/{__version__}", "Accept-Encoding": "identity"}
_ABSENT = (403, 404, 410)  # COCO's bucket says 403 of what it does not have
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)
_NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
_T = TypeVar("_T")


class FetchError(Exception):
    """Something cannot be fetched; the message says why, in a few words."""

    #: Whether the next try may do better.
    passing = False


class AbsentError(FetchError):
    """The server does not have it."""

    def __init__(self) -> None:
        super().__init__("not on the server")


class StatusError(FetchError):
    """The server answers, but with a status that is no success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered with status {status}")
        self.status = status
        self.passing = status in _TRY_AGAIN


class CutError(FetchError):
    """The server falls silent, or sends less than it said."""

    passing = True

    def __init__(self) -> None:
        super().__init__("the connection was cut or stalled")


class UnreachableError(FetchError):
    """No connection is made."""

    passing = True

    def __init__(self) -> None:
        super().__init__("the server could not be reached")


class NoRangesError(FetchError):
    """The server sends files only whole."""

    def __init__(self) -> None:
        super().__init__("the server does not serve parts of files")


class Client:
    """Asks servers, each request up to `ATTEMPTS` times; proxies are the environment's.

    Threads may share one. Every method raises FetchError once there is no use in trying on.

    Raises:
        InputError: the environment names a proxy that cannot be used.
    """

    def __init__(self) -> None:
        try:
            self._client = httpx2.Client(
                headers=_HEADERS, timeout=TIMEOUT_SECONDS, follow_redirects=True
            )
        except (ImportError, ValueError):  # a scheme that is unknown, or needs another package
            raise InputError(
                "The proxy that the environment names cannot be used: check HTTP_PROXY, "
                "HTTPS_PROXY and ALL_PROXY."
            ) from None
        #: Once set, nothing is waited for any more: requests end with a FetchError.
        self.stop = threading.Event()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def whole(self, url: str, most: int) -> bytes:
        """The file at `url`, of at most `most` bytes."""
        return self._ask("GET", url, 200, lambda response: self._body(response, most))

    def part(self, url: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes of the file at `url`, from `start` on."""

        def read(response: Any) -> bytes:
            if len(body := self._body(response, length)) < length:
                raise CutError
            return body

        return self._ask("GET", url, 206, read, Range=f"bytes={start}-{start + length - 1}")

    def size(self, url: str) -> int:
        """Bytes of the file at `url`."""

        def read(response: Any) -> int:
            length = response.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise NoRangesError  # a file that is made while it is sent has no parts
            return int(length)

        return self._ask("HEAD", url, 200, read)

    def _ask(
        self, method: str, url: str, status: int, read: Callable[[Any], _T], **headers: str
    ) -> _T:
        """What `read` makes of the first answer that has that `status`."""
        retry_after: str | None = None
        failure = FetchError("stopped")
        for attempt in range(ATTEMPTS):
            if attempt and self.stop.wait(_wait(attempt - 1, retry_after)):
                break
            retry_after = None
            try:
                with self._client.stream(method, url, headers=headers) as response:
                    if response.status_code == status:
                        return read(response)
                    retry_after = response.headers.get("Retry-After")
                    failure = _refusal(response.status_code)
            except FetchError as error:
                failure = error
            except _NOT_CONNECTED:
                failure = UnreachableError()
            except httpx2.RequestError:  # also where the body is shorter than Content-Length
                failure = CutError()
            if not failure.passing:
                break
        raise failure from None

    def _body(self, response: Any, most: int) -> bytes:
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > most:
                raise FetchError(f"larger than {most >> 20} MiB")
            if self.stop.is_set():
                raise FetchError("stopped")
        return bytes(body)


class RemoteFile(io.RawIOBase):
    """A file on a server, to be read like one on disk: each read fetches just its bytes.

    Every method may raise FetchError.
    """

    def __init__(self, client: Client, url: str) -> None:
        self._client, self._url = client, url
        self._size, self._position = client.size(url), 0

    def read_at(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start` on, wherever the file stands."""
        return self._client.part(self._url, start, length)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self._position, 0)
        length = left if size is None or size < 0 else min(size, left)
        found = self.read_at(self._position, length) if length else b""
        self._position += length
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if begin + offset < 0:  # as the files of a disk say it, which zipfile expects
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = begin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def host_of(url: str) -> str:
    """The server's name in an address; empty where that is no address of a web server."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return ""
    return str(parsed.host) if parsed.scheme in ("http", "https") else ""


def _refusal(status: int) -> FetchError:
    if status in _ABSENT:
        return AbsentError()
    return NoRangesError() if status == 200 else StatusError(status)  # 200 where 206 was due


def _wait(attempt: int, retry_after: str | None) -> float:
    """Seconds before the next try: what the server asks for, within bounds, or a doubled wait."""
    seconds: float = BACKOFF_SECONDS * 2**attempt
    with suppress(ValueError, TypeError):
        if retry_after and retry_after.isdecimal():
            seconds = float(retry_after)
        elif retry_after:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_WAIT_SECONDS)
