"""Training: ``train``, ``accuracy`` and ``twins``."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from sima_core.cli.options import (
    BUNDLED,
    FOUND_COCO,
    OK,
    CocoOptions,
    Data,
    Folder,
    JsonFile,
    ModelOptions,
    Whole,
    computes,
    require_writable,
)
from sima_core.errors import InputError
from sima_core.files import write_text, writing

_LENGTH = Group("How long", validator=mutually_exclusive)


@computes
def train(
    data: Data,
    /,
    *,
    model: Annotated[str, Parameter(metavar="NAME", help="see models")],
    out: Folder,
    epochs: Annotated[float | None, Parameter(metavar="N", group=_LENGTH)] = None,
    minutes: Annotated[float | None, Parameter(metavar="M", group=_LENGTH)] = None,
    resume: bool = False,
    seed: Whole | None = None,
    init: Path | None = None,
    batch_size: Whole | None = None,
    learning_rate: float | None = None,
    optimizer: str | None = None,
    resolutions: str | None = None,
    mix: float | None = None,
    coarser: float | None = None,
    compressed: float | None = None,
    sharpest: Whole | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    no_compile: bool = False,
) -> int:
    """Weights, card, log and plot.

    Args:
        minutes: as many epochs as take about so long here
        resume: go on with the run in DIR
        init: weights to start from, of the same architecture
        optimizer: a name of timm's
        resolutions: train at these sizes alone, such as 96 or 96,128
        mix: of the steps that mix pictures in pairs (mixup, cutmix), 0 to 1
        coarser: of the pictures that are made coarser at random, 0 to 1
        compressed: of the pictures compressed at random, 0 to 1
        sharpest: no picture keeps more pixels along its shorter side
        device: default: a GPU where there is one
        no_compile: without torch.compile
    """
    import torch

    from sima_core.training import run
    from sima_core.training.data import read_training_data

    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError("--minutes must be more than 0")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    given: dict[str, Any] = {
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "mix_probability": mix,
        "coarser_probability": coarser,
        "compressed_probability": compressed,
        "sharpest_side": sharpest,
    }
    settings = dataclasses.replace(
        run.Settings(model), **{k: v for k, v in given.items() if v is not None}
    )
    if resolutions:
        only = run.Phase(1.0, _resolutions(resolutions))
        settings = dataclasses.replace(settings, phases=(only,))
    run.require_startable(settings, out, init, resume, device)
    pictures = read_training_data(data)
    print(pictures.summary(), flush=True)
    trained = run.train(
        pictures,
        settings,
        out,
        initial=init,
        minutes=minutes,
        resume=resume,
        device=device,
        compiled=not no_compile,
    )
    assert trained is not None  # only a limited piece of a run gives None
    print(f"{trained.settings.epochs:g} epochs in {trained.seconds / 60:.0f} min")
    for side, accuracy in trained.accuracy.items():
        print(f"held out, at {side} px: {accuracy}")
    print(f"written: {trained.weights.name}, {trained.card.name}, log.jsonl, log.png")
    return OK


@computes
def accuracy(
    data: Data,
    /,
    *,
    model: ModelOptions = BUNDLED,
    resolutions: Annotated[str, Parameter(metavar="PX,…")] = "160,224,320",
) -> int:
    """A line a resolution."""
    from sima_core.training.accuracy import held_out_accuracy
    from sima_core.training.data import read_training_data, relabelled

    sides = _resolutions(resolutions)
    lens = model.load()
    pictures = read_training_data(data)
    assert lens.provenance is not None  # that of what was loaded
    known = lens.provenance.class_ids
    held_out = relabelled(pictures.held_out, pictures.class_ids, known)
    print(pictures.summary())
    for side in sides:
        print(f"at {side} px: {held_out_accuracy(lens.model, held_out, side)}", flush=True)
    return OK


@computes
def twins(
    data: Data,
    /,
    *,
    place: CocoOptions = FOUND_COCO,
    out: Folder,
    models: Annotated[str | None, Parameter(metavar="A,B,…")] = None,
    epochs: Annotated[float, Parameter(metavar="N", help="for each")] = 5.0,
    seeds: Annotated[str, Parameter(metavar="S,…")] = "0,1",
    resolution: Annotated[Whole, Parameter(metavar="PX", help="of training")] = 96,
    json_file: Annotated[JsonFile | None, Parameter(name="--json")] = None,
) -> int:
    """Trains what is not trained yet, then prints the table."""
    import torch

    from sima_core.bench import calibration
    from sima_core.coco.split import CocoSplit
    from sima_core.experiments.twins import TWINS, compare_twins, twins_table
    from sima_core.machine import Machine
    from sima_core.models.architectures import ARCHITECTURES
    from sima_core.training.data import read_training_data

    names = list(TWINS) if models is None else models.split(",")
    if unknown := [name for name in names if name not in ARCHITECTURES]:
        raise InputError(f"there is no architecture {unknown[0]!r}: see models")
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise InputError(f"--seeds takes whole numbers, such as 0,1: {seeds!r}") from None
    [side] = _resolutions(str(resolution))
    if json_file:
        require_writable(json_file)
    root = place.root()
    pictures = read_training_data(data)
    print(pictures.summary(), flush=True)
    calibration.apply()
    val = CocoSplit(root, "val2017")
    found = compare_twins(pictures, out, val, names, numbers, epochs, side)
    print(Machine.here(torch.empty(0)))
    print(twins_table(found))
    if json_file:
        with writing("the results"):
            write_text(json_file, json.dumps([t.as_dict() for t in found], indent=1) + "\n")
    return OK


def _resolutions(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--resolutions takes sizes in pixels, such as 96,128: {text!r}") from None
    if any(side < 32 or side % 32 for side in found):
        raise InputError("--resolutions must be multiples of 32 px")
    return found
