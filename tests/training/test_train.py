"""What is refused before a run begins, and what is said when one cannot go on."""

import dataclasses
from pathlib import Path

import pytest
import torch

from sima_core.training.data import TrainingData
from sima_core.training.learner import Learner
from sima_core.training.recipe import TrainingError
from sima_core.training.train import require_startable, train
from tests.training.support import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_device_that_is_not_there_is_refused(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="no GPU here"):
        require_startable(SMALL, tmp_path / "run", None, False, "cuda")
    require_startable(SMALL, tmp_path / "run", None, False, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    require_startable(SMALL, tmp_path / "run", None, False, "cuda")


def test_a_file_is_no_folder_to_train_in(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(TrainingError, match="run is a file: name a folder"):
        require_startable(SMALL, tmp_path / "run", None, False, "cpu")
    require_startable(SMALL, tmp_path, None, False, "cpu")  # a folder that is there will do


def test_too_few_pictures_are_refused(data: TrainingData, tmp_path: Path) -> None:
    held = len(data.training) // 2 * 2
    too_large = dataclasses.replace(SMALL, batch_size=held + 2)
    with pytest.raises(TrainingError, match=f"fewer than one batch of {held + 2}"):
        train(data, too_large, tmp_path / "run", compiled=False)
    assert not (tmp_path / "run").exists()


def test_too_little_memory_of_the_gpu_is_said(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(learner: Learner, *batch: torch.Tensor) -> tuple[float, float]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Learner, "learn", full)
    with pytest.raises(TrainingError, match="smaller batches"):
        train(data, SMALL, tmp_path / "run", compiled=False)


def test_a_folder_that_cannot_be_written_is_said(data: TrainingData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be read or written .*Not a directory"):
        train(data, SMALL, tmp_path / "file" / "run", compiled=False)
