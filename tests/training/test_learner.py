"""What learns: its optimiser, and the weights that it starts from."""

import dataclasses
from pathlib import Path

import pytest
import torch

from sima_core import load_model
from sima_core.training.data import TrainingData
from sima_core.training.recipe import TrainingError
from sima_core.training.train import train
from tests.training.support import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


def test_training_starts_from_given_weights_class_by_class(
    data: TrainingData, tmp_path: Path
) -> None:
    first = train(data, SMALL, tmp_path / "first", compiled=False)
    assert first is not None
    still = dataclasses.replace(SMALL, optimizer="sgd", learning_rate=1e-12, weight_decay=0.0)
    swapped = dataclasses.replace(
        data, class_ids=data.class_ids[::-1], class_names=data.class_names[::-1]
    )
    second = train(swapped, still, tmp_path / "second", initial=first.weights, compiled=False)
    assert second is not None
    before, after = (load_model(t.weights).state_dict() for t in (first, second))
    torch.testing.assert_close(after["head.bias"], before["head.bias"].flip(0), rtol=0, atol=1e-3)
    other = dataclasses.replace(SMALL, model="sima_deit_nano_patch16_224")
    wider = dataclasses.replace(SMALL, model="sima_tiny_12_p16")
    for unlike in (other, wider):
        with pytest.raises(TrainingError, match="does not fit"):
            train(data, unlike, tmp_path / "third", initial=first.weights, compiled=False)


@pytest.mark.parametrize("optimizer", ["fusedadam", "adahessian"])
def test_optimisers_that_cannot_be_used_are_refused(
    data: TrainingData, tmp_path: Path, optimizer: str
) -> None:
    other = dataclasses.replace(SMALL, optimizer=optimizer)
    with pytest.raises(TrainingError, match="cannot be used here"):
        train(data, other, tmp_path / "run", compiled=False)
