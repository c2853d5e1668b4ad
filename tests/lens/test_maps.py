"""Maps by name: each against its formula."""

import numpy as np
import pytest
import torch

from sima_core import InputError, Lens
from sima_core.lens.flow import Flow
from sima_core.lens.maps import MAPS
from tests.lens.flows import FAMILIES, PIXELS, of_ours, of_timm, pairs

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_papers_two_come_first():
    assert list(MAPS)[:2] == ["query", "key"]
    assert {"query_key", "value_weighted", "sent", "received", "class_contribution"} < set(MAPS)


@pytest.mark.parametrize("head", [None, 2])
@pytest.mark.parametrize("family", ["sima", "deit", "cvt", "sima_cvt"])
def test_every_map_by_its_formula(family, head):
    make, number = FAMILIES[family]
    if family == "sima_cvt":
        number = 3  # the first two stages have one head, or no class token
    lens = Lens(make())
    layer = lens.layer(number)
    found = lens.maps(PIXELS, number)
    norms = lens.norms(PIXELS, number, per_head=True)
    every = pairs(lens.model, layer, PIXELS, head)
    of_class = lens.class_flow(PIXELS).layer
    to_class = pairs(lens.model, of_class, PIXELS, head).contributions
    sizes = every.contributions.norm(dim=-1)

    query, key = (
        t[0].norm(dim=0) if head is None else t[0, head - 1] for t in (norms.query, norms.key)
    )
    under = key.repeat_interleave(2, 0).repeat_interleave(2, 1)  # CvT's keys lie under four queries
    key_norms = lens.flow(PIXELS, number).of_head(head).key.norm(dim=-1)
    expected = {
        "query": query,
        "key": key,
        "query_key": query
        * (key if key.shape == query.shape else under[: len(query), : query.shape[1]]),
        "value_weighted": (key_norms * every.carried.norm(dim=-1)).sum(0),
        "sent": sizes.sum(0),
        "received": every.contributions.sum(1).norm(dim=-1),
        "class_contribution": to_class[
            0 if of_class.class_row is None else of_class.class_row
        ].norm(dim=-1),
    }
    assert list(found) == list(MAPS) == list(expected)
    for name, values in expected.items():
        shown = found.of(name, head)
        assert shown.dtype == np.float32
        values = values.double().numpy().ravel()[-shown.size :].reshape(shown.shape)
        np.testing.assert_allclose(shown, values, atol=1e-5 * np.abs(values).max(), err_msg=name)


def test_only_what_is_asked_for_is_captured(model):
    lens = Lens(model)
    assert lens.maps(PIXELS, names=["query"]).flow is None
    assert lens.maps(PIXELS, names=["sent"]).class_flow is None
    of_class = lens.maps(PIXELS, names=["class_contribution"])
    assert of_class.flow is None
    assert of_class.of("class_contribution").shape == (3, 5)
    with pytest.raises(InputError, match=r"no map sent: choose one of query, key, query_key"):
        of_class.of("sent")


def test_models_without_a_map_say_which_they_have():
    xcit = Lens(of_ours("xcit_nano_12_p16_224")).maps(PIXELS, 1)
    assert list(xcit) == ["query", "key", "query_key", "class_contribution"]
    with pytest.raises(
        InputError, match=r"layer 1 \(XCA\) has no map received: choose one of query"
    ):
        xcit.of("received")
    with pytest.raises(InputError, match=r"layer 1 \(XCA\) has no flow here"):
        xcit.totals()
    cvt = Lens(of_ours("cvt_13", depth=1)).maps(PIXELS, 1)  # its class token comes later
    assert list(cvt) == list(MAPS)[:-1]
    pooled = Lens(of_timm("vit_tiny_patch16_224", class_token=False, global_pool="avg"))
    assert list(pooled.maps(PIXELS, 1)) == list(MAPS)[:-1]


@pytest.mark.parametrize("name", ["attention", "", None, 3, ["query"]])
def test_unknown_names_are_refused(model, name):
    with pytest.raises(InputError, match="a map is one of query, key"):
        Lens(model).maps(PIXELS, names=[name])
    with pytest.raises(InputError, match="a map is one of query, key"):
        Lens(model).maps(PIXELS).of(name)


def test_layers_and_heads_that_do_not_exist_are_refused(model):
    lens = Lens(model)
    with pytest.raises(InputError, match="no layer 13"):
        lens.maps(PIXELS, 13)
    with pytest.raises(InputError, match="no head 5"):
        lens.maps(PIXELS).of("sent", 5)
    with pytest.raises(InputError, match="one picture at a time"):
        lens.maps(torch.cat([PIXELS, PIXELS]))


@pytest.mark.parametrize("head", [None, 2])
def test_all_pairs_are_added_up_once_for_each_head(model, head, monkeypatch):
    heads, whole = [], Flow.totals

    def totals(flow, head=None):
        heads.append(head)
        return whole(flow, head)

    monkeypatch.setattr(Flow, "totals", totals)
    found = Lens(model).maps(PIXELS)
    for name in ("sent", "received", "sent"):
        found.of(name, head)
    assert found.totals(head) is found.totals(head)
    assert heads == [head]
