"""Strangers' texts are made fit for a line."""

import pytest

from sima_core.words import in_powers, plain, printable, shown


def test_nothing_that_steers_a_terminal_is_left():
    hostile = "\x1b[2Ja\nb\rc\x00d\x9be\u202ef\u2028g\udcffh"
    assert plain(hostile) == "?[2Ja?b?c?d?e?f?g?h"
    assert plain("Größe [1] (é) 'x' 猫.png") == "Größe [1] (é) 'x' 猫.png"
    assert plain("e\u0301") == "e\u0301"


def test_long_texts_keep_both_ends():
    assert plain("abcdefghij", 5) == "ab…ij"
    assert len(plain("x" * 10**6)) == 60
    assert plain("/a/" + "b" * 200 + "/cat.png").endswith("/cat.png")
    assert plain(10**5000) == "…"


def test_names_from_files_hold_no_markup():
    assert shown("<b>blocks.0</b>\x1b") == "?b?blocks.0?/b??"
    assert shown("y" * 100) == "y" * 80 + "…"


def test_a_name_that_is_no_utf8_can_be_written():
    assert printable("caf\udce9.png") == "caf\ufffd.png"
    assert printable("café.png") == "café.png"


def test_whole_names_hold_only_what_can_be_printed():
    assert printable("a\x9b\u202eb\udce9\n" + "é" * 300) == "a\ufffd\ufffdb\ufffd\ufffd" + "é" * 300


@pytest.mark.parametrize(
    ("value", "said"),
    [(2.2e-7, "2e-7"), (9.6e-10, "1e-9"), (3e-12, "3e-12"), (0.0, "0"), (2.0, "2e0")],
)
def test_small_numbers_in_powers(value, said):
    assert in_powers(value) == said
