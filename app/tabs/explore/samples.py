"""The sample photos, which come with installed packages."""

from importlib.resources import files

import gradio as gr

from sima_core.errors import InputError

_SAMPLES = {
    "Cheetah": ("gradio", "media_assets/images/cheetah1.jpg"),
    "Lion": ("gradio", "media_assets/images/lion.jpg"),
    "Running cheetah": ("gradio", "media_assets/images/cheetah.jpg"),
    "Eiffel Tower": ("gradio", "media_assets/images/tower.jpg"),
    "Grace Hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}


def sample_photos() -> list[tuple[str, str]]:
    """(path, caption) of the sample photos that the installed packages carry."""
    found = [(files(package) / name, caption) for caption, (package, name) in _SAMPLES.items()]
    return [(str(path), caption) for path, caption in found if path.is_file()]


def pick_sample(choice: gr.EventData) -> str:
    """The path of the sample that was clicked."""
    samples = sample_photos()
    index = getattr(choice, "index", None)
    if type(index) is not int or not 0 <= index < len(samples):
        raise InputError("choose one of the sample photos.")
    return samples[index][0]
