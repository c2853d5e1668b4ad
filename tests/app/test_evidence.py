"""The Evidence tab: in the browser, and what it says."""

import copy

import pytest
from playwright.sync_api import expect

from app.tabs import evidence
from sima_core.lens.maps import MAPS
from sima_core.scoring.results import BASELINES
from sima_core.scoring.summary import METRIC_NAMES


@pytest.mark.browser
def test_evidence_tab(explore):
    explore.get_by_role("tab", name="Evidence").click()
    expect(explore.locator("#evidence .sl-chart")).to_have_count(5)
    checks = explore.locator("#ev-sanity tbody tr")
    expect(checks).to_have_count(9)  # the seven maps, and two of the softmax twin
    expect(checks.nth(1)).to_contain_text("0.91")  # keys, and what is sent
    sent = checks.nth(1).get_by_label("COCO pictures: median 0.91")
    median, whole = (sent.locator(tag).bounding_box() for tag in ("s", "xpath=."))
    share = (median["x"] - whole["x"]) / whole["width"]
    assert share == pytest.approx((0.91 + 1) / 2, abs=0.03)  # from −1 to 1
    rows = explore.locator("#evidence .sl-verdicts tbody tr:not(.sl-group)")
    expect(rows).to_have_count(2 * len(MAPS) + len(BASELINES))
    expect(rows.locator("b")).to_have_count(5)  # the best in each measure, whoever it is
    best = rows.filter(has_text=MAPS["class_contribution"].formula).first
    expect(best).to_contain_text("0.81")
    expect(best.get_by_label("better than Q̂")).to_have_count(3)
    expect(explore.locator("#evidence")).to_contain_text("--maps all")
    expect(explore.locator("#evidence")).to_contain_text("94 pictures of COCO val2017")
    explore.get_by_label("train2017").check()
    expect(explore.locator("#evidence")).to_contain_text("37 pictures of COCO train2017")


@pytest.mark.parametrize(
    ("untrained", "said"),
    [
        ((0.2, 0.3), "Training put it there"),
        ((0.6, 0.8), "is no different"),
        ((0.8, 0.9), "does better"),
    ],
)
def test_the_verdict_compares_with_random_weights(untrained, said):
    found = copy.deepcopy(evidence.evidence("val2017"))
    for name in ("query", "key"):
        found["maps"][name]["auc_ci"] = [0.65, 0.75]
        found["maps"][f"untrained_{name}"]["auc_ci"] = list(untrained)
    assert said in evidence.verdict(found)


def test_files_from_before_there_were_more_maps_are_shown(monkeypatch):
    found = copy.deepcopy(evidence.evidence("val2017"))
    for name in [n for n in found["maps"] if n.removeprefix("untrained_") in MAPS]:
        if name.removeprefix("untrained_") not in ("query", "key"):
            del found["maps"][name]
    del found["against_query"]
    monkeypatch.setattr(evidence, "evidence", lambda split: found)
    page = evidence.evidence_html("val2017")
    assert page.count("<tr><th>") == 7
    assert "Of all maps" not in page


def test_what_is_best_and_what_can_be_told_from_the_query_is_marked():
    found = copy.deepcopy(evidence.evidence("val2017"))
    found["maps"]["untrained_key"]["auc"] = 1.0  # of no interest
    found["maps"]["centre"]["auc"] = 0.99
    found["against_query"]["sent"]["auc_ci"] = [0.01, 0.02]
    found["against_query"]["received"]["auc_ci"] = [-0.01, 0.02]
    model, baselines, _ = evidence.groups(found).values()
    auc = list(METRIC_NAMES).index("auc")
    assert baselines["centre"][auc].best
    assert not any(cells[auc].best for cells in model.values())
    assert model["sent"][auc].than_query == "better"
    assert model["key"][auc].than_query == "worse"
    assert model["received"][auc].than_query == model["query"][auc].than_query == ""
