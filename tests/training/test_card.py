"""What a finished run leaves."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sima_core import load_model, provenance
from sima_core.training.accuracy import held_out_accuracy
from sima_core.training.data import TrainingData
from sima_core.training.train import train
from tests.training.support import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_leaves_weights_with_a_card_that_load_again(
    data: TrainingData, tmp_path: Path
) -> None:
    trained = train(data, SMALL, tmp_path / "run", compiled=False)
    assert trained is not None
    assert {f.name for f in (tmp_path / "run").iterdir()} >= {
        "sima_nano_12_p16.safetensors", "labels.json", "CARD.md", "log.jsonl", "log.png",
    }  # fmt: skip
    model = load_model(trained.weights)
    origin = provenance(model)
    assert (origin.architecture, origin.labels) == ("sima_nano_12_p16", data.class_names)
    assert origin.class_ids == data.class_ids
    (tmp_path / "alone").mkdir()  # as when only the weights are uploaded
    alone = shutil.copy(trained.weights, tmp_path / "alone")
    assert provenance(load_model(alone)).class_ids == data.class_ids
    with safe_open(trained.weights, "pt") as file:
        metadata = file.metadata()
        assert file.get_tensor("head.weight").dtype is torch.float16
    assert metadata["architecture"] == "sima_nano_12_p16"
    assert json.loads(metadata["accuracy"])["224"]["images"] == 8
    assert metadata["code_version"]
    # The figures are those of the file, rounded to halves as it is.
    assert held_out_accuracy(model, data.held_out, 224) == trained.accuracy[224]
    card = trained.card.read_text("utf-8")
    assert "held-out at 224 px" in card
    assert "muon" in card
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert lines[-1]["step"] == 6
    assert {"loss", "accuracy", "images_per_second"} <= lines[-1].keys()
