"""Numbers are read within bounds, which the refusal names."""

import pytest

from sima_core.errors import InputError
from sima_core.numbers import MOST_NUMBERS, Real, Whole


@pytest.mark.parametrize("text", ["0", "11", "9" * 400, "-" + "9" * 5000, "1" + " " * 100])
def test_whole_numbers_out_of_bounds_are_refused_with_the_bounds(text):
    with pytest.raises(InputError, match="expected a whole number from 1 to 10; got") as caught:
        Whole(1, 10).read(text)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("text", ["", "1.0", "1e3", "nan", "x" * 10**6, "\x1b[2J", "1,2"])
def test_what_is_no_whole_number_is_refused_with_the_bounds(text):
    with pytest.raises(InputError, match="is no whole number: give a whole number from 1 to 10"):
        Whole(1, 10).read(text)


def test_bounds_themselves_are_taken():
    assert [Whole(-3, 10).read(text) for text in ("-3", " 10 ", "+7")] == [-3, 10, 7]
    assert [Real(0.5, 2).read(text) for text in ("0.5", "2e0", "1")] == [0.5, 2.0, 1.0]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e308", "1e999", "0", "1e-9", "9" * 5000])
def test_numbers_out_of_bounds_are_refused_with_the_bounds(text):
    with pytest.raises(InputError, match=r"expected a number from 0\.5 to 2; got") as caught:
        Real(0.5, 2).read(text)
    assert len(str(caught.value)) < 100


def test_lists_are_bounded_in_length_and_in_each_number():
    assert Whole(1, 9).read_list("1,2,9") == (1, 2, 9)
    for text in ("1,10", "1,,2", "", ",".join("1" * (MOST_NUMBERS + 1)), "," * 10**6):
        with pytest.raises(InputError):
            Whole(1, 9).read_list(text)
