"""How the page's handlers run: their turn at the machine, and what is said when they fail."""

import contextlib
import functools
import html
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from app.words import capitalized
from sima_core.errors import SimaLensError
from sima_core.words import SENTENCE, plain

P = ParamSpec("P")
T = TypeVar("T")

#: Event options for whatever runs a model. Some read their pictures beside each other, so that none
#: waits for another's; then each waits for a turn (`app.turns`).
COMPUTE: dict[str, Any] = {
    "concurrency_id": "compute",
    "concurrency_limit": 8,
    "api_visibility": "private",
}
#: Event options for loading a checkpoint, which may wait long for a network.
LOAD: dict[str, Any] = {
    "concurrency_id": "load",
    "concurrency_limit": 2,
    "api_visibility": "private",
}
#: Event options for what is done in a moment, and for drawing, which some visitors may do at once.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
DRAW: dict[str, Any] = {**QUIET, "concurrency_limit": 4}


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Show the sentences of our own errors to the visitor; other errors stay on the server."""
    try:
        yield
    except SimaLensError as error:
        raise refusal(capitalized(str(error))) from None


def refusal(sentence: str) -> gr.Error:
    """A sentence to be raised for the visitor; the page takes it for HTML."""
    text = html.escape(plain(sentence, SENTENCE), quote=False)
    return gr.Error(text, duration=None, print_exception=False)


def plainly(handler: Callable[P, T]) -> Callable[P, T]:
    """A handler whose errors are `plain_errors`."""

    @functools.wraps(handler)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with plain_errors():
            return handler(*args, **kwargs)

    return wrapped


def plainly_each(handler: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    """The same for a handler that yields its results one after another."""

    @functools.wraps(handler)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        with plain_errors():
            yield from handler(*args, **kwargs)

    return wrapped
