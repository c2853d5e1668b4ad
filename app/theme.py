"""The look of the page: a Gradio theme on system fonts, and the style sheet."""

from pathlib import Path

import gradio as gr

_STATIC = Path(__file__).parent / "static"
CSS = _STATIC / "style.css"
#: JavaScript to run once when the page opens.
ON_OPEN = (_STATIC / "page.js").read_text(encoding="utf-8")

_SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

_PLUM = gr.themes.Color(
    name="plum",
    c50="#fbf5fa", c100="#f5e8f3", c200="#e9cde5", c300="#d7a5d0", c400="#bd73b4", c500="#9c4a94",
    c600="#7f3379", c700="#672864", c800="#4b1d4a", c900="#331434", c950="#1d0a1f",
)  # fmt: skip

#: Plain font names, not GoogleFont: the page asks no outside host for anything.
THEME = gr.themes.Base(
    primary_hue=_PLUM,
    secondary_hue=gr.themes.colors.orange,
    neutral_hue=gr.themes.colors.stone,
    font=_SANS,
    font_mono=_MONO,
    radius_size=gr.themes.sizes.radius_lg,
).set(
    body_background_fill="#faf8f6",
    body_background_fill_dark="#151215",
    block_background_fill="#ffffff",
    block_background_fill_dark="#1e1a1f",
    block_border_color="#e8e2de",
    block_border_color_dark="#332d35",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    input_background_fill="#faf8f6",
    input_background_fill_dark="#262027",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_text_color="#ffffff",
    button_primary_background_fill_dark="*primary_500",
    button_secondary_background_fill_dark="#332d35",
    button_secondary_background_fill_hover_dark="#443c47",
    slider_color="*primary_500",
    slider_color_dark="*primary_400",
)
