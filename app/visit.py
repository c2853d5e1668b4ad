"""What one visit holds: the only things that the tabs share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app.visitors import MODELS, bundled
from sima_core import Analysis
from sima_core.bench.whole_models import ModelTime
from sima_core.coco.split import CocoPicture
from sima_core.comparison import Panel
from sima_core.defaults import LAYER


@dataclass(frozen=True)
class Look:
    """A photo and what the model made of it."""

    path: str
    analysis: Analysis

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


@dataclass(frozen=True)
class Comparison:
    """What was set side by side, and how long each model took."""

    panels: Sequence[Panel]
    times: Sequence[ModelTime]


@dataclass(frozen=True)
class Visit:
    """The components that keep, for each visitor, what several handlers or tabs work on.

    A store is None until something was put there, and again once Gradio has forgotten the visit.
    """

    #: A `Look`: the photo in Explore, which Compare and Latency take too.
    look: gr.State
    #: The key of the visitor's model among `MODELS`; None for the bundled one.
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
            model_key=gr.State(delete_callback=MODELS.drop),
            layer=layer,
            coco=gr.State(),
            comparison=gr.State(),
        )
