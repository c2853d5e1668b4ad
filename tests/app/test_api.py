"""The named endpoints, called as other programs call them."""

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app import api
from app.tabs import latency
from sima_core import Lens, load_image, load_model, preprocess, token_norms
from sima_core.errors import InputError
from sima_core.lens.heatmaps import DIVERGING, heatmap, overlay, signed_heatmap
from tests.app.driving import look


def test_api(app, photo, photo_file):
    query, key, about = Client(app, verbose=False).predict(
        handle_file(photo_file), 12, 0, 64, "viridis", 0.0, api_name="/heatmap"
    )
    for picture in (query, key):  # opacity 0 leaves the photo
        np.testing.assert_array_equal(
            np.asarray(Image.open(picture).convert("RGB")), np.asarray(photo)
        )
    expected = token_norms(load_model(), preprocess(load_image(photo_file), 64))
    assert about["grid"] == [4, 6]
    assert about["query_range"][1] == pytest.approx(expected.query.max().item())


def test_overlays_of_large_pictures_are_made_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "MAX_SIDE", 100)
    Image.new("RGB", (400, 200)).save(tmp_path / "large.png")
    for picture in api.heatmap(str(tmp_path / "large.png"), resolution=64)[:2]:
        assert picture.size == (100, 50)


def test_api_keeps_16_bits(app, tmp_path):
    ramp = np.tile(np.arange(0, 65536, 1024, dtype=np.uint16), (64, 1))
    path = tmp_path / "deep.png"
    Image.fromarray(ramp).save(path)
    query, _, _ = Client(app, verbose=False).predict(
        handle_file(path), 12, 0, 64, "viridis", 0.0, api_name="/heatmap"
    )
    shown = np.asarray(Image.open(query).convert("L"))
    assert abs(shown.astype(int) - ramp // 257).max() <= 1


@pytest.mark.parametrize(
    ("layer", "resolution", "reason"), [(99, 224, "from 1 to 12"), (12, 4, "at least one patch")]
)
def test_api_explains_errors(app, photo_file, layer, resolution, reason):
    with pytest.raises(AppError, match=reason):
        Client(app, verbose=False).predict(
            handle_file(photo_file), layer, 0, resolution, "viridis", 0.5, api_name="/heatmap"
        )


def test_api_limits_what_a_picture_may_cost(app, photo_file):
    with pytest.raises(AppError, match="choose a lower resolution"):
        Client(app, verbose=False).predict(
            handle_file(photo_file), resolution=2048, api_name="/heatmap"
        )


def test_latency_api(app, photo_file):
    found = Client(app, verbose=False).predict(
        handle_file(photo_file), resolution=64, seconds=1, api_name="/latency"
    )
    assert (found["num_tokens"], found["head_dim"]) == (24, 32)
    assert found["levels"]["attention"]["qk_first"]["median"] > 0
    with pytest.raises(AppError, match="choose a lower resolution"):
        Client(app, verbose=False).predict(
            handle_file(photo_file), resolution=3000, api_name="/latency"
        )


def test_only_the_named_endpoints_are_public(app):
    named = Client(app, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert list(named) == ["/heatmap", "/flow", "/knockout", "/latency"]


def test_heatmap_draws_a_named_map(app, photo, photo_file):
    shown, other, about = Client(app, verbose=False).predict(
        handle_file(photo_file), resolution=64, map="sent", api_name="/heatmap"
    )
    assert other is None
    lens = Lens(load_model())
    sent = lens.maps(lens.preprocess(load_image(photo_file), 64), 12).of("sent")
    assert about["sent_range"] == pytest.approx([sent.min(), sent.max()])
    drawn = np.asarray(Image.open(shown))
    np.testing.assert_array_equal(drawn, np.asarray(overlay(photo, heatmap(sent))))


def test_flow_gives_what_a_token_receives_and_sends(app, photo, photo_file):
    *overlays, about = Client(app, verbose=False).predict(
        handle_file(photo_file), 2, 3, head=1, resolution=64, api_name="/flow"
    )
    lens = Lens(load_model())
    flow = lens.flow(lens.preprocess(load_image(photo_file), 64))
    for shown, parts in zip(
        overlays, (flow.received((2, 3), 1), flow.sent((2, 3), 1)), strict=True
    ):
        expected = overlay(photo, signed_heatmap(parts.on_grid("signed")), DIVERGING)
        np.testing.assert_array_equal(np.asarray(Image.open(shown)), np.asarray(expected))
    assert (about["token"], about["head"], about["layer"]) == ([2, 3], 1, 12)
    share = flow.received((2, 3), 1).negative_share
    assert about["received"]["negative_share"] == pytest.approx(share)


def test_knockout_gives_labels_before_and_after(app, photo_file):
    about = Client(app, verbose=False).predict(
        handle_file(photo_file), "1,1;2-3,2-4", resolution=64, api_name="/knockout"
    )
    lens = Lens(load_model())
    tokens = [(1, 1), *((row, col) for row in (2, 3) for col in (2, 3, 4))]
    found = lens.without(lens.preprocess(load_image(photo_file), 64), tokens)
    first = about["labels"][0]
    for name in ("before", "predicted", "real"):
        assert first[name] == pytest.approx(getattr(found, name)[found.before.argmax()], abs=1e-5)
    one = api.knockout(str(photo_file), "2,3", 12, 64)
    assert (one["layer"], one["tokens"]) == (12, ((2, 3),))


@pytest.mark.parametrize(
    ("endpoint", "arguments", "reason"),
    [
        ("flow", {}, "Name a row and a column"),
        ("flow", {"row": 5, "column": 1}, "the grid has 4 rows and 6 columns"),
        ("flow", {"row": 0, "column": 1}, "row must be a whole number from 1"),
        ("flow", {"row": 1.5, "column": 1}, "row must be a whole number"),
        ("flow", {"row": 1, "column": 10**30}, "column must be a whole number"),
        ("flow", {"row": 1, "column": 1, "head": 99}, "head must be a whole number from 0 to 4"),
        ("knockout", {}, "Name tokens as ROW,COLUMN"),
        ("knockout", {"tokens": "nan,1"}, "is no whole number"),
        ("knockout", {"tokens": "1-4,1-6"}, "No token would be left"),
        ("knockout", {"tokens": "1-4,1-7"}, "the grid has 4 rows and 6 columns"),
        ("knockout", {"tokens": "1,1;" * 999}, "text of at most"),
        ("heatmap", {"map": "loudest"}, "A map is one of query, key, query_key"),
    ],
)
def test_what_an_endpoint_cannot_do_is_one_sentence(app, photo_file, endpoint, arguments, reason):
    with pytest.raises(AppError, match=reason) as refused:
        Client(app, verbose=False).predict(
            handle_file(photo_file), **{"resolution": 64} | arguments, api_name=f"/{endpoint}"
        )
    assert len(str(refused.value)) <= 200


def test_more_passes_may_cost_no_more_together(photo_file, monkeypatch):
    monkeypatch.setattr(api, "MAX_COST", 24 * Lens(load_model()).num_parameters)
    api.flow(str(photo_file), 1, 1, resolution=64)
    api.heatmap(str(photo_file), resolution=64, map="sent")
    with pytest.raises(InputError, match="choose a lower resolution"):
        api.knockout(str(photo_file), "1,1", resolution=64)


@pytest.mark.parametrize("call", [api.heatmap, api.flow, api.knockout])
def test_a_missing_picture_is_said(call):
    arguments = {api.flow: (1, 1), api.knockout: ("1,1",)}.get(call, ())
    with pytest.raises(InputError, match="image is missing"):
        call(None, *arguments)


def test_emptied_number_boxes_mean_their_defaults(photo_file):
    seen = look(str(photo_file), None, 224)
    *_, page = latency.measure_orders(seen, None, None, None, 1)
    assert "Layer 12:" in page
    assert next(latency.curve(seen, None, None, None))
    about = api.heatmap(str(photo_file), None, None, None, opacity=None)[2]
    assert (about["layer"], about["head"], about["resolution"]) == (12, "all", 224)
