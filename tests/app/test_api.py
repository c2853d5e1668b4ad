"""The named endpoints, called as other programs call them."""

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app import api
from app.tabs import latency
from sima_core import load_image, load_model, preprocess, token_norms
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
    assert list(named) == ["/heatmap", "/latency"]


def test_emptied_number_boxes_mean_their_defaults(photo_file):
    seen = look(str(photo_file), None, 224)
    *_, page = latency.measure_orders(seen, None, None, None, 1)
    assert "Layer 12:" in page
    assert next(latency.curve(seen, None, None, None))
    about = api.heatmap(str(photo_file), None, None, None, opacity=None)[2]
    assert (about["layer"], about["head"], about["resolution"]) == (12, "all", 224)
