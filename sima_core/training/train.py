"""Labelled pictures in, a checkpoint with its card out: what ``sima_core train`` does."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from sima_core.files import file_sha256, is_full, reason
from sima_core.training.card import Trained, write_results
from sima_core.training.data import TrainingData
from sima_core.training.learner import Learner, new_model, start_from
from sima_core.training.recipe import CARD_RESOLUTIONS, Settings, TrainingError
from sima_core.training.run import Run
from sima_core.training.state import RunFolder, run_settings
from sima_core.weights.loading import load_model
from sima_core.weights.provenance import provenance


def train(
    data: TrainingData,
    settings: Settings,
    out: Path,
    initial: Path | None = None,
    minutes: float | None = None,
    resume: bool = False,
    device: str = "cpu",
    compiled: bool = True,
    stop_after: int | None = None,
    measured_at: Sequence[int] = CARD_RESOLUTIONS,
) -> Trained | None:
    """Train one of `ARCHITECTURES` and write weights, labels, card, log and plot to `out`.

    Args:
        initial: weights to start from, of the same architecture; the head's rows are taken by
            class, where their ``labels.json`` says which they are.
        minutes: choose the epochs so that training takes about so long on this machine.
        resume: go on with the run in `out`, if there is one.
        compiled: use `torch.compile` where there is a compiler.
        stop_after: stop after so many steps of this piece, saved, and return None.
        measured_at: the resolutions in pixels at which the held-out accuracy is measured.

    Raises:
        TrainingError: `out` holds another run or cannot be written, too few pictures, weights that
            do not fit, no such device, or a loss that is not finite.
    """
    require_startable(settings, out, initial, resume, device)
    if len(data.training) < settings.batch_size:
        raise TrainingError(
            f"There are {len(data.training)} pictures to train on, fewer than one batch of "
            f"{settings.batch_size}: add pictures or make the batches smaller (--batch-size)."
        )
    if initial is not None:
        settings = dataclasses.replace(settings, initial_weights=file_sha256(initial))
    try:
        out.mkdir(parents=True, exist_ok=True)
        run = _open(data, settings, out, initial, minutes, device, compiled)
        return write_results(run, measured_at) if run.go(stop_after) else None
    except torch.OutOfMemoryError:
        raise TrainingError(
            "The GPU's memory is too small for these steps: start again with smaller batches."
        ) from None
    except OSError as error:
        raise TrainingError(_cannot_write(error)) from None


def require_startable(
    settings: Settings, out: Path, initial: Path | None, resume: bool, device: str
) -> None:
    """Refuse a run that cannot begin, before any picture is read; the arguments are `train`'s.

    Raises:
        TrainingError: as `train`.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise TrainingError("There is no GPU here that torch can use: train on the processor.")
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out.name} is a file: name a folder to train in.")
    if RunFolder(out).holds_run() and not resume:
        raise TrainingError(
            f"{out.name} already holds a run: go on with --resume, or name another folder."
        )
    if initial is not None:
        held = provenance(load_model(initial)).architecture
        if held != settings.model:
            raise TrainingError(
                f"{initial.name} holds {held}, which does not fit {settings.model}: start from "
                "weights of the same architecture."
            )


def _open(
    data: TrainingData,
    settings: Settings,
    out: Path,
    initial: Path | None,
    minutes: float | None,
    device: str,
    compiled: bool,
) -> Run:
    """The run in a folder, ready to go on; a new one where there is none."""
    folder, saved = RunFolder(out), None
    if folder.holds_run():
        wanted = run_settings(settings, data.fingerprint())
        saved = folder.state_of(wanted, epochs_may_differ=minutes is not None)
        # They may have been chosen by minutes.
        settings = dataclasses.replace(settings, epochs=saved["settings"]["epochs"])
    model = new_model(settings, data, device)
    if initial is not None and not saved:
        start_from(model, initial, data)
    learner = Learner(model, settings, len(data.class_ids))
    if compiled:
        learner.compile()
    run = Run(data, settings, learner, folder)
    if saved:
        try:
            run.resume(saved)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
            raise folder.damaged() from None  # of this run's settings, but not its tensors
    else:
        run.begin(minutes)
    return run


def _cannot_write(error: OSError) -> str:
    if is_full(error):
        return (
            f"The run cannot be saved ({reason(error)}): make room on the disk and go on with "
            "--resume. What was saved before is kept."
        )
    return (
        f"The run cannot be read or written ({reason(error)}): check its folder, or name another."
    )
