"""What a finished run leaves: weights with their labels, a card with the figures, and a plot."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from tqdm import tqdm

from sima_core import __version__
from sima_core.figures import new_figure, save_png
from sima_core.files import write_bytes, write_text
from sima_core.machine import versions
from sima_core.models.architectures import num_parameters
from sima_core.training.accuracy import Accuracy, held_out_accuracy
from sima_core.training.recipe import Settings, TrainingError
from sima_core.training.run import Run, duration


@dataclass(frozen=True)
class Trained:
    """What a run has made."""

    weights: Path
    card: Path
    settings: Settings
    #: Held-out accuracy by resolution.
    accuracy: Mapping[int, Accuracy]
    #: Seconds spent in training steps, over all pieces of the run.
    seconds: float


def write_results(run: Run, measured_at: Sequence[int]) -> Trained:
    """Measure a finished run's averaged weights; write weights, labels, card and plot.

    Args:
        measured_at: resolutions in pixels.

    Raises:
        TrainingError: the weights do not fit into half precision.
        OSError: a file cannot be written.
    """
    out = run.folder.path
    model = copy.deepcopy(run.learner.averaged).half().float().eval()  # what the file will hold
    if not all(t.isfinite().all() for t in model.state_dict().values()):
        raise TrainingError(
            "The weights are too large for half precision: start again in another folder with "
            "a lower learning rate."
        )
    accuracy = {
        side: held_out_accuracy(model, run.data.held_out, side)
        for side in tqdm(measured_at, desc="held-out pictures", leave=False)
    }
    weights = out / f"{run.settings.model}.safetensors"
    labels = json.dumps(run.data.labels_json(), indent=1, ensure_ascii=False) + "\n"
    halves = {
        name: (t.half() if t.is_floating_point() else t).contiguous().cpu()
        for name, t in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    # Not by safetensors' own way to write, whose errors do not say what is wrong with the disk.
    write_bytes(weights, save(halves, _metadata(run, labels, accuracy)))
    write_text(out / "labels.json", labels)
    card = out / "CARD.md"
    write_text(card, _card(run, model, weights, accuracy))
    plot(run.folder.logged(), out / "log.png")
    return Trained(weights, card, run.settings, accuracy, run.seconds)


def _metadata(run: Run, labels: str, accuracy: Mapping[int, Accuracy]) -> dict[str, str]:
    """What the file of weights says of itself."""
    return {
        "architecture": run.settings.model,
        "num_classes": str(len(run.data.class_ids)),
        "labels": labels,
        "data": run.data.summary(),
        "recipe": json.dumps(run.settings.in_words(), ensure_ascii=False),
        "accuracy": json.dumps({str(side): a.as_dict() for side, a in accuracy.items()}),
        "code_version": __version__,
        "mean": json.dumps(IMAGENET_DEFAULT_MEAN),
        "std": json.dumps(IMAGENET_DEFAULT_STD),
    }


def _card(run: Run, model: nn.Module, weights: Path, accuracy: Mapping[int, Accuracy]) -> str:
    """A table in Markdown."""
    on_processor = run.learner.device.type == "cpu"
    device = f"{torch.get_num_threads()} processor threads" if on_processor else "GPU"
    rows = {
        "architecture": f"`{run.settings.model}`, {num_parameters(model) / 1e6:.2f} M parameters "
        f"in float16 ({weights.stat().st_size / 1e6:.1f} MB)",
        "classes": f"{len(run.data.class_ids)}, in `labels.json` in the order of the head",
        "data": run.data.summary(),
        "training time": f"{duration(run.seconds)} on {device}",
        **run.settings.in_words(),
        **{f"held-out at {side} px": str(a) for side, a in accuracy.items()},
        "made with": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"# {run.settings.model}\n\n| | |\n| --- | --- |\n{table}\n"


def plot(log: list[dict[str, Any]], file: Path) -> None:
    """Draw loss and accuracy over the epochs as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib  # as late as `new_figure`

    steps = [line for line in log if "loss" in line]
    checks = [line for line in log if "held_out_accuracy" in line]
    per_epoch = {line["step"]: line["epoch"] for line in steps}
    with matplotlib.rc_context({"font.size": 9}):
        figure = new_figure(10, 3.6)
        left, right = figure.subplots(1, 2)
        epochs = [line["epoch"] for line in steps]
        left.plot(epochs, [line["loss"] for line in steps], color="tab:purple")
        left.set(title="loss", xlabel="epoch")
        right.plot(epochs, [line["accuracy"] for line in steps], label="training, mixed pictures")
        if checks and steps:
            ratio = steps[-1]["epoch"] / steps[-1]["step"]
            places = [per_epoch.get(line["step"], line["step"] * ratio) for line in checks]
            found = [line["held_out_accuracy"] for line in checks]
            right.plot(places, found, "o-", label="a quarter of the held-out, averaged weights")
        right.set(title="accuracy", xlabel="epoch")
        right.legend(fontsize=7)
        save_png(figure, file, dpi=120)
