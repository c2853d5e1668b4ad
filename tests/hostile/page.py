"""An attacker of a running app: ``python -m tests.hostile.page``.

Uploads every hostile file and has it looked at, calls every handler with wrong arguments and with
files that are not the caller's, and sends what no browser sends; another visitor looks at ordinary
pictures all the while. Prints what was not answered in words, then one line.

    --url URL      an app on this machine; else one is started, and again where it hangs
    --only WORD    only attempts with this word in their name; may be given several times
    --known        only those that once stopped the app
    --limit N      at most so many, spread over all of them
    --seconds S    the most that an answer may take; 10 where the machine has nothing else to do
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.app.client import Answer, Handler, Visitor, file_data
from tests.app.running import Running, started_app
from tests.hostile.encoding import encoded
from tests.hostile.files import cases
from tests.hostile.judging import MAX_MIB, MAX_SECONDS, Tally, wrong_in_text, wrong_sentence
from tests.hostile.requests import (
    hold_connections,
    requests,
    wrong_with_page,
    wrong_with_request,
)
from tests.hostile.watching import Waits, Watcher

#: What stands for a number, a choice or a text.
WRONG_VALUES: tuple[Any, ...] = (
    None, "12", "x" * 3000, "", [], {}, [[]], [1, 2], {"a": 1}, True, -1, 0, 1e308, -1e308,
    10**400, 2**63, 0.5, float("nan"), float("inf"), float("-inf"), "\x1b[31m", "\ud800",
    "<b>x</b>", "1e999",
)  # fmt: skip
#: Wrong values for each argument of a handler that only the page itself calls: so many of them.
PRIVATE_SHARE = 5
#: Characters that the app may log in all.
MAX_LOG = 200_000


@dataclass
class Session:
    """What attempts need: the app, a visitor of it, and strangers' files that it must not read."""

    url: str
    scratch: Path
    visitor: Visitor
    #: The sentences with which files of others were refused, one and the same for all
    #: those of one handler, by its name.
    refusals: dict[str, set[str]]
    most_seconds: float

    def prepared(self, name: str, file: Any) -> tuple[Handler, list[Any]]:
        """A handler whose first argument is a file, and what it is called with."""
        handler = self.visitor.handler(name)
        if not handler.public:
            self.visitor.begin()
        return handler, [file, *handler.defaults[1:]]

    def judged(
        self, handler: Handler, data: Sequence[Any], good: bool | None = None
    ) -> tuple[list[str], float]:
        """Call a handler, and judge; the first of its results is enough."""
        answer = self.visitor.call(handler.index, data, whole=False)
        return wrong_with_answer(answer, self.most_seconds, good), answer.seconds


@dataclass(frozen=True)
class Attempt:
    """One attack; gives what is wrong with the answer, and the seconds that it took."""

    name: str
    run: Callable[[Session], tuple[list[str], float]]
    known: bool = False


def wrong_with_answer(answer: Answer, most_seconds: float, good: bool | None) -> list[str]:
    """What is wrong with an answer; `good`: it must be done, or must not be."""
    found = []
    if answer.kind == "silence":
        found.append(f"no answer ({answer.content})")
    elif answer.kind == "status":
        status, text = answer.content
        found += [f"status {status}"] if status >= 500 and status != 503 else wrong_in_text(text)
    elif answer.kind == "error":
        found += wrong_sentence(answer.content)
    if good and not answer.done:
        found.append(f"a good file was refused: {answer.content!r:.120}")
    if good is False and answer.done:
        found.append("was done, and should have been refused")
    if answer.seconds > most_seconds:
        found.append(f"took {answer.seconds:.1f} s")
    return found


# Files


def file_attempts() -> Iterator[Attempt]:
    """Every file that can be uploaded, looked at or loaded."""
    for case in cases():
        if not case.plain or case.kind in ("annotations", "labels", "tar"):
            continue

        def run(session: Session, case=case) -> tuple[list[str], float]:
            path = case.place(session.scratch)
            name = path.name.encode("utf-8", "replace").decode()
            try:
                uploaded = session.visitor.upload(path, name)
            except httpx2.HTTPStatusError as error:
                status = error.response.status_code
                return ([f"upload: status {status}"] if status >= 500 else []), 0.0
            except httpx2.HTTPError as error:
                return [f"upload: {type(error).__name__}"], 0.0
            finally:
                path.unlink()
            wanted = "heatmap" if case.kind == "picture" else "use_model"
            handler, data = session.prepared(wanted, file_data(uploaded))
            return session.judged(handler, data, True if case.good else None)

        yield Attempt(f"file {case.label}", run, case.known)


# Files that are not the caller's


def foreign_attempts() -> Iterator[Attempt]:
    """Paths on the server, in every form, with Gradio's mark, without it and with another one."""
    forms: dict[str, Callable[[str], Any]] = {
        "no meta": lambda path: {"path": path},
        "meta": file_data,
        "other meta": lambda path: {"path": path, "meta": {"_type": "x"}},
        "null meta": lambda path: {"path": path, "meta": None},
        "url": lambda path: {"path": path, "url": path, "orig_name": "a.png"},
        "bare": lambda path: path,
        "list": lambda path: [{"path": path}],
    }
    for place in _PLACES:
        for form, make in forms.items():
            for wanted in ("heatmap", "latency", "explore", "use_model"):
                if wanted in ("latency", "explore") and form not in ("no meta", "meta"):
                    continue

                def run(
                    session: Session, place=place, make=make, wanted=wanted, form=form
                ) -> tuple[list[str], float]:
                    handler, data = session.prepared(wanted, make(_path_of(session, place)))
                    answer = session.visitor.call(handler.index, data, whole=False)
                    if form not in ("bare", "list") and answer.kind == "error":
                        session.refusals.setdefault(wanted, set()).add(str(answer.content))
                    return wrong_with_answer(answer, session.most_seconds, False), answer.seconds

                known = form == "no meta" and wanted == "heatmap" and place != "device"
                yield Attempt(f"foreign {place}, {form}, {wanted}", run, known)


_PLACES = (
    "picture", "relative", "link", "missing", "folder", "text", "traversal", "own app", "null byte",
    "empty path", "long", "loopback", "file scheme", "pipe", "device", "zero",
)  # fmt: skip


def _path_of(session: Session, place: str) -> str:
    """A path that is not the caller's; what has to lie there is made."""
    folder = session.scratch / "foreign"
    folder.mkdir(exist_ok=True)
    secret, link, pipe = folder / "secret.png", folder / "link.png", folder / "pipe.png"
    if not secret.exists():
        secret.write_bytes(encoded("PNG"))
        link.symlink_to(secret)
        os.mkfifo(pipe)
    return {
        "picture": str(secret),
        "relative": os.path.relpath(secret),
        "link": str(link),
        "missing": str(folder / "nothing.png"),
        "folder": str(folder),
        "text": "/etc/passwd",
        "traversal": str(session.scratch / "uploads" / ".." / "foreign" / "secret.png"),
        "own app": "app.py",
        "null byte": f"{secret}\0.png",
        "empty path": "",
        "long": "/" + "n" * 10_000,
        "loopback": f"{session.url}/static/img/logo.svg",
        "file scheme": f"file://{secret}",
        "pipe": str(pipe),
        "device": "/dev/ptmx",
        "zero": "/dev/zero",
    }[place]


# Arguments


def argument_attempts(found: Sequence[Handler]) -> Iterator[Attempt]:
    """Every argument of every handler, with wrong values; those of the API with all of them."""
    for handler in found:
        for position, kind in enumerate(handler.kinds):
            if kind == "state":
                continue  # the server's own: what a caller sends is not looked at
            for number, value in enumerate(WRONG_VALUES):
                if handler.public or (number + position + handler.index) % PRIVATE_SHARE == 0:
                    known = handler.public and number in (1, 4, 13, 17, 18)
                    yield _argument_attempt(handler, position, value, known)
        yield _list_attempt(handler, "none", [])
        yield _list_attempt(handler, "many", [None] * 100)


def _argument_attempt(handler: Handler, position: int, value: Any, known: bool) -> Attempt:
    def run(session: Session) -> tuple[list[str], float]:
        data = list(handler.defaults)
        if handler.kinds[0] == "image":
            photo = session.scratch / "argument.png"
            photo.write_bytes(encoded("PNG"))
            uploaded = file_data(session.visitor.upload(photo))
            _, data = session.prepared(handler.name, uploaded)
        elif not handler.public:
            session.visitor.begin()
        data[position] = value
        return session.judged(handler, data)

    kind = handler.kinds[position]
    shown = f"{value!r:.20}".encode("unicode_escape").decode()
    return Attempt(f"argument {handler.name} {position} ({kind}) {shown}", run, known)


def _list_attempt(handler: Handler, name: str, data: list[Any]) -> Attempt:
    return Attempt(
        f"arguments {handler.name} {name}", lambda session: session.judged(handler, data)
    )


# HTTP


def http_attempts() -> Iterator[Attempt]:
    """Requests, the page's own headers, and connections that are held."""
    for request in requests():
        known = request.refused or "index" in request.name

        def run(session: Session, request=request) -> tuple[list[str], float]:
            return wrong_with_request(session.url, request), 0.0

        yield Attempt(f"http {request.name}", run, known)
    yield Attempt("http page", lambda session: (wrong_with_page(session.url), 0.0), True)
    yield Attempt("http held connections", _held_connections)


def _held_connections(session: Session) -> tuple[list[str], float]:
    held = hold_connections(session.url)
    try:
        answer = httpx2.get(session.url, timeout=MAX_SECONDS)
        return ([] if answer.status_code == 200 else [f"status {answer.status_code}"]), 0.0
    except httpx2.HTTPError as error:
        return [f"no page meanwhile: {type(error).__name__}"], 0.0
    finally:
        for one in held:
            one.close()


# All together


def attempts(found: Sequence[Handler]) -> list[Attempt]:
    """Every attack on an app with these handlers; what may hang it comes last."""
    every = [*http_attempts(), *argument_attempts(found), *file_attempts(), *foreign_attempts()]
    return sorted(
        every, key=lambda one: any(word in one.name for word in ("pipe", "device", "zero"))
    )


_MAY_HANG = ("foreign pipe", "foreign device", "foreign zero")


@contextlib.contextmanager
def own_app(scratch: Path) -> Iterator[Running]:
    """An app whose uploads and cache lie in `scratch`, without COCO and without the Hub."""
    with started_app(
        scratch,
        XDG_CACHE_HOME=str(scratch / "cache"),
        GRADIO_TEMP_DIR=str(scratch / "uploads"),
        SIMA_COCO_ROOT="",
        HF_HUB_OFFLINE="1",
    ) as running:
        yield running


def wrong_in_log(log: Path) -> list[str]:
    """What must not stand in the log of an app that met nothing but strangers."""
    text = log.read_text("utf-8", "replace")
    return wrong_in_text(text) + ([f"{len(text):,} characters"] if len(text) > MAX_LOG else [])


class Attack:
    """Goes through attempts; after one that was never answered it goes on with a new app."""

    def __init__(self, scratch: Path, url: str | None, most_seconds: float) -> None:
        self.scratch, self.url, self.most_seconds = scratch, url, most_seconds
        self.tally, self.waits = Tally(), Waits()
        self.refusals: dict[str, set[str]] = {}
        self.restarts = 0

    def run(self, choose: Callable[[Sequence[Handler]], list[Attempt]]) -> int:
        """Attack; returns the exit status."""
        left: list[Attempt] | None = None
        while left is None or left:
            with contextlib.ExitStack() as stack:
                running = None if self.url else stack.enter_context(self._app())
                url = self.url or (running.url if running else "")
                visitor = stack.enter_context(Visitor(url, self.most_seconds + 5))
                pid = running.process.pid if running else None
                watcher = stack.enter_context(Watcher(url, pid, self.scratch, self.waits))
                left = choose(visitor.handlers()) if left is None else left
                session = Session(url, self.scratch, visitor, self.refusals, self.most_seconds)
                left = self._go_through(session, left, watcher)
        for name, sentences in self.refusals.items():
            wrong = [] if len(sentences) == 1 else [f"{len(sentences)} sentences: {sentences}"]
            self.tally.count(f"foreign files, {name}, all together", wrong, 0.0)
        for name, said in self.waits.wrong(self.most_seconds / 10).items():
            self.tally.count(f"others during {name}", [said], 0.0)
        restarted = [f"started again {self.restarts} times"] if self.restarts else []
        return self.tally.end(self.waits.in_words(), *restarted)

    @contextlib.contextmanager
    def _app(self) -> Iterator[Running]:
        """An app of its own, even where the one before does not end by itself."""
        try:
            with own_app(self.scratch) as running:
                yield running
                self.tally.count("the app's log", wrong_in_log(running.log), 0.0)
        except subprocess.TimeoutExpired:
            self.tally.count("the app's end", ["SIGTERM did not end it"], 20.0)

    def _go_through(self, session: Session, left: list[Attempt], watcher: Watcher) -> list[Attempt]:
        """One attempt after another; returns those that are left for a new app."""
        for number, attempt in enumerate(left):
            session.visitor.session = f"attack{number}"
            self.waits.during = attempt.name
            self.waits.above_start()
            wrong, seconds = attempt.run(session)
            mib = self.waits.above_start()
            if mib > MAX_MIB:
                wrong.append(f"took {mib:,.0f} MiB more than at the start")
            self.tally.count(attempt.name, wrong, seconds, mib)
            if any("no answer" in one for one in wrong):
                if not watcher.answers():
                    print(f"{attempt.name}: THE APP ANSWERS NOBODY AFTERWARDS", flush=True)
                if self.url:
                    continue
                self.restarts += 1  # so that what hangs does not make others fail
                return left[number + 1 :]
        return []


def main() -> int:
    """Attack, and tell; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url")
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    parser.add_argument("--known", action="store_true")
    parser.add_argument("--limit", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, default=MAX_SECONDS, metavar="S")
    asked = parser.parse_args()

    def choose(found: Sequence[Handler]) -> list[Attempt]:
        some = [a for a in attempts(found) if not asked.known or a.known]
        some = [a for a in some if not asked.only or any(word in a.name for word in asked.only)]
        most = len(some) if asked.limit is None else min(asked.limit, len(some))
        return [some[i * len(some) // most] for i in range(most)]

    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        return Attack(Path(scratch), asked.url, asked.seconds).run(choose)


if __name__ == "__main__":
    sys.exit(main())
