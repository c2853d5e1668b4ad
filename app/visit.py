"""What one visit holds: the only things that the tabs share."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import gradio as gr
from PIL import Image

from app.handlers import QUIET
from app.viewer import Photo
from app.visitors import (
    FORGOTTEN,
    FORGOTTEN_IN_WORDS,
    bundled,
    drop_model,
    kept,
    require_photo,
)
from sima_core import Analysis, load_image
from sima_core.bench.whole_models import ModelTime
from sima_core.coco.split import CocoPicture
from sima_core.comparison import Panel
from sima_core.defaults import LAYER
from sima_core.errors import InputError


@dataclass(frozen=True)
class Look:
    """A photo and what the model made of it, as it is held for a whole visit.

    Of the photo only what the page shows is held, made once for all that is drawn of it; the
    uploaded file has the rest.
    """

    path: str
    photo: Photo
    #: Without its photo.
    analysis: Analysis
    #: What it counts for among all that visits keep; 0 where all of them share it.
    num_bytes: int
    #: The visitor's model that made it.
    model_key: str | None = None

    @classmethod
    def of(cls, path: str, photo: Photo, analysis: Analysis, model_key: str | None = None) -> Self:
        """A look at the photo at `path`, from an analysis without its picture."""
        return cls(path, photo, analysis, len(photo.uri) + _norms_bytes(analysis), model_key)

    @property
    def key(self) -> str:
        """What the page's scripts know it by: the same for the same photo, size and model."""
        seen = f"{self.path}\n{self.analysis.resolution}\n{self.model_key}"
        return hashlib.blake2b(seen.encode("utf-8", "replace"), digest_size=8).hexdigest()

    def with_photo(self) -> Analysis:
        """What the model made of the photo, with the photo, at most `KEPT_SIDE` pixels long.

        Raises:
            InputError: its file is no longer there.
            ImageError: as `load_image`.
        """
        return replace(self.analysis, image=kept(load_image(require_photo(self.path))))

    @property
    def name(self) -> str:
        """The photo's file name."""
        return Path(self.path).name


@dataclass(frozen=True)
class CocoLook:
    """A picture of COCO and what the model made of it."""

    split: str
    picture: CocoPicture
    path: Path
    analysis: Analysis
    #: The visitor's model that made it.
    model_key: str | None

    @property
    def num_bytes(self) -> int:
        """What it counts for among all that visits keep."""
        return _pixel_bytes(self.analysis.image) + _norms_bytes(self.analysis)


@dataclass(frozen=True)
class Comparison:
    """What was set side by side, and how long each model took."""

    panels: Sequence[Panel]
    times: Sequence[ModelTime]

    @property
    def num_bytes(self) -> int:
        """What it counts for among all that visits keep; all panels hold the same photo."""
        maps = sum(a.nbytes for panel in self.panels for a in panel.maps.values())
        return _pixel_bytes(self.panels[0].image) + maps


def _pixel_bytes(image: Image.Image) -> int:
    return image.width * image.height * len(image.getbands())


def _norms_bytes(analysis: Analysis) -> int:
    return sum(
        side.untyped_storage().nbytes()
        for n in analysis.norms.values()
        for side in (n.query, n.key)
    )


@dataclass(frozen=True)
class Visit:
    """The components that keep, for each visitor, what several handlers or tabs work on.

    A store is as `begin` makes it until something was put there, and again once the visit has been
    forgotten (`app.sessions`), which the app's end does too.
    """

    #: A `Look`: the photo in Explore, which Compare and Latency take too. None: forgotten.
    look: gr.State
    #: The key of the visitor's model among `MODELS`; None for the bundled one; `FORGOTTEN`.
    model_key: gr.State
    #: The layer chosen in Explore, whose slider it is.
    layer: gr.Slider
    #: A `CocoLook`: the picture shown in COCO.
    coco: gr.State
    #: A `Comparison`: what Compare shows.
    comparison: gr.State

    @classmethod
    def begin(cls) -> "Visit":
        """Empty stores inside the current Blocks; the slider is rendered where Explore puts it."""
        layer = gr.Slider(
            1, bundled().depth, LAYER, step=1, precision=0, label="Layer", render=False
        )
        return cls(
            look=gr.State(),
            model_key=gr.State(FORGOTTEN, delete_callback=drop_model),
            layer=layer,
            coco=gr.State(),
            comparison=gr.State(),
        )

    def begin_with(self, demo: gr.Blocks, first: Look) -> None:
        """Begin each visit, when its page is opened, with the bundled model and the same look."""
        shared = replace(first, num_bytes=0)
        demo.load(
            lambda: (shared, None),
            None,
            [self.look, self.model_key],
            concurrency_limit=None,
            **QUIET,
        )


def require_look(seen: Look | None) -> Look:
    """The photo in Explore and what the model made of it.

    Raises:
        InputError: the visit was forgotten; a visit that has begun has a look.
    """
    if seen is None:
        raise InputError(FORGOTTEN_IN_WORDS)
    return seen
