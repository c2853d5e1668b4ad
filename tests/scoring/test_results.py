"""What the maps are called, and which runs a journal belongs to."""

import copy

import pytest
import torch

from sima_core import Lens, load_model
from sima_core.coco.split import CocoSplit
from sima_core.scoring.evaluation import evaluate
from sima_core.scoring.journal import journal_file
from sima_core.scoring.results import BASELINES, ModelMap, parse_map


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (ModelMap("query", 12), "query/12"),
        (ModelMap("key", 3, trained=False), "untrained_key/3"),
        *((name, name) for name in BASELINES),
    ],
)
def test_a_map_and_its_name(key, text):
    assert str(key) == text
    assert parse_map(text) == key


@pytest.mark.parametrize("text", ["", "value/3", "query", "untrained_centre/1", "query/x"])
def test_other_names_are_of_no_map(text):
    with pytest.raises(ValueError):  # noqa: PT011  # any: who reads a journal throws the line away
        parse_map(text)


def test_a_journal_is_of_these_very_weights(coco_root, model):
    split = CocoSplit(coco_root, "val2017")

    def file(of: torch.nn.Module):
        return journal_file(split, Lens(of), {12: ("query", "key")}, 96, False)

    changed = copy.deepcopy(model)
    assert file(changed) == file(model)
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    assert file(changed) != file(model)  # though their provenance is the same


def test_a_model_of_unknown_origin_is_scored(coco_root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = load_model("sima_nano_12_p16")
    del model.provenance
    split = CocoSplit(coco_root, "val2017")
    [result] = evaluate(split, model, (12,), 32, limit=1)
    [same] = evaluate(split, Lens(model), (12,), 32, limit=1)
    assert result.skipped is None
    assert {ModelMap("query", 12), ModelMap("key", 12, trained=False)} < set(result.scores)
    assert same.scores == result.scores
