"""Scoring a whole split, as the command does it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from sima_core import Lens, analyze, load_model, preprocess
from sima_core.cli import main
from sima_core.coco.split import CocoSplit
from sima_core.errors import InputError
from sima_core.files import ASSETS, cache_folder
from sima_core.lens.heatmaps import heatmap
from sima_core.lens.maps import MAPS as NAMED
from sima_core.scoring.evaluation import evaluate, faithfulness, maps_by_layer
from sima_core.scoring.journal import Journal
from sima_core.scoring.metrics import METRICS, Target
from sima_core.scoring.results import SKIPPED, ModelMap, PictureResult
from sima_core.scoring.sanity import sanity
from sima_core.scoring.summary import Summary
from sima_core.weights.loading import DEFAULT_CHECKPOINT
from sima_core.weights.provenance import provenance

MAPS = {"query", "key", "centre", "random", "uniform", "untrained_query", "untrained_key"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SIMA_COCO_ROOT", raising=False)


def test_the_command_scores_a_split(coco_root, tmp_path, capsys):
    out, chart = tmp_path / "scores.json", tmp_path / "chart.png"
    command = ["evaluate", "--coco", str(coco_root), "--resolution", "96", "--layers", "1,12"]
    command += ["--limit", "12", "--json", str(out), "--plot", str(chart)]
    assert main(command) == 0
    said = capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["command"].startswith("python -m sima_core evaluate --coco ")
    assert found["checkpoint_sha256"] == provenance(load_model()).sha256
    assert found["skipped"] == {"small": 2, "large": 1, "unannotated": 1, "unreadable": 2}
    assert tuple(found["skipped"]) == SKIPPED
    assert found["images"] == 6  # 1, 2, 9, 10, 11, 12
    assert set(found["maps"]) == MAPS
    assert set(found["layers"]) == {"1", "12"}
    assert found["layers"]["12"]["key"] == found["maps"]["key"]
    assert found["layers"]["1"]["key"] != found["maps"]["key"]
    for values in found["maps"].values():
        assert set(values) == {*METRICS, *(f"{m}_ci" for m in METRICS)}
        for metric in METRICS:
            low, high = values[f"{metric}_ci"]
            assert low <= values[metric] <= high
    assert found["maps"]["uniform"]["auc"] == 0.5
    assert found["maps"]["uniform"]["energy_lift"] == 1
    assert chart.read_bytes().startswith(b"\x89PNG")
    for name in MAPS:
        assert name in said.out
    assert "untrained_key, 1 " in said.out  # by layer, where there are several
    for problem in ("Picture 6 is not on this disk", "Picture 7 cannot be read"):
        assert problem in said.err
    assert not list((tmp_path / "cache").rglob("*.jsonl"))  # a whole run leaves nothing


def test_the_command_checks_the_maps(coco_root, tmp_path, capsys, model):
    out = tmp_path / "scores.json"
    command = ["evaluate", "--coco", str(coco_root), "--resolution", "64", "--limit", "2"]
    command += ["--layers", "2,3", "--json", str(out), "--sanity"]
    assert main(command) == 0
    said = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["layer"] == 3
    assert set(found["sanity"]) == set(NAMED)
    split, lens = CocoSplit(coco_root, "val2017"), Lens(model)
    figures = [
        sanity(lens, lens.preprocess(split.load(image_id), 64), 3)["key"].figures()
        for image_id in (1, 2)
    ]
    assert set(found["sanity"]["key"]) == set(figures[0])
    for name, deciles in found["sanity"]["key"].items():
        values = [of[name] for of in figures]
        assert deciles[0] == pytest.approx(min(values), abs=1e-4)
        assert deciles[5] == pytest.approx(sum(values) / 2, abs=1e-4)
        assert deciles[10] == pytest.approx(max(values), abs=1e-4)
    assert "when not to believe a map of layer 3" in said
    assert f"{sum(of['mirror'] for of in figures) / 2:.2f} (" in said

    assert main(command[:-1]) == 0  # not asked for, not there
    assert "sanity" not in json.loads(out.read_text())


def test_all_maps_are_scored_beside_the_same_without_training(coco_root, tmp_path, capsys):
    files = {maps: tmp_path / f"{maps}.json" for maps in ("all", "query,key")}
    command = ["evaluate", "--coco", str(coco_root), "--resolution", "64", "--layers", "1,12"]
    for maps, file in files.items():
        chart = ["--plot", str(tmp_path / "chart.png")]
        assert main([*command, "--limit", "10", "--maps", maps, "--json", str(file), *chart]) == 0
    found, paper = (json.loads(file.read_text()) for file in files.values())
    assert [name for name in found["maps"] if name in NAMED] == list(NAMED)
    assert set(found["maps"]) == MAPS | set(NAMED) | {f"untrained_{name}" for name in NAMED}
    assert set(paper["maps"]) == MAPS
    for name, scores in paper["maps"].items():
        assert found["maps"][name] == scores  # whatever is scored beside it
    assert set(found["layers"]["12"]) - set(found["layers"]["1"]) == {
        "class_contribution",
        "untrained_class_contribution",
    }  # class attention comes after all layers: its map is of none of them
    assert set(found["against_centre"]) == set(NAMED)
    assert set(found["against_query"]) == set(NAMED) - {"query"}
    sent, query = found["maps"]["sent"]["auc"], found["maps"]["query"]["auc"]
    assert found["against_query"]["sent"]["auc"] == pytest.approx(sent - query, abs=2e-6)
    assert "untrained_value_weighted" in capsys.readouterr().out


def test_a_named_map_is_scored_as_the_lens_draws_it(coco_root, model):
    split = CocoSplit(coco_root, "val2017")
    [result] = evaluate(split, model, (12,), 64, limit=1, maps=["sent", "class_contribution"])
    image, lens = split.load(1), Lens(model)
    maps = lens.maps(lens.preprocess(image, 64), 12)
    for name in ("sent", "class_contribution"):
        expected = Target(split.mask(1)).score(heatmap(maps.of(name)).resize(image.size))
        assert result.scores[ModelMap(name, 12)] == expected


def test_other_maps_do_not_continue_an_interrupted_run(coco_root, model):
    split = CocoSplit(coco_root, "val2017")
    paper = evaluate(split, model, (12,), 64, limit=2)
    next(paper)
    paper.close()
    first = next(iter(evaluate(split, model, (12,), 64, limit=2, maps="all")))
    assert {of.name for of in first.scores if isinstance(of, ModelMap)} == set(NAMED)


def test_layers_have_the_maps_that_their_attention_has():
    """XCA has no weights of tokens; in DeiT the class token is among those of every layer."""
    xcit, deit = (Lens.load(name) for name in ("xcit_nano_12_p16_224", "deit_tiny_patch16_224"))
    norms = ("query", "key", "query_key")
    assert maps_by_layer(xcit, [1, 12], "all") == {1: norms, 12: (*norms, "class_contribution")}
    assert maps_by_layer(deit, [1, 12], "all") == {1: tuple(NAMED), 12: tuple(NAMED)}
    with pytest.raises(InputError, match=r"has no map sent: choose one of query, key, query_key"):
        maps_by_layer(xcit, [12], ["query", "sent"])


def test_a_root_with_few_pictures_does_not_name_all_others(coco_root, tmp_path, capsys):
    root = tmp_path / "few"
    shutil.copytree(coco_root / "annotations", root / "annotations")
    (root / "val2017").mkdir()
    shutil.copy(coco_root / "val2017" / f"{1:012d}.jpg", root / "val2017")
    assert main(["evaluate", "--coco", str(root), "--resolution", "96"]) == 0
    said = capsys.readouterr()
    assert said.err.count("is not on this disk") == 10
    assert "… and 28 more pictures cannot be read" in said.err
    assert "1 pictures of val2017" in said.out
    assert "38 unreadable" in said.out  # all but the one, and picture 3, which is not annotated


def test_means_are_means_of_single_pictures(coco_root, model):
    split = CocoSplit(coco_root, "val2017")
    results = list(evaluate(split, model, (12,), 96, limit=10))
    summary = Summary.of(results, (12,))
    single = []
    for image_id in (1, 2, 9, 10):
        image = split.load(image_id)
        a = analyze(model, image, 96, [12]).heatmap("query").resize(image.size)
        single.append(Target(split.mask(image_id)).score(a))
    for metric in METRICS:
        mean = sum(getattr(s, metric) for s in single) / 4
        assert summary.main_maps()["query"][metric].mean == pytest.approx(mean, abs=1e-6)
    centre = summary.estimates["centre"]["auc"].mean
    assert summary.against_centre["query"]["auc"].mean == pytest.approx(
        summary.main_maps()["query"]["auc"].mean - centre
    )


def test_an_interrupted_run_goes_on_where_it_was(coco_root, model):
    split = CocoSplit(coco_root, "val2017")
    whole = list(evaluate(split, model, (12,), 96, limit=10))
    interrupted = evaluate(split, model, (12,), 96, limit=10)
    for _ in range(5):
        next(interrupted)
    interrupted.close()
    [journal] = _journals()
    journal.write_text(journal.read_text()[:-30])  # killed while it wrote
    read = []
    load = CocoSplit.load
    try:
        CocoSplit.load = lambda self, image_id: read.append(image_id) or load(self, image_id)
        resumed = list(evaluate(split, model, (12,), 96, limit=10))
    finally:
        CocoSplit.load = load
    assert 1 not in read
    assert 10 in read
    assert [(r.id, r.skipped, r.scores) for r in resumed] == [
        (r.id, r.skipped, r.scores) for r in whole
    ]
    assert not _journals()


def test_checks_are_taken_from_an_interrupted_run(coco_root, model, one_thread):
    split = CocoSplit(coco_root, "val2017")
    whole = list(evaluate(split, model, (2,), 64, limit=2, sane=True))
    assert whole[0].sanity["query"]["mirror"] < 1
    interrupted = evaluate(split, model, (2,), 64, limit=2, sane=True)
    first = next(interrupted)
    interrupted.close()
    [without] = evaluate(split, model, (2,), 64, limit=1)  # another run, which has none
    assert without.sanity == {}
    resumed = list(evaluate(split, model, (2,), 64, limit=2, sane=True))
    assert [result.sanity for result in resumed] == [result.sanity for result in whole]
    assert resumed[0].forward_seconds == first.forward_seconds  # written by the interrupted one


def test_a_look_at_a_few_keeps_what_a_longer_run_has_done(coco_root, model):
    split = CocoSplit(coco_root, "val2017")
    interrupted = evaluate(split, model, (12,), 96, limit=10)
    for _ in range(5):
        next(interrupted)
    interrupted.close()
    list(evaluate(split, model, (12,), 96, limit=1))
    assert _journals()


def test_a_journal_that_another_run_wrote_anew_gives_no_other_pictures_result(coco_root, model):
    split = CocoSplit(coco_root, "val2017")
    straight = [(r.id, r.skipped) for r in evaluate(split, model, limit=8)]
    some = evaluate(split, model, limit=8)
    for _ in range(7):
        next(some)
    [journal] = _journals()
    resumed = evaluate(split, model, limit=8)
    found = [next(resumed)]
    journal.write_text(journal.read_text().replace('"id": 2,', '"id": 8,'))
    assert [(r.id, r.skipped) for r in (*found, *resumed)] == straight


def test_unreadable_pictures_are_tried_again_by_the_next_run(coco_root, tmp_path, model):
    """They may be mended before it, so they are not written down."""
    root = Path(shutil.copytree(coco_root, tmp_path / "copy"))
    missing = root / "val2017" / f"{6:012d}.jpg"
    split = CocoSplit(root, "val2017")
    first = evaluate(split, model, (12,), 96, limit=8)
    assert [next(first).skipped for _ in range(7)][5:] == ["unreadable", "unreadable"]
    first.close()
    assert _journals()
    shutil.copy(split.path(5), missing)
    found = {r.id: r.skipped for r in evaluate(split, model, (12,), 96, limit=8)}
    assert found[6] is None
    assert found[7] == "unreadable"


@pytest.mark.parametrize(
    "damaged",
    [
        "null", "[]", "{}", "[" * 99_999, '{"id": null}', "\0" * 5000, "x" * 2**21,
        '{"id": 1, "scores": {"query/12": [null, 1, 1, 1, 1]}}',
        '{"id": 1, "scores": {"query/12": ["x", 1, 1, 1, 1]}}',
        '{"id": 1, "scores": {}, "skipped": "other"}',
        '{"id": 1, "scores": {}, "skipped": []}',
        '{"id": 1, "scores": {}, "forward_seconds": null}',
        '{"id": 1, "scores": {}, "faithfulness": {"key": {"insertion": null}}}',
        '{"id": 1, "scores": {}, "faithfulness": [3]}',
        '{"id": "1", "scores": {}}',
    ],
)  # fmt: skip
def test_damaged_lines_of_a_journal_are_not_believed(tmp_path, damaged):
    file = tmp_path / "some.jsonl"
    good = PictureResult(2, "small")
    Journal(file, resume=True).add(good)
    file.write_text(damaged + "\n" + file.read_text() + "\n" + damaged)
    journal = Journal(file, resume=True)
    assert journal.found.keys() == {2}
    assert journal.get(2) == good


def test_a_journal_needs_no_place(tmp_path):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "file" / "some.jsonl", tmp_path / "pipe"):
        journal = Journal(file, resume=True)
        assert not journal.found
    Journal(tmp_path / "file" / "some.jsonl", resume=False).add(PictureResult(2, "small"))


def _journals() -> list[Path]:
    return list((cache_folder() / "evaluations").glob("*.jsonl"))


def test_other_settings_do_not_continue_an_interrupted_run(coco_root, model):
    split = CocoSplit(coco_root, "val2017")
    at_96 = evaluate(split, model, (12,), 96, limit=2)
    next(at_96)
    at_96.close()
    first = next(iter(evaluate(split, model, (12,), 112, limit=2)))
    again = next(iter(evaluate(split, model, (12,), 112, limit=2, resume=False)))
    assert first.scores == again.scores


def test_faithfulness_stands_beside_random_order(coco_root, tmp_path, capsys):
    out = tmp_path / "scores.json"
    command = ["evaluate", "--coco", str(coco_root), "--resolution", "96", "--limit", "2"]
    assert main([*command, "--faithfulness", "--json", str(out)]) == 0
    found = json.loads(out.read_text())["faithfulness"]
    assert set(found) == {"query", "key", "centre", "random"}
    for curves in found.values():
        assert {"insertion_blurred", "insertion_zero", "deletion_blurred", "deletion_zero"} < set(
            curves
        )
        assert all(0 <= v <= 1 for k, v in curves.items() if not k.endswith("_ci"))
    assert "insertion, blurred" in capsys.readouterr().out


def test_faithfulness_of_a_model_whose_keys_have_their_own_grid(model, photo):
    twin = load_model("sima_cvt_13")
    seen = analyze(twin, photo, 80, [13])
    orders = {"key": seen.token_norms("key", 13)}
    found = faithfulness(twin, preprocess(photo, 80), orders, seen.grid, 1)
    assert set(found) == {"key", "centre", "random"}
    assert len(found["key"]["insertion_zero"].shares) >= 10


def test_random_weights_are_the_same_each_time(model):
    torch.manual_seed(5)
    one, other = Lens(model).untrained().model, Lens(model).untrained().model
    assert not provenance(one).trained
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is no COCO here yet"),
        (["--coco", "{root}", "--layers", "13"], "layers run from 1 to 12"),
        (["--coco", "{root}", "--layers", "twelve"], "--layers takes"),
        (["--coco", "{root}", "--maps", "norms"], "a map is one of query, key, query_key"),
        (["--coco", "{root}", "--maps", ""], "a map is one of query, key, query_key"),
        (["--coco", "{root}", "--limit", "0"], "--limit: expected a whole number from 1"),
        (["--coco", "{root}", "--json", "/nowhere/at/all.json"], "cannot be written"),
        (["--coco", "{root}", "--plot", "chart.pdf"], "--plot must name a .png"),
        (["--coco", "{root}", "--json", "x" * 300], "cannot be written"),
        (["--coco", "{root}", "--split", "train2017"], "no list of train2017"),
        (["--coco", "{empty}"], "no COCO root"),
        (["--coco", "{nothing}"], "no picture could be scored: 40"),
    ],
)
def test_bad_usage_is_one_line(coco_root, tmp_path, capsys, arguments, message):
    nothing = tmp_path / "nothing"
    shutil.copytree(coco_root / "annotations", nothing / "annotations")
    listed = json.loads((nothing / "annotations" / "instances_val2017.json").read_text())
    listed["annotations"] = []
    (nothing / "annotations" / "instances_val2017.json").write_text(json.dumps(listed))
    places = {"root": coco_root, "empty": tmp_path, "nothing": nothing}
    assert main(["evaluate", *(a.format(**places) for a in arguments)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said


def test_the_evidence_in_the_app_is_of_the_bundled_weights():
    sha256 = provenance(load_model(DEFAULT_CHECKPOINT)).sha256
    for split, images in (("val2017", 94), ("train2017", 37)):
        found = json.loads((ASSETS / f"evidence_{split}.json").read_text("utf-8"))
        assert found["checkpoint_sha256"] == sha256
        assert found["split"] == split
        assert found["images"] == images
        assert set(found["layers"]) == {str(n) for n in range(1, 13)}
        assert set(NAMED) < set(found["maps"])
        assert "--maps all" in found["command"]
        assert "--limit" not in found["command"]
        assert "../" not in found["command"]


@pytest.mark.parametrize(
    ("folder", "name"), [("", ""), ("twins", "deit_nano_patch16_224.safetensors")]
)
def test_the_yardstick_of_the_checks_is_of_the_weights_here(folder, name):
    weights = ASSETS / folder / name if name else DEFAULT_CHECKPOINT
    found = json.loads((ASSETS / folder / "sanity_val2017.json").read_text("utf-8"))
    assert found["checkpoint_sha256"] == provenance(load_model(weights)).sha256
    assert (found["images"], found["layer"], found["resolution"]) == (94, 12, 224)
    assert set(found["sanity"]) == set(NAMED)
    assert "--limit" not in found["command"]
