"""The commands on pictures, run as a user runs them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sima_core import load_image, load_model, token_norms
from sima_core.cli.pictures import unique_stems
from sima_core.lens.export import output_names
from sima_core.lens.pictures import preprocess
from sima_core.weights.provenance import provenance
from tests.cli.support import run, run_here
from tests.support import ROOT


def test_heatmap_writes_four_files_for_each_image(photo, tmp_path):
    first, second = tmp_path / "a" / "cat.png", tmp_path / "b" / "cat.jpg"
    for path in (first, second):
        path.parent.mkdir()
        photo.save(path)
    bad = tmp_path / "bad.png"
    bad.write_text("text")
    out = tmp_path / "out"
    done = run("heatmap", first, bad, second, "--out", out, "--resolution", 64, "--layer", -1)

    assert done.returncode == 1
    assert "bad.png: This is not a picture" in done.stderr
    assert "maps of 2 of 3 image(s)" in done.stdout
    names = [
        f"{s}{e}" for s in ("cat", "cat-2") for e in (".npz", "_query.png", "_key.png", ".json")
    ]
    assert sorted(p.name for p in out.iterdir()) == sorted(names)

    model = load_model()
    expected = token_norms(model, preprocess(load_image(first), 64))
    written = np.load(out / "cat.npz")
    assert written["query_norm"].dtype == np.float32
    np.testing.assert_array_equal(written["query_norm"], expected.query[0].numpy())
    np.testing.assert_array_equal(written["key_norm"], expected.key[0].numpy())
    assert Image.open(out / "cat_key.png").size == photo.size

    about = json.loads((out / "cat-2.json").read_text())
    assert about["image"] == "cat.jpg"
    assert about["architecture"] == "sima_nano_12_p16"
    assert about["checkpoint_sha256"] == provenance(model).sha256
    assert (about["layer"], about["resolution"], about["grid"]) == (12, 64, [4, 6])
    assert len(about["predictions"]) == 5
    assert about["versions"]["torch"]
    low, high = json.loads((out / "cat.json").read_text())["query_range"]
    assert (low, high) == (written["query_norm"].min(), written["query_norm"].max())
    assert str(tmp_path) not in json.dumps(about)


def test_untrained_weights_are_said_to_be(photo_file, tmp_path):
    done = run_here(
        "heatmap", photo_file, "--out", tmp_path / "o", "--checkpoint", "sima_tiny_12_p16"
    )
    assert done.returncode == 0
    assert "untrained" in done.stderr
    about = json.loads((tmp_path / "o" / "photo.json").read_text())
    assert (about["trained"], about["checkpoint_sha256"]) == (False, None)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["heatmap"],
        ["nonsense"],
        ["heatmap", "x.png", "--out", "o", "--layer", "twelve"],
        ["heatmap", "x.png", "--out", "o", "--layer", "13"],
        ["heatmap", "x.png", "--out", "o", "--resolution", "8"],
        ["heatmap", "x.png", "--out", "LICENSE"],
        ["heatmap", "x.png", "--out", "o", "--checkpoint", "gone.pth"],
        ["heatmap", "x.png", "--out", "o", "--checkpoint", "sima_nano"],
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments):
    done = run_here(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_models_lists_every_architecture():
    done = run("models")
    assert done.returncode == 0
    assert "sima_large_24_p8" in done.stdout
    assert "GMACs" in done.stdout.splitlines()[0]
    assert done.stdout in (ROOT / "docs" / "models.md").read_text("utf-8")


def test_outputs_never_meet_each_other_or_an_input(tmp_path):
    def stems(*names: str) -> list[str]:
        return list(unique_stems([tmp_path / n for n in names], tmp_path))

    assert stems("x/a.png", "y/a.jpg", "z/A.png") == ["a", "a-2", "A-3"]
    assert stems("a.png", "a-2.png", "b/a.png") == ["a", "a-2", "a-3"]
    assert stems("cat.png", "cat_query.png")[0] == "cat-2"  # else it would overwrite the second
    many = stems(*(f"{folder}/no.png" for folder in range(500)))
    assert many == ["no", *(f"no-{number}" for number in range(2, 501))]


@pytest.mark.parametrize("letter", ["n", "é", "\U0001f600", "\udcff"])
def test_stems_are_cut_so_that_a_disk_takes_the_names_of_results(tmp_path, letter):
    name = Path(letter * 251 + ".png")
    found = list(unique_stems([tmp_path / "a" / name, tmp_path / "b" / name], tmp_path))
    assert len(set(found)) == 2
    assert found[1].endswith("-2")
    for result in (result for stem in found for result in output_names(stem)):
        assert result.startswith(letter)
        (tmp_path / result).write_bytes(b"")  # the disk takes it
