"""A visitor's own checkpoint: loaded for one visit, in place of the bundled weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app.controls import head_choices
from app.handlers import LOAD, QUIET, plainly
from app.visit import Visit
from app.visitors import FORGOTTEN, MODELS, bundled
from sima_core.defaults import LAYER
from sima_core.errors import InputError
from sima_core.lens.lens import Lens
from sima_core.weights.hub import HUB_PREFIX

#: The longest id of a repository: two names of the Hub's.
MAX_HUB_ID = 2 * 96 + 1
_CHOOSE = "choose a checkpoint file, or type a Hub id such as owner/name."


def model_note(lens: Lens) -> str:
    """A sentence on the model in use."""
    origin = lens.provenance
    assert origin is not None  # it was loaded here
    weights = f"weights from `{origin.source}`" if origin.trained else "**untrained weights**"
    return f"In use: **{lens.name}**, {weights}, {origin.num_classes} classes."


def controls_for(lens: Lens) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The note on another model, and updates of the layer and head controls."""
    heads = max(layer.num_heads for layer in lens.layers)
    return (
        model_note(lens),
        gr.update(maximum=lens.depth, value=min(LAYER, lens.depth)),
        gr.update(choices=head_choices(heads), value=0),
    )


def use_model(path: str | None, model_key: str | None) -> tuple[Any, ...]:
    """Load the checkpoint that a visitor uploaded in place of the one they had."""
    if not path or not Path(path).is_file():
        raise InputError(_CHOOSE)
    return _use(path, model_key)


def _use(source: str, model_key: str | None) -> tuple[Any, ...]:
    lens = Lens.load(source)
    new_key = MODELS.add(lens)
    MODELS.drop(model_key)
    return new_key, *controls_for(lens)


def use_hub(repo_id: str | None, model_key: str | None) -> tuple[Any, ...]:
    """Load a Hub repository's checkpoint; the prefix may be left out, a file never meant."""
    repo_id = (repo_id or "").strip()
    repo_id = repo_id.removeprefix(HUB_PREFIX).removeprefix("https://huggingface.co/")
    if not repo_id or len(repo_id) > MAX_HUB_ID:
        raise InputError(_CHOOSE)
    return _use(f"{HUB_PREFIX}{repo_id}", model_key)


def use_bundled(model_key: str | None) -> tuple[Any, ...]:
    """Go back to the bundled weights."""
    MODELS.drop(model_key)
    return None, *controls_for(bundled())


def begin_again(model_key: str | None) -> tuple[Any, ...]:
    """Where a visit was forgotten, which was just said: the bundled weights and their note."""
    return use_bundled(model_key) if model_key == FORGOTTEN else (gr.skip(),) * 4


@dataclass(frozen=True)
class OwnCheckpoint:
    """The controls for a visitor's own checkpoint."""

    note: gr.Markdown
    upload: gr.File
    hub_id: gr.Textbox
    from_hub: gr.Button
    back: gr.Button

    @classmethod
    def lay_out(cls) -> "OwnCheckpoint":
        with gr.Accordion("Use your own checkpoint", open=False):
            note = gr.Markdown(model_note(bundled()))
            upload = gr.File(label="Checkpoint (.safetensors, .pth)", type="filepath", height=140)
            hub_id = gr.Textbox(
                label="or a Hugging Face Hub id", placeholder="owner/name", max_lines=1
            )
            with gr.Row():
                from_hub = gr.Button("Load from Hub", size="sm", min_width=120)
                back = gr.Button("Bundled weights", size="sm", min_width=120)
            gr.Markdown("Only for your visit. Code in a file is never run.")
        return cls(note, upload, hub_id, from_hub, back)

    def begin_again_after(self, looked: Dependency, visit: Visit, head: gr.Dropdown) -> None:
        """After a look that failed because the visit was forgotten, begin it again."""
        looked.failure(
            begin_again, visit.model_key, [visit.model_key, self.note, visit.layer, head], **QUIET
        )

    def wire(
        self, visit: Visit, head: gr.Dropdown, look_after: Callable[[Dependency], Dependency]
    ) -> None:
        """Load what is chosen, fit the controls of layer and head to it, and look through it."""
        for listen, handler, given in (
            (self.upload.upload, use_model, [self.upload, visit.model_key]),
            (self.from_hub.click, use_hub, [self.hub_id, visit.model_key]),
            (self.hub_id.submit, use_hub, [self.hub_id, visit.model_key]),
            (self.back.click, use_bundled, [visit.model_key]),
        ):
            loading = listen(
                plainly(handler),
                given,
                [visit.model_key, self.note, visit.layer, head],
                **LOAD,
                show_progress_on=self.note,
            )
            # The note says what is used; after a failure another file may be chosen.
            look_after(loading).then(lambda: None, None, self.upload, **QUIET)
            loading.failure(lambda: None, None, self.upload, **QUIET)
