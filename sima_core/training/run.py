"""The training recipe: labelled pictures in, a checkpoint with its card out.

timm's augmentation, mixup and cutmix, optimisers, schedule and weight averaging; bfloat16, compiled
blocks, and a resolution that grows as training goes on. Everything random in a step follows from
the seed and the step's number, so a run that was killed goes on exactly as it would have.
"""

import copy
import dataclasses
import errno
import io
import json
import math
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup, create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils._triton import has_triton
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sima_core import __version__
from sima_core.files import file_sha256
from sima_core.machine import cpu_quota, versions
from sima_core.models.architectures import ARCHITECTURES, create_model, num_parameters
from sima_core.training.accuracy import Accuracy, held_out_accuracy
from sima_core.training.data import STORED_SIDE, PictureSet, TrainingData
from sima_core.weights.loading import load_model
from sima_core.weights.provenance import provenance

#: Gradients are scaled down to at most this ℓ2-norm.
MAX_GRADIENT_NORM = 1.0
#: Seconds between two savings of the state, and steps between two lines of the log.
SAVE_SECONDS, LOG_STEPS = 60.0, 20
#: Steps that are timed at each resolution to turn minutes into epochs, after two to warm up.
TIMED_STEPS = 3
#: The resolutions at which the card tells the accuracy, in pixels.
CARD_RESOLUTIONS = (160, 224, 320)

_STATE, _LOG = "state.pt", "log.jsonl"
_DISK_FULL = (
    "The run cannot be saved ({}): make room on the disk and go on with --resume. "
    "What was saved before is kept."
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class TrainingError(RuntimeError):
    """Training cannot begin or go on; the message says why, and what to do."""


class LossNotFiniteError(TrainingError):
    """Loss, gradient or weights became infinite or not a number; the last good state is kept."""


@dataclass(frozen=True)
class Phase:
    """A part of training with pictures of certain sizes."""

    #: The share of all steps after which the phase ends; the last one's is 1.
    until: float
    #: Input sides in pixels; each step takes one of them.
    resolutions: tuple[int, ...]
    #: The smallest share of a picture's area that a random crop may have.
    smallest_crop: float = 0.2


#: Small pictures first, when each step teaches most for its time; last a wide range of sizes and
#: whole pictures, so that accuracy does not hang on one test resolution.
PHASES = (
    Phase(0.65, (96, 112)),
    Phase(0.88, (112, 128, 160)),
    Phase(1.0, (160, 192, 224, 288), smallest_crop=0.35),
)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome, beside the pictures.

    Raises:
        TrainingError: a value that cannot be trained with.
    """

    model: str
    seed: int = 0
    #: Passes over the training pictures; need not be whole.
    epochs: float = 10.0
    batch_size: int = 128
    #: A name that timm's `create_optimizer_v2` knows.
    optimizer: str = "muon"
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.2
    cutmix_alpha: float = 1.0
    #: The share of steps that mix pictures in pairs, half of them by cutmix.
    mix_probability: float = 0.5
    color_jitter: float = 0.3
    #: The shares of pictures that are first made coarser, and then compressed, at random
    #: (`RandomQuality`).
    coarser_probability: float = 0.5
    compressed_probability: float = 0.0
    #: No picture keeps more pixels along its shorter side; the coarsest source's are best.
    sharpest_side: int = STORED_SIDE
    drop_path: float = 0.0
    ema_decay: float = 0.996
    phases: tuple[Phase, ...] = PHASES
    #: SHA-256 of the weights to start from, if any.
    initial_weights: str | None = None

    def __post_init__(self) -> None:
        if self.model not in ARCHITECTURES:
            raise TrainingError(f"There is no architecture {self.model!r}: see models.")
        if self.seed < 0:
            raise TrainingError("The seed must be 0 or more.")
        if not 0 < self.epochs < math.inf:
            raise TrainingError("The epochs must be more than 0.")
        if self.batch_size < 2 or self.batch_size % 2:
            raise TrainingError("The batch size must be even, since pictures are mixed in pairs.")
        if self.optimizer not in list_optimizers():
            raise TrainingError(f"timm has no optimiser {self.optimizer!r}: try muon or adamw.")
        if not 0 < self.learning_rate < math.inf:
            raise TrainingError("The learning rate must be more than 0.")
        if self.sharpest_side < 32:
            raise TrainingError("The sharpest pictures must keep 32 pixels or more.")
        for what, share in (
            ("steps that mix", self.mix_probability),
            ("pictures made coarser", self.coarser_probability),
            ("pictures compressed", self.compressed_probability),
        ):
            if not 0 <= share <= 1:
                raise TrainingError(f"The share of {what} must be between 0 and 1.")

    def phase(self, progress: float) -> Phase:
        """The phase at `progress`, from 0 to 1."""
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])

    def resolution(self, step: int, num_steps: int) -> int:
        """The input side of one step, in pixels."""
        chosen = _random(self.seed, step, "resolution").choice
        return chosen(self.phase(step / num_steps).resolutions)

    def resolutions(self) -> tuple[int, ...]:
        """All that occur, ascending."""
        return tuple(sorted({r for phase in self.phases for r in phase.resolutions}))

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for comparison with what was saved: with lists, as JSON gives them back."""
        return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(self))))

    def in_words(self) -> dict[str, str]:
        """The recipe for the card and the metadata."""
        sizes = "; ".join(
            f"until {phase.until:.0%}: {', '.join(map(str, phase.resolutions))} px, "
            f"crops from {phase.smallest_crop:.0%}"
            for phase in self.phases
        )
        return {
            "passes": f"{self.epochs:g}",
            "batch": str(self.batch_size),
            "optimiser": f"{self.optimizer}, learning rate {self.learning_rate:g} with warm-up and "
            f"cosine decay, weight decay {self.weight_decay:g}",
            "resolutions": sizes,
            "sharpness": f"at most {self.sharpest_side} pixels along the shorter side",
            "augmentation": f"random crops, flips, colour jitter {self.color_jitter:g}, "
            f"{self.coarser_probability:.0%} made coarser, {self.compressed_probability:.0%} "
            f"compressed, mixup {self.mixup_alpha:g} and cutmix "
            f"{self.cutmix_alpha:g} in {self.mix_probability:.0%} of the steps, label smoothing "
            f"{self.label_smoothing:g}, drop path {self.drop_path:g}",
            "weights": f"moving average with decay {self.ema_decay:g}",
            "started from": "random weights"
            if self.initial_weights is None
            else f"weights with SHA-256 {self.initial_weights}",
            "seed": str(self.seed),
        }


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


class RandomQuality:
    """Make a picture coarser and compress it, each at random.

    Sources differ in sharpness and in how hard they were compressed, and a model can learn to tell
    them apart by it; so each is at times as coarse, and shows as many artefacts, as the worst.
    """

    def __init__(
        self,
        coarser: float,
        compressed: float,
        sharpest_side: int = STORED_SIDE,
        smallest_side: int = 40,
        lowest_quality: int = 15,
    ) -> None:
        self.coarser = coarser
        self.compressed = compressed
        self.sharpest_side = sharpest_side
        self.smallest_side = smallest_side
        self.lowest_quality = lowest_quality

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture of as many pixels or fewer, RGB."""
        shorter = min(image.size)
        wanted: float = min(shorter, self.sharpest_side)
        if random.random() < self.coarser and wanted > self.smallest_side:
            wanted = random.uniform(self.smallest_side, wanted)
        if wanted < shorter:
            width, height = (max(1, round(side * (wanted / shorter))) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        # Drawn only where it matters, so that runs without it stay what they were.
        if self.compressed and random.random() < self.compressed:
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG", quality=random.randint(self.lowest_quality, 95))
            image = Image.open(jpeg).convert("RGB")
        return image


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """One item a step: uint8 (B, 3, side, side) and int64 (B,); the same whenever asked for."""

    def __init__(self, pictures: PictureSet, settings: Settings, num_steps: int) -> None:
        self.pictures = pictures
        self.settings = settings
        self.num_steps = num_steps
        self.steps_per_epoch = len(pictures) // settings.batch_size

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        settings = self.settings
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(self.pictures))
        chosen = order[place * settings.batch_size :][: settings.batch_size]
        seed_all(settings.seed, step, "augmentation")
        phase = settings.phase(step / self.num_steps)
        transform = create_transform(
            settings.resolution(step, self.num_steps),
            is_training=True,
            use_prefetcher=True,  # leaves the scaling to the main process
            scale=(phase.smallest_crop, 1.0),
            color_jitter=settings.color_jitter or None,
            auto_augment=None,
            interpolation="random",
        )
        worse = RandomQuality(
            settings.coarser_probability, settings.compressed_probability, settings.sharpest_side
        )
        images = [transform(worse(self.pictures.image(i))) for i in chosen]
        return torch.stack(images), torch.from_numpy(self.pictures.labels[chosen])


def _random(seed: int, step: int, purpose: str) -> random.Random:
    return random.Random(f"{seed} {step} {purpose}")


def seed_all(seed: int, step: int, purpose: str) -> None:
    """Seed every generator that timm and torch draw from, for one step and purpose."""
    number = _random(seed, step, purpose).getrandbits(32)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


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
        run = _Run(data, settings, out, device, compiled, initial, minutes)
        if not run.go(stop_after):
            return None
        return _write_results(run, measured_at)
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
    if (out / _STATE).exists() and not resume:
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


def _cannot_write(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return _DISK_FULL.format(reason)
    return f"The run cannot be read or written ({reason}): check its folder, or name another."


class _Run:
    """One run: its model, optimiser, average and place, and how they are kept on disk."""

    def __init__(
        self,
        data: TrainingData,
        settings: Settings,
        out: Path,
        device: str,
        compiled: bool,
        initial: Path | None,
        minutes: float | None,
    ) -> None:
        self.data, self.out, self.device = data, out, device
        # A processor is busy with the steps; a GPU would wait for a single worker.
        self.num_workers = 1 if device == "cpu" else max(1, cpu_quota() - 1)
        saved = self._saved(settings, minutes)
        self.step, self.seconds = 0, 0.0
        self.saved_step: int | None = None
        if saved:  # its epochs may have been chosen by minutes
            settings = dataclasses.replace(settings, epochs=saved["settings"]["epochs"])
            minutes = None

        seed_all(settings.seed, 0, "weights")
        self.model = create_model(
            settings.model,
            num_classes=len(data.class_ids),
            drop_path_rate=settings.drop_path,
            device=device,
        )
        if initial is not None and not saved:
            _start_from(self.model, initial, data)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = ModelEmaV3(self.model, decay=settings.ema_decay, use_warmup=True)
        self.optimizer = _optimizer(self.model, settings)
        self.mixup = Mixup(
            settings.mixup_alpha,
            settings.cutmix_alpha,
            prob=settings.mix_probability,
            label_smoothing=settings.label_smoothing,
            num_classes=len(data.class_ids),
        )
        self.loss = SoftTargetCrossEntropy()
        shape = (1, 3, 1, 1)
        self.mean = 255 * torch.tensor(IMAGENET_DEFAULT_MEAN, device=device).view(shape)
        self.std = 255 * torch.tensor(IMAGENET_DEFAULT_STD, device=device).view(shape)
        if compiled and can_compile(device):
            compile_blocks(self.model)
        self._plan(settings)
        if minutes is not None:
            epochs = self._epochs_in(minutes)
            tqdm.write(f"{minutes:g} minutes are about {epochs:g} epochs here")
            self._plan(dataclasses.replace(settings, epochs=epochs))
        if saved:
            self._restore(saved)
            self.saved_step = self.step
            self._forget_log_after(self.step)

    def _plan(self, settings: Settings) -> None:
        """Lay out all steps: their pictures and learning rates."""
        self.settings = settings
        steps_per_epoch = len(self.data.training) // settings.batch_size
        self.num_steps = max(1, round(settings.epochs * steps_per_epoch))
        self.batches = _Batches(self.data.training, settings, self.num_steps)
        self.schedule = CosineLRScheduler(
            self.optimizer,
            t_initial=max(2, self.num_steps),
            lr_min=settings.learning_rate * 1e-2,
            warmup_t=max(1, round(settings.warmup * self.num_steps)),
            warmup_lr_init=settings.learning_rate * 1e-2,
            t_in_epochs=False,
        )

    def _saved(self, settings: Settings, minutes: float | None) -> dict[str, Any] | None:
        """The state of the run in `out`; None where there is none.

        Raises:
            TrainingError: it is of another run.
        """
        if not (self.out / _STATE).exists():
            (self.out / _LOG).unlink(missing_ok=True)  # of a run that never saved
            return None
        try:  # to the processor: optimisers keep their step counts there
            saved: dict[str, Any] = torch.load(self.out / _STATE, "cpu", weights_only=True)
            found = saved["settings"]
        except (
            EOFError,
            KeyError,
            TypeError,
            ValueError,
            RuntimeError,
            OSError,
            UnpicklingError,
        ) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # so cut files end too
                raise
            raise TrainingError(
                f"The state saved in {self.out.name} is damaged: delete its {_STATE} to begin "
                "anew, or name another folder."
            ) from None
        wanted = {**settings.as_dict(), "data": self.data.fingerprint()}
        if found.keys() != wanted.keys():
            raise TrainingError(
                f"The run in {self.out.name} was begun by another version of this program: "
                "name another folder."
            )
        other = [key for key, value in found.items() if wanted[key] != value]
        if minutes is not None and "epochs" in other:
            other.remove("epochs")
        if other:
            raise TrainingError(
                f"The run in {self.out.name} has another {' and '.join(sorted(other))}: "
                "resume it with the options it was started with, or name another folder."
            )
        return saved

    def _state(self) -> dict[str, Any]:
        return {
            "settings": {**self.settings.as_dict(), "data": self.data.fingerprint()},
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _save(self, pictures: Tensor | None = None) -> None:
        """Write the state at once or not at all.

        Args:
            pictures: a batch that the weights must give finite logits for, or are not saved.
        """
        if pictures is not None:
            self._require_sound(pictures)
        temporary = self.out / f"{_STATE}.{os.getpid()}"
        try:
            with temporary.open("wb") as file:
                try:
                    torch.save(self._state(), file)
                except RuntimeError as error:  # raised over the file's own
                    raise error.__context__ or error from None
                file.flush()
                os.fsync(file.fileno())  # before the name: a power cut must leave one of the two
            temporary.replace(self.out / _STATE)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self.saved_step = self.step

    def _require_sound(self, pictures: Tensor) -> None:
        """Refuse weights that the last update has broken: no loss has been taken of them yet."""
        x = self._normalized(pictures)
        # Not compiled: a graph for evaluation would take longer to build than it saves.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            for model in (self.model, self.ema.module):
                model.eval()
                with torch.autocast(x.device.type, torch.bfloat16):
                    logits = model(x)
                if not logits.isfinite().all():
                    raise self._not_finite("The model's output")

    def _not_finite(self, what: str) -> LossNotFiniteError:
        kept = (
            "nothing had been saved"
            if self.saved_step is None
            else f"the last good state, of step {self.saved_step}, is kept"
        )
        return LossNotFiniteError(
            f"{what} is not a finite number at step {self.step}: training stopped, and {kept}. "
            "Start again in another folder with a lower learning rate."
        )

    def _forget_log_after(self, step: int) -> None:
        """Drop lines that a killed run wrote after its last saved state."""
        kept = [line for line in self.logged() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        (self.out / _LOG).write_text(text, "utf-8")

    def logged(self) -> list[dict[str, Any]]:
        """The lines of the log, without one that a kill cut off."""
        if not (self.out / _LOG).exists():
            return []
        lines = (self.out / _LOG).read_text("utf-8").splitlines()
        return [line for line in map(_json_line, lines) if line]

    def go(self, stop_after: int | None) -> bool:
        """Train until the end, or for `stop_after` steps; whether the end was reached."""
        end = self.num_steps if stop_after is None else min(self.num_steps, self.step + stop_after)
        first, piece_start = self.step, self.seconds
        pictures = None
        loader = DataLoader(
            self.batches,
            None,
            sampler=range(self.step, end),
            num_workers=self.num_workers,
            prefetch_factor=4,
            worker_init_fn=_ignore_interrupts,
        )
        saved_at = clock = time.perf_counter()
        losses, hits = [], []
        pixels_left = self._pixels(first)
        pixels_done = 0
        with (
            tqdm(
                total=self.num_steps, initial=first, unit="step", desc=self.settings.model,
                leave=False,
            ) as progress,
            _interrupts_held_back() as interrupted,
        ):  # fmt: skip
            for pictures, labels in loader:
                resolution = pictures.shape[-1]
                loss, accuracy = self._one_step(pictures, labels)
                losses.append(loss)
                hits.append(accuracy)
                now = time.perf_counter()
                self.seconds += now - clock
                clock = now
                pixels_done += resolution**2
                last = self.step == self.num_steps
                if self.step % LOG_STEPS == 0 or last:
                    spent = self.seconds - piece_start
                    left = spent / pixels_done * (pixels_left - pixels_done)
                    images = (self.step - first) * self.settings.batch_size
                    line = {
                        "step": self.step,
                        "epoch": round(self.step / self.batches.steps_per_epoch, 3),
                        "loss": round(float(np.mean(losses)), 4),
                        "accuracy": round(float(np.mean(hits)), 4),
                        "learning_rate": self.optimizer.param_groups[0]["lr"],
                        "resolution": resolution,
                        "images_per_second": round(images / spent, 1),
                        "seconds": round(self.seconds, 1),
                    }
                    self._log(line)
                    losses, hits = [], []
                    progress.set_postfix_str(
                        f"loss {line['loss']:.3f}, accuracy {line['accuracy']:.1%}, "
                        f"{line['images_per_second']:.0f} images/s, "
                        f"{_duration(left)} left"
                    )
                progress.update()
                if self.step % self.batches.steps_per_epoch == 0 and not last:
                    self._log({"step": self.step, "held_out_accuracy": self._quick_accuracy()})
                    clock = time.perf_counter()  # not time of training
                if interrupted():
                    self._save(pictures)
                    raise KeyboardInterrupt
                if now - saved_at > SAVE_SECONDS and not last:
                    self._save(pictures)
                    saved_at = clock = time.perf_counter()
        self._save(pictures)
        return self.step == self.num_steps

    def _one_step(self, pictures: Tensor, labels: Tensor) -> tuple[float, float]:
        """Learn from one batch; its loss, and the share it named as its larger part's class."""
        seed_all(self.settings.seed, self.step, "step")
        self.model.train()
        self.schedule.step_update(self.step)
        x, target = self._inputs(pictures, labels)
        loss, logits = self._loss(x, target)
        value = loss.item()
        if not math.isfinite(value):
            raise self._not_finite("The loss")
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        if not math.isfinite(norm.item()):
            raise self._not_finite("The gradient")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.model, self.step)
        return value, (logits.argmax(-1) == target.argmax(-1)).float().mean().item()

    def _normalized(self, pictures: Tensor) -> Tensor:
        x = pictures.to(self.device, memory_format=torch.channels_last)
        return (x.float() - self.mean) / self.std

    def _inputs(self, pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x = self._normalized(pictures)
        return cast(tuple[Tensor, Tensor], self.mixup(x, labels.to(self.device)))

    def _loss(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = self.model(x)
        return self.loss(logits.float(), target), logits

    def _epochs_in(self, minutes: float) -> float:
        """How many epochs fit, measured at each resolution; the weights are left as they are."""
        settings, before = self.settings, copy.deepcopy(self._state())
        seconds: dict[int, float] = {}
        for resolution in tqdm(settings.resolutions(), desc="measuring", leave=False):
            only = dataclasses.replace(settings, phases=(Phase(1.0, (resolution,)),))
            batches = _Batches(self.data.training, only, self.num_steps)
            preparing, stepping = [], []
            for _ in range(2 + TIMED_STEPS):
                start = time.perf_counter()
                pictures, labels = batches[0]
                between = time.perf_counter()
                self._one_step(pictures, labels)  # ends by reading the loss, so the GPU is done
                preparing.append(between - start)
                stepping.append(time.perf_counter() - between)
            prepare = float(np.median(preparing[2:])) / self.num_workers
            step = float(np.median(stepping[2:]))
            # Pictures are prepared beside the steps, which on a processor takes cores from them.
            shared = step + prepare / torch.get_num_threads() if self.device == "cpu" else step
            seconds[resolution] = max(prepare, shared)
        self._restore(before)
        step_seconds, begin = 0.0, 0.0
        for phase in settings.phases:
            mean = float(np.mean([seconds[r] for r in phase.resolutions]))
            step_seconds += (phase.until - begin) * mean
            begin = phase.until
        steps = minutes * 60 / step_seconds
        return max(0.01, round(steps * settings.batch_size / len(self.data.training), 2))

    def _pixels(self, first: int) -> int:
        """Pixels of one picture of every step from `first` on: what the time left goes by."""
        steps = range(first, self.num_steps)
        return sum(self.settings.resolution(step, self.num_steps) ** 2 for step in steps)

    def _quick_accuracy(self) -> float:
        """Top-1 of the averaged weights on a quarter of the held-out pictures."""
        few = self.data.held_out.without(np.arange(len(self.data.held_out)) % 4 != 0)
        side = max(self.settings.phase(self.step / self.num_steps).resolutions)
        return round(held_out_accuracy(self.ema.module, few, side).top1, 4)

    def _log(self, line: dict[str, Any]) -> None:
        with (self.out / _LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _write_results(run: _Run, measured_at: Sequence[int]) -> Trained:
    """Measure a finished run's averaged weights; write weights, labels, card and plot."""
    data, settings, out = run.data, run.settings, run.out
    model = copy.deepcopy(run.ema.module).half().float().eval()  # what the file will hold
    if not all(t.isfinite().all() for t in model.state_dict().values()):
        raise TrainingError(
            "The weights are too large for half precision: start again in another folder with "
            "a lower learning rate."
        )
    accuracy = {
        side: held_out_accuracy(model, data.held_out, side)
        for side in tqdm(measured_at, desc="held-out pictures", leave=False)
    }
    weights = out / f"{settings.model}.safetensors"
    halves = {
        name: (t.half() if t.is_floating_point() else t).contiguous().cpu()
        for name, t in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    labels = json.dumps(data.labels_json(), indent=1, ensure_ascii=False) + "\n"
    metadata = {
        "architecture": settings.model,
        "num_classes": str(len(data.class_ids)),
        "labels": labels,
        "data": data.summary(),
        "recipe": json.dumps(settings.in_words(), ensure_ascii=False),
        "accuracy": json.dumps({str(side): a.as_dict() for side, a in accuracy.items()}),
        "code_version": __version__,
        "mean": json.dumps(IMAGENET_DEFAULT_MEAN),
        "std": json.dumps(IMAGENET_DEFAULT_STD),
    }
    temporary = weights.with_suffix(".partial")
    temporary.write_bytes(save(halves, metadata))  # whose OSError says what is wrong
    temporary.replace(weights)
    (out / "labels.json").write_text(labels, "utf-8")

    device = "GPU" if run.device != "cpu" else f"{torch.get_num_threads()} processor threads"
    rows = {
        "architecture": f"`{settings.model}`, {num_parameters(model) / 1e6:.2f} M parameters in "
        f"float16 ({weights.stat().st_size / 1e6:.1f} MB)",
        "classes": f"{len(data.class_ids)}, in `labels.json` in the order of the head",
        "data": data.summary(),
        "training time": f"{_duration(run.seconds)} on {device}",
        **settings.in_words(),
        **{f"held-out at {side} px": str(a) for side, a in accuracy.items()},
        "made with": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    card = out / "CARD.md"
    card.write_text(f"# {settings.model}\n\n| | |\n| --- | --- |\n{table}\n", "utf-8")
    plot(run.logged(), out / "log.png")
    return Trained(weights, card, settings, accuracy, run.seconds)


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """timm's, by name.

    Raises:
        TrainingError: it needs a package, a GPU or second derivatives that are not there.
    """
    optimizer: torch.optim.Optimizer | None = None
    with suppress(Exception):  # each has requirements of its own, and raises what it likes
        optimizer = create_optimizer_v2(
            model,
            opt=settings.optimizer,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
    if optimizer is None or getattr(optimizer, "is_second_order", False):
        raise TrainingError(
            f"The optimiser {settings.optimizer!r} cannot be used here: try muon or adamw."
        )
    return optimizer


def can_compile(device: str) -> bool:
    """Whether `torch.compile` has the compilers it needs."""
    if device == "cpu":
        return any(map(shutil.which, ("g++", "clang++")))
    return has_triton() and any(map(shutil.which, ("gcc", "clang")))


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


def compile_blocks(model: nn.Module) -> None:
    """Compile a model block by block, in place: one compilation serves all alike blocks."""
    torch._dynamo.config.recompile_limit = 64  # one for each resolution and mode
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and name.endswith("blocks"):
            for block in module:
                block.compile(dynamic=False)
        elif name.endswith("patch_embed"):
            module.compile(dynamic=False)


def plot(log: list[dict[str, Any]], file: Path) -> None:
    """Draw loss and accuracy over the epochs as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    steps = [line for line in log if "loss" in line]
    checks = [line for line in log if "held_out_accuracy" in line]
    per_epoch = {line["step"]: line["epoch"] for line in steps}
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
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
        figure.savefig(file, dpi=120)


def _start_from(model: nn.Module, file: Path, data: TrainingData) -> None:
    """Copy weights into `model`; of the head the rows of classes that both have, by their ids."""
    source = load_model(file)
    found, ours = source.state_dict(), model.state_dict()
    rows = {class_id: i for i, class_id in enumerate(provenance(source).class_ids)}
    shared = [i for i, class_id in enumerate(data.class_ids) if class_id in rows]
    for name in ("head.weight", "head.bias"):
        head = ours[name].clone()
        for i in shared:
            head[i] = found[name][rows[data.class_ids[i]]]
        found[name] = head
    model.load_state_dict(found)
    tqdm.write(f"starting from {file.name}: {len(shared)} of {len(data.class_ids)} classes known")


def _json_line(text: str) -> dict[str, Any] | None:
    """A line of the log; None if a kill cut it off."""
    try:
        return cast(dict[str, Any], json.loads(text))
    except ValueError:
        return None


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
