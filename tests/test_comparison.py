"""Models, layers and heads side by side."""

import json

import numpy as np
import pytest
from PIL import Image

from sima_core import Lens, comparison, load_model, overlay, provenance, token_norms
from sima_core.bench.whole_models import time_models
from sima_core.cli import main
from sima_core.comparison import Choice, compare, load_choice, look, plot
from sima_core.errors import InputError
from sima_core.lens.layers import patch_size
from sima_core.lens.pictures import preprocess
from sima_core.weights.loading import load_best

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("bundled", Choice("bundled", 12)),
        (" deit_tiny_patch16_224@3 ", Choice("deit_tiny_patch16_224", 3)),
        ("bundled@-1.2", Choice("bundled", -1, 2)),
        ("hf-hub:owner/some.name", Choice("hf-hub:owner/some.name", 12)),
        ("file@home.pth@4", Choice("file@home.pth", 4)),
    ],
)
def test_choices_name_model_layer_and_head(text, choice):
    assert Choice.parse(text) == choice


@pytest.mark.parametrize(
    "text", ["", "@", "@6", "bundled@x", "bundled@6.x", "a@1@2", "b@" + "9" * 5000]
)
def test_what_names_no_model_or_layer_is_refused(text):
    with pytest.raises(InputError, match="such as") as caught:
        Choice.parse(text)
    assert len(str(caught.value)) < 200


def test_the_maps_are_those_of_each_model_alone(photo, model):
    choices = [Choice("bundled", 6), Choice("bundled", 12, 2), Choice("sima_cvt_13", -1)]
    panels, times = compare(choices, photo, 96, seconds=0)
    pixels = preprocess(photo, 96, patch_size(model))
    expected = token_norms(model, pixels, 6).key[0].numpy()
    np.testing.assert_allclose(panels[0].maps["K̂"], expected, rtol=1e-5)
    by_head = token_norms(model, pixels, 12, per_head=True).query[0, 1].numpy()
    np.testing.assert_allclose(panels[1].maps["Q̂"], by_head, rtol=1e-5)
    assert panels[2].choice.layer == 13
    assert [p.weights for p in panels] == [
        "sima_nano_12_p16.safetensors", "sima_nano_12_p16.safetensors", "untrained weights"
    ]  # fmt: skip
    assert times[0] is times[1]  # one model, timed once
    for timed in times:
        assert 0 < timed.attention.median < timed.forward.median
        assert len(timed.forward.times) >= 3


@pytest.mark.parametrize(
    ("name", "kind", "maps"),
    [
        ("deit_tiny_patch16_224", "norms", ["Q", "K"]),
        ("deit_tiny_patch16_224", "rollout", ["rollout"]),
        ("xcit_nano_12_p16_224", "norms", ["Q", "K"]),
        ("xcit_nano_12_p16_224", "cls", ["class attention"]),
        ("cvt_13", "cls", ["class attention"]),
        ("cvt_13", "value_weighted", ["Key × value"]),
        ("deit_tiny_patch16_224", "class_contribution", ["To the class token"]),
        ("xcit_nano_12_p16_224", "query_key", ["Query × key"]),
        ("sima_deit_tiny_patch16_224_1h", "norms", ["Q̂", "K̂"]),
    ],
)
def test_every_family_has_its_maps(photo, name, kind, maps):
    panel = look(load_model(name), Choice(name), photo, 96, kind)
    assert list(panel.maps) == maps
    assert all(np.isfinite(values).all() for values in panel.maps.values())


def test_attention_maps_have_no_layer(photo, model):
    panel = look(model, Choice("bundled", 99), photo, 96, "cls")
    assert panel.title == "sima_nano_12_p16"
    with pytest.raises(ValueError, match="compare models or heads, not layers"):
        compare([Choice("bundled", 6), Choice("bundled", 12)], photo, 96, "cls", load=None)
    heads = [Choice("bundled", head=1), Choice("bundled", head=2)]
    first, second = compare(heads, photo, 96, "cls", 0)[0]
    assert not np.allclose(first.maps["class attention"], second.maps["class attention"])


def test_named_maps_are_those_of_the_lens_and_have_a_layer_but_for_class_attentions(photo, model):
    lens = Lens(model)
    maps = lens.maps(lens.preprocess(photo, 96), [6, 12])
    for layer, of in maps.items():
        panel = look(model, Choice("bundled", layer, head=2), photo, 96, "received")
        np.testing.assert_array_equal(panel.maps["Received"], of.of("received", 2))
        assert panel.title == f"sima_nano_12_p16, layer {layer}, head 2"
    assert look(model, Choice("bundled"), photo, 96, "class_contribution").title == lens.name
    deit = look(load_model("deit_tiny_patch16_224"), Choice("", 3), photo, 96, "class_contribution")
    assert deit.title.endswith(", layer 3")  # the class token is among the tokens of every layer
    with pytest.raises(ValueError, match="has no map sent"):
        look(load_model("xcit_nano_12_p16_224"), Choice(""), photo, 96, "sent")


def test_a_picture_thin_as_a_thread_is_drawn_too(model, tmp_path):
    thread = Image.new("RGB", (2, 20000), "red")
    choices = [Choice("bundled", 1), Choice("bundled", 2)]
    panels, times = compare(choices, thread, 16, seconds=0, load=lambda source: model)
    plot(panels, times, tmp_path / "c.png")
    assert Image.open(tmp_path / "c.png").height < 20_000


def test_a_large_picture_is_made_smaller_for_the_figure(photo, model, tmp_path, monkeypatch):
    drawn = []
    choices = [Choice("bundled", 1), Choice("bundled", 2)]
    panels, times = compare(choices, photo, 64, seconds=0, load=lambda source: model)
    monkeypatch.setattr(
        comparison,
        "overlay",
        lambda image, *rest: drawn.append(image.size) or overlay(image, *rest),
    )
    plot(panels, times, tmp_path / "c.png")
    monkeypatch.setattr(comparison, "MOST_DRAWN", photo.width * photo.height - 1)
    plot(panels, times, tmp_path / "c.png")
    assert set(drawn) == {photo.size, (photo.width // 2, photo.height // 2)}


def test_slow_models_are_run_less_often(photo, model, monkeypatch):
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        for slow, rounds, runs in ((float("inf"), 5, 10), (0.0, 3, 4)):  # each warmed up, or once
            monkeypatch.setattr("sima_core.bench.timing.SLOW_CALL", slow)
            passes.clear()
            [timed] = time_models([model], [preprocess(photo, 96)], 0)
            assert (len(timed.forward.times), len(passes)) == (rounds, runs)
    finally:
        handle.remove()


def test_timing_leaves_no_hooks(photo, model):
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks()
    with pytest.raises(RuntimeError):
        time_models([model], [preprocess(photo, 96).double()], 0)  # of another type
    assert hooks() == before


def test_the_best_weights_there_are():
    assert provenance(load_best("sima_nano_12_p16")).trained
    assert not provenance(load_best("deit_tiny_patch16_224")).trained  # no network here
    assert provenance(load_choice("bundled")).trained


def test_the_command_draws_a_figure(photo_file, tmp_path, capsys):
    out = tmp_path / "compared.png"
    names = "bundled,deit_tiny_patch16_224@3,xcit_nano_12_p16_224,sima_cvt_13"
    command = ["compare", str(photo_file), "--models", names, "--resolution", "96"]
    assert main([*command, "--seconds", "0.001", "--out", str(out)]) == 0
    with Image.open(out) as figure:
        assert figure.width > 1500
    said = capsys.readouterr().out
    assert said.count("untrained weights") == 3
    assert "deit_tiny_patch16_224, layer 3" in said


@pytest.mark.parametrize(
    ("models", "more", "message"),
    [
        ("bundled", [], "choose 2 to 4"),
        ("bundled,bundled@13", [], "layers run from 1 to 12"),
        ("bundled,bundled@12.5", [], "heads run from 1 to 4"),
        ("bundled,deit_tiny_patch16_224", ["--map", "rollout"], "sima_nano_12_p16: rollout needs"),
        ("bundled@3,bundled@6", ["--map", "cls"], "compare models or heads, not layers"),
        ("bundled,deit_tinny_patch16_224", [], "deit_tinny_patch16_224"),
        ("bundled,", [], "name each model"),
        ("bundled,bundled@6", ["--out", "figure.gif"], "--out must name a .png"),
        ("bundled,bundled@6", ["--out", "no/such/folder.png"], "cannot be written"),
    ],
)
def test_bad_usage_is_one_line(photo_file, tmp_path, capsys, models, more, message):
    out = [] if "--out" in more else ["--out", str(tmp_path / "f.png")]
    assert main(["compare", str(photo_file), "--models", models, *out, *more]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "f.png").exists()


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "xcit_nano_12_p16_224", "cvt_13"])
def test_models_with_one_order_are_timed_as_they_are(photo_file, capsys, name):
    command = ["latency", str(photo_file), "--checkpoint", name, "--resolution", "64"]
    assert main([*command, "--seconds", "0.1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{name}: forward ")
    assert "only SimA's product" in said
    assert main([*command, "--seconds", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["attention"]["median"] < found["forward"]["median"]


def test_a_map_of_the_class_token_takes_one_forward_pass(model, photo):
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        look(model, Choice("bundled"), photo, 96, "cls")
    finally:
        handle.remove()
    assert len(passes) == 1
