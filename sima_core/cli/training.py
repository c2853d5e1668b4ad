"""Training: ``train``, ``accuracy`` and ``twins``."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from sima_core.cli.options import (
    BUNDLED,
    FOUND_COCO,
    OK,
    CocoOptions,
    Data,
    Folder,
    JsonFile,
    ModelOptions,
    computes,
    json_text,
    require_writable,
)
from sima_core.errors import InputError
from sima_core.files import write_text, writing
from sima_core.numbers import SEEDS, Epochs, Minutes
from sima_core.training.recipe import CARD_RESOLUTIONS, LENGTH, Settings, resolutions_from
from sima_core.words import plain

#: Characters of what is said of all sources of pictures, each with its name.
_SUMMARY = 2000


def _sizes(_: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    return resolutions_from(tokens[-1].value)


def _size(_: Any, tokens: Sequence[Token]) -> int:
    sizes = resolutions_from(tokens[-1].value)
    if len(sizes) > 1:
        raise InputError(f"expected one size in pixels: {plain(tokens[-1].value)!r}")
    return sizes[0]


def _numbers(_: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    return SEEDS.read_list(tokens[-1].value)


def _names(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(tokens[-1].value.split(","))


def _in_commas(values: Iterable[object] | None) -> str | None:
    return None if values is None else ",".join(map(str, values))


#: A list is one value with commas, so that pictures may follow it.
_LIST = Parameter(n_tokens=1, negative="", show_default=_in_commas)
_Sizes = Annotated[tuple[int, ...], _LIST, Parameter(converter=_sizes, metavar="PX,…")]
_Size = Annotated[int, Parameter(converter=_size, metavar="PX")]
_Seeds = Annotated[tuple[int, ...], _LIST, Parameter(converter=_numbers, metavar="S,…")]
_Names = Annotated[tuple[str, ...], _LIST, Parameter(converter=_names, metavar="A,B,…")]


@computes
def train(
    data: Data,
    /,
    *,
    settings: Annotated[Settings, Parameter(name="*")],
    out: Folder,
    minutes: Annotated[Minutes | None, Parameter(group=LENGTH, metavar="M")] = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    init: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    device: Literal["cpu", "cuda"] | None = None,
    no_compile: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train an architecture; leaves weights, labels, a card, a log and its plot.

    Args:
        minutes: as many epochs as take about so long here
        resume: go on with the run in DIR
        init: weights to start from, of the same architecture
        device: default: a GPU where there is one
        no_compile: without torch.compile
    """
    import torch

    from sima_core.training.data import read_training_data
    from sima_core.training.train import require_startable
    from sima_core.training.train import train as train_model

    used = device or ("cuda" if torch.cuda.is_available() else "cpu")
    require_startable(settings, out, init, resume, used)
    pictures = read_training_data(data)
    print(plain(pictures.summary(), _SUMMARY), flush=True)
    trained = train_model(
        pictures,
        settings,
        out,
        initial=init,
        minutes=minutes,
        resume=resume,
        device=used,
        compiled=not no_compile,
    )
    assert trained is not None  # only a limited piece of a run gives None
    print(f"{trained.settings.epochs:g} epochs in {trained.seconds / 60:.0f} min")
    for side, found in trained.accuracy.items():
        print(f"held out, at {side} px: {found}")
    print(f"written: {trained.weights.name}, {trained.card.name}, log.jsonl, log.png")
    return OK


@computes
def accuracy(
    data: Data,
    /,
    *,
    model: ModelOptions = BUNDLED,
    resolutions: _Sizes = CARD_RESOLUTIONS,
) -> int:
    """Tell how often held-out pictures are named rightly, a line a resolution."""
    from sima_core.training.accuracy import held_out_accuracy
    from sima_core.training.data import read_training_data, relabelled
    from sima_core.weights.provenance import provenance

    measured = model.load().model
    pictures = read_training_data(data)
    held_out = relabelled(pictures.held_out, pictures.class_ids, provenance(measured).class_ids)
    print(plain(pictures.summary(), _SUMMARY))
    for side in resolutions:
        print(f"at {side} px: {held_out_accuracy(measured, held_out, side)}", flush=True)
    return OK


@computes
def twins(
    data: Data,
    /,
    *,
    place: CocoOptions = FOUND_COCO,
    out: Annotated[Path, Parameter(metavar="DIR")],
    models: _Names | None = None,
    epochs: Annotated[Epochs, Parameter(metavar="N", help="for each")] = 5.0,
    seeds: _Seeds = (0, 1),
    resolution: Annotated[_Size, Parameter(help="of training")] = 96,
    json_file: Annotated[JsonFile | None, Parameter(name="--json")] = None,
) -> int:
    """Train what is not trained yet of SimA and its rivals, then print the table.

    Args:
        models: default: XCiT with XCA and SimA; DeiT with softmax, SimA, a single head, no norms
    """
    import torch

    from sima_core.bench import calibration
    from sima_core.coco.split import CocoSplit
    from sima_core.experiments.twins import TWINS, compare_twins, twins_table
    from sima_core.machine import Machine
    from sima_core.models.architectures import ARCHITECTURES
    from sima_core.training.data import read_training_data

    compared = TWINS if models is None else models
    if unknown := [name for name in compared if name not in ARCHITECTURES]:
        raise InputError(f"there is no architecture {plain(unknown[0])!r}: see models")
    if json_file:
        require_writable(json_file)
    split = CocoSplit(place.root(), "val2017")
    pictures = read_training_data(data)
    print(plain(pictures.summary(), _SUMMARY), flush=True)
    calibration.apply()
    found = compare_twins(pictures, out, split, compared, seeds, epochs, resolution)
    print(Machine.here(torch.empty(0)))
    print(twins_table(found))
    if json_file:
        with writing("the results"):
            write_text(json_file, json_text([twin.as_dict() for twin in found], 1) + "\n")
    return OK
