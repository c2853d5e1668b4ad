"""``flow``, ``knockout`` and named maps, run as a user runs them."""

import json

import numpy as np
import pytest
from PIL import Image

from sima_core import Lens, load_image
from sima_core.lens import token_flow
from sima_core.lens.changes import changes
from sima_core.lens.heatmaps import DIVERGING, overlay, signed_heatmap
from sima_core.lens.token_flow import TokenFlow
from tests.cli.support import run_here
from tests.cli.test_hostile_values import in_one_line

SMALL = ("--resolution", 64)  # 4 × 6 tokens


@pytest.fixture
def seen(photo_file, model):
    lens = Lens(model)
    return lens, lens.preprocess(load_image(photo_file), 64)


def test_flow_writes_what_a_token_receives_and_sends(photo, photo_file, seen, tmp_path):
    lens, pixels = seen
    done = run_here("flow", photo_file, "--token", "2,3", "--out", tmp_path / "o", *SMALL)
    assert done.returncode == 0
    stem = photo_file.stem
    ends = ("_2-3.json", "_2-3.npz", "_2-3_received.png", "_2-3_sent.png")
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [stem + end for end in ends]

    flow = lens.flow(pixels, 12)
    written = np.load(tmp_path / "o" / f"{stem}_2-3.npz")
    for name, parts in (("received", flow.received((2, 3))), ("sent", flow.sent((2, 3)))):
        for amount in ("weights", "signed", "norms"):
            np.testing.assert_array_equal(written[f"{name}_{amount}"], getattr(parts, amount))
        drawn = np.asarray(Image.open(tmp_path / "o" / f"{stem}_2-3_{name}.png"))
        expected = overlay(photo, signed_heatmap(parts.on_grid("signed")), DIVERGING)
        np.testing.assert_array_equal(drawn, np.asarray(expected))
    totals = flow.totals()
    for name in ("sent", "gathered", "received"):
        np.testing.assert_array_equal(written[f"total_{name}"], getattr(totals, name))
    assert written["query_grid"].tolist() == written["key_grid"].tolist() == [4, 6]

    about = json.loads((tmp_path / "o" / f"{stem}_2-3.json").read_text())
    assert (about["token"], about["layer"], about["head"]) == ([2, 3], 12, "all")
    assert about["trained"] is True
    assert about["received"]["negative_share"] == flow.received((2, 3)).negative_share
    row, col = about["received"]["loudest"]
    norms = flow.received((2, 3)).on_grid()
    assert norms[row - 1, col - 1] == norms.max()
    assert 0 < about["totals"]["error"] < 1e-5
    assert str(tmp_path) not in json.dumps(about)
    assert f"row 2, column 3 hears most from row {row}, column {col};" in done.stdout
    assert "add up to the layer's output within" in done.stdout


def test_options_of_flow_are_taken(photo, photo_file, seen, tmp_path):
    lens, pixels = seen
    options = ("--layer", -2, "--head", 2, "--opacity", 0)
    done = run_here("flow", photo_file, "--token", "4,6", "--out", tmp_path, *SMALL, *options)
    assert done.returncode == 0
    written = np.load(tmp_path / f"{photo_file.stem}_4-6.npz")
    expected = lens.flow(pixels, 11).received((4, 6), head=2)
    np.testing.assert_array_equal(written["received_signed"], expected.signed)
    about = json.loads((tmp_path / f"{photo_file.stem}_4-6.json").read_text())
    assert (about["layer"], about["head"], about["totals"]["error"]) == (11, 2, None)
    drawn = Image.open(tmp_path / f"{photo_file.stem}_4-6_sent.png")
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(photo))


def test_the_class_token_hears_in_class_attention_and_sends_to_no_patch(photo_file, seen, tmp_path):
    lens, pixels = seen
    out = tmp_path / "o"
    done = run_here("flow", photo_file, "--token", "class", "--out", out, *SMALL)
    assert done.returncode == 0
    ends = ("_class.json", "_class.npz", "_class_received.png")
    assert sorted(p.name for p in out.iterdir()) == [photo_file.stem + end for end in ends]
    about = json.loads((out / f"{photo_file.stem}_class.json").read_text())
    assert (about["layer"], about["of_class_attention"], about["sent"]) == (1, True, None)
    written = np.load(out / f"{photo_file.stem}_class.npz")
    expected = lens.class_flow(pixels).received("class")
    np.testing.assert_array_equal(written["received_norms"], expected.norms)
    assert "3 files written" in done.stdout


@pytest.mark.parametrize(
    ("name", "token", "key"),
    [("deit_tiny_patch16_224", "class", "class"), ("cvt_13", "4,6", [2, 3])],
)
def test_flow_of_other_families(photo_file, tmp_path, name, token, key):
    """In CvT keys have a coarser grid than queries."""
    model, out = ("--checkpoint", name, "--layer", -1), tmp_path / "o"
    done = run_here("flow", photo_file, "--token", token, "--out", out, *SMALL, *model)
    assert done.returncode == 0, done.stderr
    assert f"{name} has untrained weights" in done.stderr
    assert len(list(out.glob("*.png"))) == 2
    [about] = [json.loads(path.read_text()) for path in out.glob("*.json")]
    assert about["key_token"] == key
    assert about["trained"] is False


def test_too_many_tokens_are_not_added_up(photo_file, seen, tmp_path, monkeypatch):
    monkeypatch.setattr(token_flow, "MOST_PAIRS", 24 * 24 - 1)
    found = TokenFlow.look(*seen, (1, 1))
    assert found.totals is None
    assert not any(name.startswith("total") for name in found.arrays())
    done = run_here("flow", photo_file, "--token", "1,1", "--out", tmp_path, *SMALL)
    assert done.returncode == 0
    assert "add up" not in done.stdout
    assert json.loads((tmp_path / f"{photo_file.stem}_1-1.json").read_text())["totals"] is None


def test_knockout_prints_labels_before_predicted_and_real(photo_file, seen):
    lens, pixels = seen
    done = run_here("knockout", photo_file, "--tokens", "1,1;2-3,2-4", *SMALL, "--json")
    assert done.returncode == 0
    about = json.loads(done.stdout)
    tokens = [(1, 1), *((row, col) for row in (2, 3) for col in (2, 3, 4))]
    assert about["tokens"] == [list(token) for token in tokens]
    assert (about["grid"], about["layer"]) == ([4, 6], "all")
    found = lens.without(pixels, tokens)
    label = about["labels"][0]
    assert label["index"] == found.before.argmax()
    for name in ("before", "predicted", "real"):
        assert label[name] == pytest.approx(float(getattr(found, name)[label["index"]]))
    assert {found.real.argmax(), found.predicted.argmax()} <= {x["index"] for x in about["labels"]}

    said = run_here("knockout", photo_file, "--tokens", "1,1;2-3,2-4", *SMALL).stdout.splitlines()
    assert said[0] == "7 of 24 tokens taken away in all layers"
    assert said[1].split() == ["label", "before", "predicted", "real"]
    assert said[2].startswith(label["label"])
    assert said[2].endswith(f"{100 * label['real']:.1f} %")
    assert len(said) == 2 + len(about["labels"])


def test_knockout_in_one_layer(photo_file, seen):
    lens, pixels = seen
    done = run_here("knockout", photo_file, "--tokens", "2,3", *SMALL, "--layer", -1, "--json")
    about = json.loads(done.stdout)
    assert about["layer"] == 12
    expected = changes(lens.without(pixels, [(2, 3)], 12), lens.class_names(1)[0])[0]
    assert about["labels"][0]["real"] == pytest.approx(expected.real)


def test_nothing_is_predicted_where_channels_are_mixed(photo_file):
    model = ("--checkpoint", "xcit_nano_12_p16_224")
    done = run_here("knockout", photo_file, "--tokens", "2,3", *SMALL, *model)
    assert done.returncode == 0
    assert "untrained weights" in done.stderr
    assert done.stdout.splitlines()[2].split()[-3] == "–"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("flow PHOTO --out o --token 5,1", "the grid has 4 rows and 6 columns"),
        ("flow PHOTO --out o --token 0,1", "Invalid value for --token: "),
        ("flow PHOTO --out o --token nan,inf", "Invalid value for --token: "),
        ("flow PHOTO --out o --token 1,1 --head 99", "heads run from 1"),
        ("flow PHOTO --out o --token 1,1 --layer 13", "layers run from 1 to 12"),
        ("flow PHOTO --out o --token class --layer 3", "layers run from 1 to 2"),
        ("flow PHOTO --out o --token 1,1 --checkpoint xcit_nano_12_p16_224", "XCA mixes channels"),
        ("flow PHOTO --out o", "--token requires an argument"),
        ("knockout PHOTO --tokens 1-4,1-6", "no token would be left"),
        ("knockout PHOTO --tokens 1-4,1-7", "the grid has 4 rows and 6 columns"),
        ("knockout PHOTO --tokens 2-1,1", "runs backwards"),
        ("knockout PHOTO --tokens 1", "Invalid value for --tokens: "),
        ("heatmap PHOTO --out o --map loudest", "'loudest' is none of query, key, query_key"),
        ("heatmap PHOTO --out o --map sent --checkpoint xcit_nano_12_p16_224", "has no map sent"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(
    photo_file, tmp_path, arguments, said
):
    places = {"PHOTO": photo_file, "o": tmp_path / "o"}
    words = [places.get(word, word) for word in arguments.split()]
    done = run_here(*words, *SMALL)
    assert done.returncode == 2
    assert said in done.stderr
    assert in_one_line(done.stderr)
    assert not (tmp_path / "o").exists()


def test_heatmap_draws_a_named_map_beside_the_papers_two(photo, photo_file, seen, tmp_path):
    lens, pixels = seen
    copy = tmp_path / "second.png"
    photo.save(copy)
    command = ("heatmap", photo_file, copy, "--out", tmp_path / "o", *SMALL)
    assert run_here(*command).returncode == 0
    assert run_here(*command, "--map", "class_contribution").returncode == 0
    stems = (photo_file.stem, "second")
    ends = (".npz", "_query.png", "_key.png", ".json")
    named = [f"_class_contribution{end}" for end in (".npz", ".png", ".json")]
    names = sorted(stem + end for stem in stems for end in (*ends, *named))
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == names
    written = np.load(tmp_path / "o" / "second_class_contribution.npz")
    assert written.files == ["class_contribution"]
    expected = lens.maps(pixels, 12).of("class_contribution")
    np.testing.assert_array_equal(written["class_contribution"], expected)
    about = json.loads((tmp_path / "o" / "second_class_contribution.json").read_text())
    assert about["class_contribution_range"] == [expected.min(), expected.max()]
    assert "query_range" not in about
    assert len(about["predictions"]) == 5


def test_compare_takes_named_maps(photo_file, tmp_path):
    file = tmp_path / "c.png"
    command = ("compare", photo_file, "--out", file, *SMALL, "--seconds", 0.01, "--map")
    done = run_here(*command, "sent", "--models", "bundled@6,bundled@12")
    assert done.returncode == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    assert "layer 6" in done.stdout
    done = run_here(*command, "class_contribution", "--models", "bundled@6,bundled@12")
    assert done.returncode == 2
    assert "compare models or heads, not layers" in done.stderr
