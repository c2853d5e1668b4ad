"""The published implementation's results, digit for digit (see golden/README in the hand-over)."""

import json

import numpy as np
import pytest
import torch

import sima_core
from tests.golden import weights
from tests.support import GOLDEN, attention_layers, relative_error

NAMES = ("sima_nano_12_p16", "sima_tiny_12_p8")
CASES = [
    (name, size)
    for name in NAMES
    for size in sorted({key.split("/")[0] for key in np.load(GOLDEN / f"{name}.npz")})
]


@pytest.fixture(scope="module")
def reference_models(tmp_path_factory):
    """Each reference checkpoint, saved as the published training script does and loaded."""
    folder, models = tmp_path_factory.mktemp("reference"), {}
    for name in NAMES:
        spec = json.loads((GOLDEN / f"{name}.keys.json").read_text())
        torch.save(weights.checkpoint(spec), folder / f"{name}.pth")
        models[name] = sima_core.load_model(folder / f"{name}.pth")
    return models


@pytest.mark.parametrize("order", ["auto", "rule", "qk_first", "kv_first"])
@pytest.mark.parametrize(("name", "size"), CASES)
def test_logits_and_norms(reference_models, name, size, order):
    model, golden = reference_models[name], np.load(GOLDEN / f"{name}.npz")
    height, width = map(int, size.split("x"))
    rng = np.random.RandomState(height * 1000 + width)
    pixels = torch.from_numpy(rng.randn(2, 3, height, width).astype(np.float16)).float()
    for layer in attention_layers(model):
        layer.order = order

    with torch.no_grad():
        assert relative_error(model(pixels).numpy(), golden[f"{size}/logits"]) < 1e-5
    over_heads = sima_core.token_norms(model, pixels, "all")
    per_head = sima_core.token_norms(model, pixels, "all", per_head=True)

    checked = 0
    for key in golden:
        at, *rest = key.split("/")
        if at != size or rest == ["logits"]:
            continue
        layer, kind = int(rest[0].removeprefix("layer")), rest[1]
        norms = (per_head if kind.endswith("per_head") else over_heads)[layer]
        found = getattr(norms, kind.split("_")[0]).numpy()
        assert found.shape == golden[key].shape
        assert relative_error(found, golden[key]) < 1e-5, key
        checked += 1
    assert checked == len([k for k in golden if k.startswith(f"{size}/layer")]) >= 8
