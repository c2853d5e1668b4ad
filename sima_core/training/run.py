"""A run: its steps in order, how long they take, and when they are saved."""

import copy
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from sima_core.machine import cpu_quota
from sima_core.training.accuracy import held_out_accuracy
from sima_core.training.batches import Batches
from sima_core.training.data import TrainingData
from sima_core.training.learner import Learner, NotFiniteError
from sima_core.training.recipe import LossNotFiniteError, Phase, Settings
from sima_core.training.state import RunFolder, run_settings

#: Seconds between two savings of the state, and steps between two lines of the log.
SAVE_SECONDS, LOG_STEPS = 60.0, 20
#: Steps that are timed at each resolution to turn minutes into epochs, after two to warm up.
TIMED_STEPS = 3


class Run:
    """One run, of which one piece after the other can be trained: `begin` or `resume`, then `go`.

    Args:
        data: pictures for at least one batch.
        learner: as new, with nothing learnt.
        folder: there already; what it holds is not looked at.
    """

    def __init__(
        self, data: TrainingData, settings: Settings, learner: Learner, folder: RunFolder
    ) -> None:
        self.data, self.learner, self.folder = data, learner, folder
        self.fingerprint = data.fingerprint()
        on_processor = learner.device.type == "cpu"
        # A processor is busy with the steps; a GPU would wait for a single worker.
        self.num_workers = 1 if on_processor else max(1, cpu_quota() - 1)
        #: Spent in steps, over all pieces.
        self.seconds = 0.0
        #: The step that was saved last, if any was.
        self.saved_step: int | None = None
        self.plan(settings)

    @property
    def done(self) -> bool:
        """Whether the last step is behind."""
        return self.learner.step == self.batches.num_steps

    def plan(self, settings: Settings) -> None:
        """Lay out all steps: their pictures and learning rates."""
        self.settings = settings
        self.batches = Batches(self.data.training, settings)
        self.learner.lay_out(self.batches.num_steps)

    def begin(self, minutes: float | None = None) -> None:
        """Make ready to train from the start.

        Args:
            minutes: plan as many epochs as take about so long on this machine.

        Raises:
            LossNotFiniteError: the first steps, taken to measure their time, are not finite.
        """
        self.folder.discard_log()
        if minutes is not None:
            epochs = self._epochs_in(minutes)
            tqdm.write(f"{minutes:g} minutes are about {epochs:g} epochs here")
            self.plan(dataclasses.replace(self.settings, epochs=epochs))

    def resume(self, saved: dict[str, Any]) -> None:
        """Make ready to go on from a saved state of this run."""
        self._restore(saved)
        self.saved_step = self.learner.step
        self.folder.forget_log_after(self.learner.step)

    def go(self, stop_after: int | None = None) -> bool:
        """Train until the end, or for `stop_after` steps; whether the end was reached.

        Raises:
            LossNotFiniteError: the last good state is kept.
            KeyboardInterrupt: the state after the last whole step is kept.
            OSError: state or log cannot be written.
        """
        first, num_steps = self.learner.step, self.batches.num_steps
        end = num_steps if stop_after is None else min(num_steps, first + stop_after)
        loader = self._loader(range(first, end))
        piece = _Piece(self)
        pictures = None
        saved_at = clock = time.perf_counter()
        with (
            tqdm(
                total=num_steps, initial=first, unit="step", desc=self.settings.model, leave=False
            ) as progress,
            _interrupts_held_back() as interrupted,
        ):
            for pictures, labels in loader:
                loss, accuracy = self._learn(pictures, labels)
                now = time.perf_counter()
                self.seconds += now - clock
                clock = now
                piece.add(pictures.shape[-1], loss, accuracy)
                if self.learner.step % LOG_STEPS == 0 or self.done:
                    self.folder.log(piece.line())
                    progress.set_postfix_str(piece.in_words())
                progress.update()
                if self.learner.step % self.batches.steps_per_epoch == 0 and not self.done:
                    self._check()
                    clock = time.perf_counter()  # not time of training
                if interrupted():
                    self._save(pictures)
                    raise KeyboardInterrupt
                if now - saved_at > SAVE_SECONDS and not self.done:
                    self._save(pictures)
                    saved_at = clock = time.perf_counter()
        self._save(pictures)
        return self.done

    def _loader(self, steps: range) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(
            self.batches,
            None,
            sampler=steps,
            num_workers=self.num_workers,
            prefetch_factor=4,
            worker_init_fn=_ignore_interrupts,
        )

    def _learn(self, pictures: Tensor, labels: Tensor) -> tuple[float, float]:
        with self._telling_what_is_kept():
            return self.learner.learn(pictures, labels)

    def _check(self) -> None:
        """Log the top-1 of the averaged weights on a quarter of the held-out pictures."""
        few = self.data.held_out.without(np.arange(len(self.data.held_out)) % 4 != 0)
        step = self.learner.step
        side = max(self.settings.phase(step / self.batches.num_steps).resolutions)
        top1 = held_out_accuracy(self.learner.averaged, few, side).top1
        self.folder.log({"step": step, "held_out_accuracy": round(top1, 4)})

    def _state(self) -> dict[str, Any]:
        settings = run_settings(self.settings, self.fingerprint)
        return {"settings": settings, **self.learner.state(), "seconds": self.seconds}

    def _restore(self, state: dict[str, Any]) -> None:
        self.learner.restore(state)
        self.seconds = state["seconds"]

    def _save(self, pictures: Tensor | None) -> None:
        """Write the state at once or not at all.

        Args:
            pictures: a batch that the weights must give finite logits for, or are not saved.
        """
        if pictures is not None:
            with self._telling_what_is_kept():
                self.learner.require_sound(pictures)
        self.folder.save(self._state())
        self.saved_step = self.learner.step

    @contextmanager
    def _telling_what_is_kept(self) -> Iterator[None]:
        try:
            yield
        except NotFiniteError as error:
            kept = (
                "nothing had been saved"
                if self.saved_step is None
                else f"the last good state, of step {self.saved_step}, is kept"
            )
            raise LossNotFiniteError(
                f"{error}: training stopped, and {kept}. Start again in another folder with a "
                "lower learning rate."
            ) from None

    def _epochs_in(self, minutes: float) -> float:
        """How many epochs fit, measured at each resolution; the weights are left as they are."""
        settings, before = self.settings, copy.deepcopy(self._state())
        sizes = tqdm(settings.resolutions(), desc="measuring", leave=False)
        seconds = {resolution: self._step_seconds(resolution) for resolution in sizes}
        self._restore(before)
        mean_seconds, begin = 0.0, 0.0
        for phase in settings.phases:
            mean = float(np.mean([seconds[r] for r in phase.resolutions]))
            mean_seconds += (phase.until - begin) * mean
            begin = phase.until
        steps = minutes * 60 / mean_seconds
        return max(0.01, round(steps * settings.batch_size / len(self.data.training), 2))

    def _step_seconds(self, resolution: int) -> float:
        """Median seconds of a step at one resolution; learns from the first batch meanwhile."""
        only = dataclasses.replace(self.settings, phases=(Phase(1.0, (resolution,)),))
        batches = Batches(self.data.training, only)
        preparing, stepping = [], []
        for _ in range(2 + TIMED_STEPS):
            start = time.perf_counter()
            pictures, labels = batches[0]
            between = time.perf_counter()
            self._learn(pictures, labels)  # ends by reading the loss, so the GPU is done
            preparing.append(between - start)
            stepping.append(time.perf_counter() - between)
        prepare = float(np.median(preparing[2:])) / self.num_workers
        step = float(np.median(stepping[2:]))
        if self.learner.device.type == "cpu":
            # Pictures are prepared beside the steps, which on a processor takes cores from them.
            step += prepare / torch.get_num_threads()
        return max(prepare, step)


class _Piece:
    """What is told of the piece of a run that is trained now: how well it learns, and how fast."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.first, self.seconds_before = run.learner.step, run.seconds
        self.pixels_left, self.pixels_done = run.batches.pixels_from(self.first), 0
        self.resolution = 0
        #: Since the last line.
        self.losses: list[float] = []
        self.hits: list[float] = []
        self.last_line: dict[str, Any] = {}

    def add(self, resolution: int, loss: float, accuracy: float) -> None:
        """Take note of a step."""
        self.resolution = resolution
        self.pixels_done += resolution**2
        self.losses.append(loss)
        self.hits.append(accuracy)

    def line(self) -> dict[str, Any]:
        """A line of the log on all steps since the last one."""
        run = self.run
        images = (run.learner.step - self.first) * run.settings.batch_size
        self.last_line = {
            "step": run.learner.step,
            "epoch": round(run.learner.step / run.batches.steps_per_epoch, 3),
            "loss": round(float(np.mean(self.losses)), 4),
            "accuracy": round(float(np.mean(self.hits)), 4),
            "learning_rate": run.learner.learning_rate,
            "resolution": self.resolution,
            "images_per_second": round(images / self._spent(), 1),
            "seconds": round(run.seconds, 1),
        }
        self.losses, self.hits = [], []
        return self.last_line

    def in_words(self) -> str:
        """The last line, and the time left."""
        left = self._spent() / self.pixels_done * (self.pixels_left - self.pixels_done)
        return (
            f"loss {self.last_line['loss']:.3f}, accuracy {self.last_line['accuracy']:.1%}, "
            f"{self.last_line['images_per_second']:.0f} images/s, {duration(left)} left"
        )

    def _spent(self) -> float:
        return self.run.seconds - self.seconds_before


def duration(seconds: float) -> str:
    """For people: ``7 min``, or ``2 h 5 min``."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


@contextmanager
def _interrupts_held_back() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait until a step is whole; gives a function that says whether one came.

    A second one is not held back.
    """
    handler, came = signal.getsignal(signal.SIGINT), threading.Event()
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield came.is_set  # signals go elsewhere, or are ignored
        return

    def note(*_: object) -> None:
        came.set()
        signal.signal(signal.SIGINT, handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, handler)


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the one that saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # torch's way to end a worker
