"""The paper's claim in small: the same network with different attention, trained alike, compared.

Every model gets the same pictures, recipe, number of passes and seeds; within a family they differ
in their attention, and in the LayerScale that SimA's DeiT needs. The paper finds SimA on par with
softmax and XCA, and a single head nearly as good.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sima_core.bench.whole_models import time_models
from sima_core.coco.split import CocoSplit, Filter
from sima_core.defaults import LAYER
from sima_core.errors import SimaLensError
from sima_core.files import reason, write_text
from sima_core.lens.layers import SIDES
from sima_core.scoring.evaluation import evaluate
from sima_core.scoring.summary import Summary
from sima_core.training.data import TrainingData
from sima_core.training.recipe import LossNotFiniteError, Phase, Settings, TrainingError
from sima_core.training.train import train
from sima_core.weights.loading import load_model

#: The models compared by default: XCiT with XCA and SimA; DeiT with softmax, SimA, SimA with a
#: single head, and SimA without its ℓ1-normalisation.
TWINS = (
    "xcit_nano_12_p16_224",
    "sima_nano_12_p16",
    "deit_nano_patch16_224",
    "sima_deit_nano_patch16_224",
    "sima_deit_nano_patch16_224_1h",
    "plain_deit_nano_patch16_224",
)
#: Input sides in pixels at which the forward pass is timed.
TIMED_RESOLUTIONS = (224, 448)
#: Small batches, since short runs need many steps.
BATCH_SIZE = 64

_RESULT = "result.json"


@dataclass(frozen=True)
class Twin:
    """One model over its seeds. A run that failed has no figures but a reason."""

    model: str
    #: Held-out top-1 of each seed that finished, from 0 to 1.
    top1: tuple[float, ...]
    #: Seconds of training of each seed that finished.
    training_seconds: tuple[float, ...]
    #: Pixel ROC AUC and pointing game on COCO of layer 12, mean over the seeds, by side.
    auc: dict[str, float]
    pointing_game: dict[str, float]
    #: Median seconds of a forward pass, one picture, by input side in pixels.
    forward_seconds: dict[int, float]
    #: Why runs did not finish.
    failures: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def compare_twins(
    data: TrainingData,
    out: Path,
    split: CocoSplit,
    models: Sequence[str] = TWINS,
    seeds: Sequence[int] = (0, 1),
    epochs: float = 5.0,
    resolution: int = 96,
) -> list[Twin]:
    """Train every model with every seed, then measure all. What is done already is kept in `out`.

    Args:
        split: pictures of COCO to score the heatmaps of layer 12 on, at 224 px.
        resolution: input side of training and of the accuracy, in pixels.

    Raises:
        TrainingError: `out` holds other runs, or cannot be written; or COCO has no picture to
            score on.
    """
    if not split.select(Filter(num_objects=(1, math.inf))):  # before hours of training
        raise TrainingError(
            f"There is no picture of {split.split} with objects to score the maps on: fetch some "
            "with coco download."
        )
    phases = (Phase(1.0, (resolution,)),)
    runs: dict[str, list[dict[str, Any]]] = {model: [] for model in models}
    # Seed by seed, so that each model's runs are spread over the time.
    pairs = [(model, seed) for seed in seeds for model in models]
    for model, seed in tqdm(pairs, desc="runs", leave=False):
        settings = Settings(
            model,
            seed,
            epochs,
            BATCH_SIZE,
            mix_probability=0.0,  # short runs learn from whole pictures first
            phases=phases,
        )
        try:
            runs[model].append(_run(data, settings, out / f"{model}-{seed}", split))
        except OSError as error:
            raise TrainingError(f"{out.name} cannot be written ({reason(error)}).") from None
    forward_seconds = _forward_seconds(models)
    return [_twin(model, runs[model], forward_seconds[model]) for model in models]


def _run(data: TrainingData, settings: Settings, folder: Path, split: CocoSplit) -> dict[str, Any]:
    """One run's figures, from its folder if they are there."""
    found: dict[str, Any] = {
        "settings": settings.as_dict(),
        "data": data.fingerprint(),
        "coco": [split.split, len(split.ids)],
    }
    with suppress(OSError, ValueError):  # not done yet, or cut off
        done: dict[str, Any] = json.loads((folder / _RESULT).read_text("utf-8"))
        if found.items() <= done.items():
            return done
        raise TrainingError(
            f"{folder.name} holds a run with other options or pictures: name another folder."
        )
    try:
        [side] = settings.resolutions()
        trained = train(data, settings, folder, resume=True, measured_at=[side])
    except LossNotFiniteError as error:
        found["failure"] = f"seed {settings.seed}: {error}"
    else:
        assert trained is not None
        model = load_model(trained.weights)
        try:
            summary = Summary.of(list(evaluate(split, model)), [LAYER]).main_maps()
        except SimaLensError as error:  # all objects too small, say
            raise TrainingError(str(error)) from None
        found |= {
            "top1": trained.accuracy[side].top1,
            "seconds": trained.seconds,
            "auc": {s: summary[s]["auc"].mean for s in SIDES},
            "pointing_game": {s: summary[s]["pointing_game"].mean for s in SIDES},
        }
    write_text(folder / _RESULT, json.dumps(found, indent=1) + "\n")
    return found


def _forward_seconds(models: Sequence[str]) -> dict[str, dict[int, float]]:
    """Median forward times side by side, with 1000 classes each; training makes no difference."""
    built = [load_model(model) for model in models]
    seconds: dict[str, dict[int, float]] = {model: {} for model in models}
    for side in TIMED_RESOLUTIONS:
        pixels = [torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))]
        times = time_models(built, pixels * len(built), 3.0 * len(built))
        for model, timed in zip(models, times, strict=True):
            seconds[model][side] = float(timed.forward.median)
    return seconds


def _twin(model: str, runs: list[dict[str, Any]], forward_seconds: dict[int, float]) -> Twin:
    done = [run for run in runs if "failure" not in run]

    def mean(key: str, side: str) -> float:
        return statistics.fmean(run[key][side] for run in done)

    return Twin(
        model,
        tuple(run["top1"] for run in done),
        tuple(run["seconds"] for run in done),
        {side: mean("auc", side) for side in SIDES} if done else {},
        {side: mean("pointing_game", side) for side in SIDES} if done else {},
        forward_seconds,
        tuple(run["failure"] for run in runs if "failure" in run),
    )


def twins_table(twins: Sequence[Twin]) -> str:
    """Markdown, a row a model: top-1 (mean and spread over seeds), times, and localisation."""
    sides = [f"forward at {side} px" for side in TIMED_RESOLUTIONS]
    columns = ["model", "top-1", "training", *sides, "AUC Q, K", "pointing game Q, K"]
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for twin in twins:
        times = [f"{1e3 * twin.forward_seconds[side]:.1f} ms" for side in TIMED_RESOLUTIONS]
        if twin.top1:
            spread = f" ({min(twin.top1):.1%} to {max(twin.top1):.1%})"
            if twin.failures:
                spread += f", {len(twin.failures)} of {len(twin.top1) + len(twin.failures)} failed"
            row = [
                f"{statistics.fmean(twin.top1):.1%}{spread}",
                f"{statistics.fmean(twin.training_seconds):.0f} s",
                *times,
                ", ".join(f"{twin.auc[side]:.3f}" for side in SIDES),
                ", ".join(f"{twin.pointing_game[side]:.2f}" for side in SIDES),
            ]
        else:
            row = ["did not train: the loss was not finite", "–", *times, "–", "–"]
        lines.append(f"| `{twin.model}` | {' | '.join(row)} |")
    return "\n".join(lines)
