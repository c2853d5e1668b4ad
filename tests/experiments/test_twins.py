"""Twins: trained once, alike, and compared."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from sima_core.coco.split import CocoSplit
from sima_core.experiments.twins import compare_twins, twins_table
from sima_core.training.data import TrainingData
from sima_core.training.recipe import TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_twins_are_trained_once_and_tabled(
    data: TrainingData, tmp_path: Path, coco_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sima_core.experiments.twins.TIMED_RESOLUTIONS", (32,))
    monkeypatch.setattr("sima_core.experiments.twins.BATCH_SIZE", 8)
    monkeypatch.setattr("sima_core.training.learner.compile_blocks", lambda model: None)
    split = CocoSplit(coco_root, "val2017")
    models = ["deit_nano_patch16_224", "sima_deit_nano_patch16_224_1h"]
    twins = compare_twins(data, tmp_path / "twins", split, models, [3], 1.0, 32)
    assert [twin.model for twin in twins] == models
    assert all(0 <= twin.top1[0] <= 1 and 0 <= twin.auc["query"] <= 1 for twin in twins)
    assert all(twin.forward_seconds[32] > 0 for twin in twins)
    table = twins_table(twins)
    assert all(f"| `{model}` |" in table for model in models)
    result = tmp_path / "twins" / f"{models[0]}-3" / "result.json"
    kept = result.read_text()
    compare_twins(data, tmp_path / "twins", split, models, [3], 1.0, 32)
    assert result.read_text() == kept  # its seconds would differ had it been trained again
    with pytest.raises(TrainingError, match="other options"):
        compare_twins(data, tmp_path / "twins", split, models, [3], 2.0, 32)


def test_a_full_disk_is_said(
    data: TrainingData, tmp_path: Path, coco_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sima_core.experiments.twins._run", full)
    split = CocoSplit(coco_root, "val2017")
    with pytest.raises(TrainingError, match=r"twins cannot be written \(.*[nN]o space"):
        compare_twins(data, tmp_path / "twins", split, ["deit_nano_patch16_224"], [3])


def test_twins_without_objects_to_score_on_train_nothing(
    data: TrainingData, tmp_path: Path, coco_root: Path
) -> None:
    listed = tmp_path / "annotations" / "instances_val2017.json"
    listed.parent.mkdir()
    shutil.copy(coco_root / "annotations" / listed.name, listed)  # and no picture
    with pytest.raises(TrainingError, match="no picture of val2017 with objects"):
        compare_twins(data, tmp_path / "twins", CocoSplit(tmp_path, "val2017"))
    assert not (tmp_path / "twins").exists()
