"""What the tabs share about visitors: their models, their turn at the processor, their errors."""

import contextlib
import functools
import html
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from PIL import Image
from torch import nn

from sima_core import Analysis, CheckpointError, ImageError, analyze, load_image, load_model
from sima_core.coco.root import CocoError
from sima_core.lens.layers import patch_size
from sima_core.lens.pictures import input_size
from sima_core.models.architectures import num_parameters
from sima_core.weights.cache import ModelCache, ModelGoneError

#: What one look at a picture may cost: tokens, and tokens times parameters (about the
#: multiply-accumulates; this many take two cores some ten seconds).
MAX_TOKENS = 10_000
MAX_COST = 600e9

P = ParamSpec("P")
T = TypeVar("T")

#: The longer side of the copy of a photo that is kept for a visit, in pixels.
KEPT_SIDE = 2048

#: Event options for whatever runs a model: one at a time in the whole app, the others wait and see
#: their place in the queue.
COMPUTE: dict[str, Any] = {"concurrency_id": "compute", "concurrency_limit": 1}

#: Event options for loading a visitor's checkpoint, which may wait long for a network.
LOAD: dict[str, Any] = {"concurrency_id": "load", "concurrency_limit": 1}

#: The bundled trained model, and the models that visitors brought for their visit.
BUNDLED = load_model()
MODELS = ModelCache()


def model_for(key: str | None) -> nn.Module:
    """The visitor's model, or the bundled one for None; raises ModelGoneError if it was dropped."""
    return BUNDLED if key is None else MODELS.get(key)


def require_affordable(
    model: nn.Module, image: Image.Image, resolution: int, max_cost: float = MAX_COST
) -> float:
    """Refuse what would take more than one visitor may use of a shared machine.

    Returns:
        The cost of one forward pass, as in `MAX_COST`.

    Raises:
        ImageError, ValueError: with a sentence for the visitor.
    """
    width, height = input_size(*image.size, resolution, patch_size(model))
    tokens = width * height // patch_size(model) ** 2
    cost = tokens * num_parameters(model)
    if tokens > MAX_TOKENS or cost > max_cost:
        raise ValueError(
            f"at a resolution of {resolution} this picture becomes {tokens:,} tokens, too many for "
            "this model on a shared machine: choose a lower resolution."
        )
    return cost


def analyze_within_limits(path: str, model_key: str | None, resolution: int) -> Analysis:
    """Analyse the picture at `path`, unless that would take more than one visitor may use.

    Raises:
        ImageError, ValueError, ModelGoneError: with a sentence for the visitor.
    """
    model, image = model_for(model_key), load_image(path)
    require_affordable(model, image, resolution)
    return analyze(model, image, resolution)


def require_photo(path: str | Path | None) -> str:
    """The path of a photo that is still there: Gradio deletes uploads after an hour.

    Raises:
        ValueError: with a sentence for the visitor.
    """
    if not path or not Path(path).is_file():
        raise ValueError("the photo is no longer here: choose or drop it again.")
    return str(path)


def kept(image: Image.Image) -> Image.Image:
    """A copy small enough to hold for a whole visit."""
    copy = image.copy()
    copy.thumbnail((KEPT_SIDE, KEPT_SIDE))
    return copy


def whole(value: float | None, default: int) -> int:
    """The number in a box; `default` where a visitor has emptied it."""
    return default if value is None else int(value)


def cache_folder() -> Path:
    """Gradio's, whose files are deleted an hour after they were made."""
    folder = Path(gr.utils.get_upload_folder())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def capitalized(sentence: str) -> str:
    """Begin with a capital, unless it begins with the name of a file, model or module."""
    first = sentence.split(" ", 1)[0]
    named = "." in first or "_" in first
    return sentence if named else sentence[:1].upper() + sentence[1:]


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Show the sentences of our own errors to the visitor; other errors stay on the server."""
    try:
        yield
    except (CheckpointError, CocoError, ImageError, ModelGoneError, ValueError) as error:
        raise gr.Error(  # the page takes the text for HTML
            html.escape(capitalized(str(error)), quote=False),
            duration=None,
            print_exception=False,
        ) from None


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
