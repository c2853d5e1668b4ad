"""An image input for files of any kind.

Alone in its module, since Gradio writes a stub beside a module that subclasses a component.
"""

from typing import Any

import gradio as gr
from gradio.data_classes import ImageData


class RawImage(gr.Image):
    """An image input that hands over the uploaded file, as it is and unopened.

    Gradio opens it first even for ``type="filepath"``, and what is no picture fails there, where
    nobody can say why.
    """

    is_template = True  # the page draws it as a gr.Image

    def preprocess(self, payload: ImageData | None) -> Any:
        if payload is None or payload.path is None:
            return super().preprocess(payload)
        return payload.path
