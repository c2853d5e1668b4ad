"""Where a picture stands among those of a split."""

import pytest

from sima_core.errors import InputError
from sima_core.scoring.results import PictureResult
from sima_core.scoring.standing import Checked, Distribution, as_plain, from_plain


def test_deciles_and_shares():
    found = Distribution.of(range(101))
    assert found.deciles == tuple(float(n) for n in range(0, 101, 10))
    assert found.median == 50
    assert found.share_below(25) == pytest.approx(0.25)
    assert found.share_below(-1) == 0
    assert found.share_below(101) == 1
    assert str(found) == "50.00 (10.00 to 90.00)"


def test_a_value_that_ties_is_in_the_middle_of_its_like():
    found = Distribution.of([0] * 8 + [1, 2])
    assert 0.3 < found.share_below(0) < 0.45
    assert Distribution.of([5, 5]).share_below(5) == pytest.approx(0.5)


@pytest.mark.parametrize("deciles", [(1.0,) * 10, (*(0.0,) * 10, -1.0), (float("nan"),) * 11])
def test_other_numbers_are_no_distribution(deciles):
    with pytest.raises(InputError, match="11 rising numbers"):
        Distribution(deciles)


def test_figures_are_gathered_by_map():
    checked = Checked()
    for mirror in (0.1, 0.2, 0.3):
        checked.add(PictureResult(1, sanity={"key": {"mirror": mirror, "centre": 0.5}}))
    checked.add(PictureResult(2, "small"))
    found = checked.distributions()
    assert found["key"]["mirror"].median == pytest.approx(0.2)
    assert found["key"]["centre"].deciles == (0.5,) * 11
    assert from_plain(as_plain(found)) == found
    assert Checked().distributions() == {}
