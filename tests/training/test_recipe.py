"""The recipe: named without anything heavy, and kept in the form that older runs were kept in."""

import dataclasses
import json
import subprocess
import sys

import pytest

from sima_core.errors import SimaLensError
from sima_core.training.recipe import PHASES, Settings, TrainingError, resolutions_from
from tests.support import ROOT
from tests.training.support import SMALL


def test_naming_a_recipe_takes_neither_torch_nor_timm() -> None:
    code = (
        "import sys, sima_core.training.recipe; print(*({'torch', 'timm', 'cv2'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.split() == []


def test_settings_are_kept_in_the_form_that_runs_on_disk_have() -> None:
    found = SMALL.as_dict()
    assert found == json.loads(json.dumps(found))
    assert found == {
        "model": "sima_nano_12_p16",
        "seed": 0,
        "epochs": 1.5,
        "batch_size": 8,
        "optimizer": "muon",
        "learning_rate": 0.002,
        "weight_decay": 0.05,
        "warmup": 0.05,
        "label_smoothing": 0.1,
        "mixup_alpha": 0.2,
        "cutmix_alpha": 1.0,
        "mix_probability": 0.5,
        "color_jitter": 0.3,
        "coarser_probability": 0.5,
        "compressed_probability": 0.0,
        "sharpest_side": 256,
        "drop_path": 0.0,
        "ema_decay": 0.996,
        "phases": [
            {"until": 0.5, "resolutions": [32], "smallest_crop": 0.2},
            {"until": 1.0, "resolutions": [32, 64], "smallest_crop": 0.2},
        ],
        "initial_weights": None,
    }


def test_what_cannot_be_trained_with_is_said_to_people() -> None:
    for wrong, says in (
        ({"model": "none"}, "no architecture 'none'"),
        ({"optimizer": "none"}, "no optimiser 'none'"),
        ({"learning_rate": 0.0}, "learning rate must be more than 0"),
    ):
        with pytest.raises(TrainingError, match=says) as error:
            dataclasses.replace(SMALL, **wrong)
        assert isinstance(error.value, SimaLensError)


def test_phases_follow_one_another() -> None:
    settings = Settings("sima_nano_12_p16")
    assert [settings.phase(progress) for progress in (0.0, 0.64, 0.65, 0.9, 1.0)] == [
        PHASES[0], PHASES[0], PHASES[1], PHASES[2], PHASES[2],
    ]  # fmt: skip
    assert settings.resolutions() == (96, 112, 128, 160, 192, 224, 288)
    steps = {settings.resolution(step, 100) for step in range(65)}
    assert steps == {96, 112}


def test_sizes_are_read_from_a_text() -> None:
    assert resolutions_from("96") == (96,)
    assert resolutions_from("96,128") == (96, 128)
    for text, says in (
        ("100", "multiples of 32"),
        ("0", "from 32 to"),
        ("a,96", "is no whole number"),
    ):
        with pytest.raises(SimaLensError, match=says):
            resolutions_from(text)
