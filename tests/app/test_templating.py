"""Markup: whatever is put into a template is harmless, for browsers and for Gradio's templates."""

import dataclasses

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from app.charts import Rule, Series, log_chart
from app.tabs.coco.browsing import empty_card
from app.templating import harmless, render
from app.viewer import predictions_html, summary_html
from app.words import capitalized
from sima_core import analyze

NASTY = "<script>alert(1)</script>{{value}}${value}"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;&#123;&#123;value}}&#36;&#123;value}"


@pytest.mark.parametrize("value", [NASTY, Markup(NASTY).striptags() + "{{$"])
def test_no_value_begins_anything(value):
    assert not set("<{$") & set(harmless(value))


def test_markup_stays_markup_but_begins_no_template():
    assert harmless(Markup("<b>{{x}} ${y}</b>")) == "<b>&#123;&#123;x}} &#36;&#123;y}</b>"
    assert harmless(harmless(NASTY)) == ESCAPED


def test_templates_escape_what_they_are_given():
    assert ESCAPED in empty_card(NASTY)
    chart = log_chart(
        [Series(NASTY, [(1, 1), (2, 2)])], NASTY, NASTY, f'{NASTY}" onload="', [Rule(1, NASTY)]
    )
    assert chart.count(ESCAPED) >= 5
    assert not set("{$") & set(chart)
    assert "<script" not in chart
    assert '" onload="' not in chart


def test_a_photos_name_is_escaped(model, photo):
    assert ESCAPED in summary_html(analyze(model, photo, 64), NASTY, 12, None)


def test_weights_of_unknown_origin_are_not_called_untrained(model, photo):
    analysis = dataclasses.replace(analyze(model, photo, 64), provenance=None)
    html = summary_html(analysis, "photo.jpg", 12, None) + predictions_html(analysis)
    assert "<span>weights of unknown origin</span>" in html
    assert "untrained" not in html.lower()


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError):
        render("coco/empty")


def test_commands_in_a_sentence_are_set_as_code():
    html = empty_card("run `a <b>` or `c`.")
    assert "run <code>a &lt;b&gt;</code> or <code>c</code>." in html


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [("give a picture.", "Give a picture."), ("sima_nano_12_p16: no", "sima_nano_12_p16: no")],
)
def test_sentences_begin_with_a_capital(sentence, shown):
    assert capitalized(sentence) == shown
