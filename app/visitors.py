"""What the tabs share about visitors: their models, their turn at the processor, their errors."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from torch import nn

from sima_core import CheckpointError, ImageError, load_model
from sima_core.model_cache import ModelCache, ModelGoneError

P = ParamSpec("P")
T = TypeVar("T")

#: Event options for whatever runs a model: one at a time in the whole app, the others wait and see
#: their place in the queue.
COMPUTE: dict[str, Any] = {"concurrency_id": "compute", "concurrency_limit": 1}

#: The bundled trained model, and the models that visitors brought for their visit.
BUNDLED = load_model()
MODELS = ModelCache()


def model_for(key: str | None) -> nn.Module:
    """The visitor's model, or the bundled one for None; raises ModelGoneError if it was dropped."""
    return BUNDLED if key is None else MODELS.get(key)


def plainly(handler: Callable[P, T]) -> Callable[P, T]:
    """Show the sentences of our own errors to the visitor; other errors stay on the server."""

    @functools.wraps(handler)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return handler(*args, **kwargs)
        except (CheckpointError, ImageError, ModelGoneError, ValueError) as error:
            sentence = str(error)
            raise gr.Error(
                sentence[:1].upper() + sentence[1:], duration=None, print_exception=False
            ) from None

    return wrapped
