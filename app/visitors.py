"""Visitors' models and photos, and what one visitor may use of a shared machine."""

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import gradio as gr
from PIL import Image

from app.turns import TURNS
from sima_core import Analysis, load_image
from sima_core.errors import InputError
from sima_core.files import writing
from sima_core.lens.lens import Lens
from sima_core.weights.cache import ModelCache, num_bytes

T = TypeVar("T")

#: What one look at a picture may cost: tokens, and tokens times parameters (about the
#: multiply-accumulates; this many take two cores some ten seconds).
MAX_TOKENS = 10_000
MAX_COST = 600e9

#: Bytes of a store's models together: the largest architecture (720 MiB) and some of the others.
MODEL_BYTES = 768 * 2**20

#: In place of a model's key: the visit has not begun, or was forgotten. Nothing is known of its
#: model then, and none may stand in for it.
FORGOTTEN = ""
FORGOTTEN_IN_WORDS = (
    "this visit was forgotten, to make room for others or by a restart: choose the photo again, "
    "and load your checkpoint again if you used one."
)

#: The longer side of the copy of a photo that is kept for a visit, in pixels.
KEPT_SIDE = 2048
_NO_PICTURE = Image.new("RGB", (1, 1))


def lens_cache(max_models: int = 4) -> ModelCache[Lens]:
    """An empty store for so many models, of `MODEL_BYTES` together."""
    return ModelCache(lambda lens: num_bytes(lens.model), max_models, MODEL_BYTES)


#: The models that visitors brought for their visit.
MODELS = lens_cache()


def drop_model(key: str | None) -> None:
    """Forget a visitor's model.

    A function, since Gradio copies all that its components were given, with everything that hangs
    from it, for every page that is opened: of a method of `MODELS` that would be all the models.
    """
    MODELS.drop(key)


@functools.cache
def bundled() -> Lens:
    """The bundled trained model, loaded when it is first looked through."""
    return Lens.load()


def require_visit(key: str | None) -> None:
    """Refuse where nothing is known any more of the visit whose model's key this is.

    Raises:
        InputError: with a sentence for the visitor.
    """
    if key == FORGOTTEN:
        raise InputError(FORGOTTEN_IN_WORDS)


def lens_for(key: str | None) -> Lens:
    """The visitor's model, or the bundled one for None.

    Raises:
        InputError: the visit was forgotten.
        ModelGoneError: the visitor's was dropped to make room.
    """
    require_visit(key)
    return bundled() if key is None else MODELS.get(key)


def require_affordable(
    lens: Lens, image: Image.Image, resolution: int, max_cost: float = MAX_COST
) -> float:
    """Refuse what would take more than one visitor may use of a shared machine.

    Returns:
        The cost of one forward pass, as in `MAX_COST`.

    Raises:
        ImageError, InputError: with a sentence for the visitor.
    """
    width, height = lens.input_size(*image.size, resolution)
    tokens = width * height // lens.patch_size**2
    cost = tokens * lens.num_parameters
    if tokens > MAX_TOKENS or cost > max_cost:
        raise InputError(
            f"at a resolution of {resolution} this picture becomes {tokens:,} tokens, too many for "
            "this model on a shared machine: choose a lower resolution."
        )
    return cost


def analyze_within_limits(
    path: str, model_key: str | None, resolution: int, reduced: Callable[[Image.Image], T]
) -> tuple[Analysis, T]:
    """Analyse the picture at `path`, unless that would take more than one visitor may use.

    Args:
        reduced: makes of the picture all that is needed of it afterwards, before the turn: whoever
            waits for one holds no large picture.

    Returns:
        The analysis, without its picture, and what `reduced` made.

    Raises:
        ImageError, InputError, ModelGoneError: with a sentence for the visitor.
        BusyError, OutOfTimeError: as `Turns.turn`.
    """
    lens, image = lens_for(model_key), load_image(path)
    require_affordable(lens, image, resolution)
    pixels, rest = lens.preprocess(image, resolution), reduced(image)
    del image
    with TURNS.turn():
        return lens.analyze(_NO_PICTURE, resolution, pixels=pixels), rest


def require_photo(path: str | Path | None) -> str:
    """The path of a photo that is still there: uploads are deleted an hour after they came.

    Raises:
        InputError: with a sentence for the visitor.
    """
    if not path or not Path(path).is_file():
        raise InputError("the photo is no longer here: choose or drop it again.")
    return str(path)


def kept(image: Image.Image, side: int = KEPT_SIDE) -> Image.Image:
    """The picture small enough to hold for a whole visit: at most so many pixels long.

    It may be the same one. A large one is never copied, as Pillow's `thumbnail` would have it.
    """
    scale = side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(n * scale)) for n in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def gradio_folder() -> Path:
    """Where Gradio keeps what it serves; `app.sweeping` deletes it after an hour."""
    folder = Path(gr.utils.get_upload_folder())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def new_folder(what: str) -> Iterator[Path]:
    """A new folder in `gradio_folder` for `what`, such as "the archive"; gone if the block fails.

    Raises:
        DiskError: it cannot be written, as `files.writing` says it.
    """
    with writing(what):
        folder = Path(tempfile.mkdtemp(dir=gradio_folder()))
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
