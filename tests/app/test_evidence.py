"""The Evidence tab: in the browser, and what it says."""

import copy

import pytest
from playwright.sync_api import expect

from app.tabs import evidence


@pytest.mark.browser
def test_evidence_tab(explore):
    explore.get_by_role("tab", name="Evidence").click()
    expect(explore.locator("#evidence .sl-chart")).to_have_count(5)
    expect(explore.locator("#evidence .sl-verdicts tbody tr")).to_have_count(7)
    checks = explore.locator("#ev-sanity tbody tr")
    expect(checks).to_have_count(9)  # the seven maps, and two of the softmax twin
    expect(checks.nth(1)).to_contain_text("0.91")  # keys, and what is sent
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
