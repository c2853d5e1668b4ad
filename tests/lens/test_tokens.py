"""Tokens as people type them."""

import pytest

from sima_core.errors import InputError
from sima_core.lens.tokens import Area, read_areas, read_token, tokens_in


@pytest.mark.parametrize(
    ("text", "token"), [("3,5", (3, 5)), (" 1 , 4096 ", (1, 4096)), ("class", "class")]
)
def test_a_token(text, token):
    assert read_token(text) == token


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ROW,COLUMN"), ("5", "ROW,COLUMN"), ("Class", "ROW,COLUMN"),
        ("3,", "is no whole number"), ("3,5,7", "is no whole number"), ("3;5,1", "is no whole"),
        ("nan,1", "is no whole number"), ("0,1", "from 1 to 4,096"), ("1,-1", "from 1 to 4,096"),
        ("1,4097", "from 1 to 4,096"), ("9" * 5000 + ",1", "from 1 to 4,096"),
        ("1.5,2", "is no whole number"), ("\x1b[31m,1", "is no whole number"),
    ],
)  # fmt: skip
def test_what_is_no_token_gets_one_short_sentence(text, said):
    with pytest.raises(InputError, match=said) as refused:
        read_token(text)
    assert len(str(refused.value)) < 150
    assert str(refused.value).isprintable()


def test_tokens_and_rectangles_are_taken_once_each_in_order():
    areas = read_areas("2,2 ; 1-2, 2-3;1,1")
    assert areas[1] == Area(1, 2, 2, 3)
    assert tokens_in(areas, (2, 3)) == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name tokens as"), ("all", "name tokens as"), ("1,2;", "name tokens as"),
        ("4-2,1", "4-2 runs backwards: write 2-4"), ("1-,2", "is no whole"),
        ("-1,2", "is no whole"), ("1-2-3,1", "is no whole"),
        ("1,1-9999", "from 1 to 4,096"), ("nan-inf,1", "is no whole"),
        ("1,1;" * 1000 + "1,1", "at most 1,000"), ("1--2,1", "from 1 to 4,096"),
    ],
)  # fmt: skip
def test_what_names_no_tokens_gets_one_short_sentence(text, said):
    with pytest.raises(InputError, match=said) as refused:
        read_areas(text)
    assert len(str(refused.value)) < 150


@pytest.mark.parametrize("text", ["3,1", "1,4", "1-4096,1-4096"])
def test_what_reaches_beyond_the_grid_is_not_spelt_out(text):
    with pytest.raises(InputError, match="the grid has 2 rows and 3 columns"):
        tokens_in(read_areas(text), (2, 3))
