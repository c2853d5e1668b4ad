"""The page's markup: Jinja2 templates, each a card or figure, in which every value is escaped."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from app.words import capitalized, duration, size


def harmless(value: object) -> Markup:
    """Escape for HTML, unless it is markup already, and for Gradio's own templates.

    Gradio passes what a `gr.HTML` shows through two template languages, in which ``${`` and ``{{``
    begin something; markup that was made here holds neither any more.
    """
    return Markup(str(escape(value)).replace("{", "&#123;").replace("$", "&#36;"))


def with_code(sentence: str) -> Markup:
    """A sentence whose `` `commands` `` are set as code."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(sentence))))


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    finalize=harmless,  # whatever a template puts out passes through it
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "with_code": with_code,
    "capitalized": capitalized,
    "duration": duration,
    "size": size,
}


def render(template: str, /, **values: object) -> Markup:
    """Fill in ``templates/<template>.html``; what is not markup is escaped.

    Raises:
        jinja2.UndefinedError: a value that the template needs is missing.
    """
    return Markup(_TEMPLATES.get_template(f"{template}.html").render(values))
