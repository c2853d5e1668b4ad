"""What learns: a model with its optimiser, learning rates and moving average.

timm's mixup and cutmix, optimisers, schedule and weight averaging; bfloat16 and compiled blocks.
"""

import math
import operator
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils._triton import has_triton
from tqdm import tqdm

from sima_core.models.architectures import create_model
from sima_core.training.batches import seed_all
from sima_core.training.data import TrainingData
from sima_core.training.recipe import Settings, TrainingError
from sima_core.weights.loading import load_model
from sima_core.weights.provenance import provenance
from sima_core.words import plain

#: Gradients are scaled down to at most this ℓ2-norm.
MAX_GRADIENT_NORM = 1.0


class NotFiniteError(ArithmeticError):
    """Loss, gradient or output are infinite or not a number; the message says which, and when."""


class Learner:
    """A model that learns one batch after the other.

    Args:
        model: is converted to channels last, in place.
        num_classes: of the model's head.

    Raises:
        TrainingError: the optimiser cannot be used here.
    """

    def __init__(self, model: nn.Module, settings: Settings, num_classes: int) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.settings = settings
        #: Steps learnt so far.
        self.step = 0
        self.device = next(model.parameters()).device
        self.ema = ModelEmaV3(model, decay=settings.ema_decay, use_warmup=True)
        self.optimizer = _optimizer(model, settings)
        self.schedule: CosineLRScheduler | None = None
        self.mixup = Mixup(
            settings.mixup_alpha,
            settings.cutmix_alpha,
            prob=settings.mix_probability,
            label_smoothing=settings.label_smoothing,
            num_classes=num_classes,
        )
        self.loss = SoftTargetCrossEntropy()
        shape = (1, 3, 1, 1)
        self.mean = 255 * torch.tensor(IMAGENET_DEFAULT_MEAN, device=self.device).view(shape)
        self.std = 255 * torch.tensor(IMAGENET_DEFAULT_STD, device=self.device).view(shape)

    @property
    def averaged(self) -> nn.Module:
        """The model with the moving average of all weights so far."""
        return cast(nn.Module, self.ema.module)

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def compile(self) -> None:
        """Use `torch.compile` where there is a compiler."""
        if can_compile(self.device.type):
            compile_blocks(self.model)

    def lay_out(self, num_steps: int) -> None:
        """Spread warm-up and decay of the learning rate over so many steps."""
        settings = self.settings
        self.schedule = CosineLRScheduler(
            self.optimizer,
            t_initial=max(2, num_steps),
            lr_min=settings.learning_rate * 1e-2,
            warmup_t=max(1, round(settings.warmup * num_steps)),
            warmup_lr_init=settings.learning_rate * 1e-2,
            t_in_epochs=False,
        )

    def learn(self, pictures: Tensor, labels: Tensor) -> tuple[float, float]:
        """Learn from one batch; its loss, and the share it named as its larger part's class.

        Args:
            pictures: uint8 (B, 3, side, side).
            labels: int64 (B,).

        Raises:
            NotFiniteError: loss or gradient are not finite; the weights are as they were.
        """
        assert self.schedule is not None  # laid out before
        seed_all(self.settings.seed, self.step, "step")
        self.model.train()
        self.schedule.step_update(self.step)
        x, target = self.mixup(self._normalized(pictures), labels.to(self.device))
        logits = self._logits(self.model, x)
        loss = self.loss(logits.float(), target)
        value = loss.item()
        if not math.isfinite(value):
            raise self._not_finite("The loss")
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        if not math.isfinite(norm.item()):
            raise self._not_finite("The gradient")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.model, self.step)
        return value, (logits.argmax(-1) == target.argmax(-1)).float().mean().item()

    def require_sound(self, pictures: Tensor) -> None:
        """Refuse weights that the last update has broken: no loss has been taken of them yet.

        Raises:
            NotFiniteError: not all logits for these pictures, as `learn` takes them, are finite.
        """
        x = self._normalized(pictures)
        # Not compiled: a graph for evaluation would take longer to build than it saves.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            for model in (self.model, self.averaged):
                model.eval()
                if not self._logits(model, x).isfinite().all():
                    raise self._not_finite("The model's output")

    def state(self) -> dict[str, Any]:
        """All that later steps depend on; not copied."""
        return {
            "model": self.model.state_dict(),
            "ema": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back, or on, to a `state`.

        Raises:
            TypeError: its step is no whole number; torch raises others over other tensors.
        """
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = operator.index(state["step"])

    def _normalized(self, pictures: Tensor) -> Tensor:
        x = pictures.to(self.device, memory_format=torch.channels_last)
        return (x.float() - self.mean) / self.std

    def _logits(self, model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return cast(Tensor, model(x))

    def _not_finite(self, what: str) -> NotFiniteError:
        return NotFiniteError(f"{what} is not a finite number at step {self.step}")


def new_model(settings: Settings, data: TrainingData, device: str) -> nn.Module:
    """The model to train, with random weights that follow from the seed."""
    seed_all(settings.seed, 0, "weights")
    return create_model(
        settings.model,
        num_classes=len(data.class_ids),
        drop_path_rate=settings.drop_path,
        device=device,
    )


def start_from(model: nn.Module, file: Path, data: TrainingData) -> None:
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
    tqdm.write(
        f"starting from {plain(file.name)}: {len(shared)} of {len(data.class_ids)} classes known"
    )


def can_compile(device: str) -> bool:
    """Whether `torch.compile` has the compilers it needs."""
    if device == "cpu":
        return any(map(shutil.which, ("g++", "clang++")))
    return has_triton() and any(map(shutil.which, ("gcc", "clang")))


def compile_blocks(model: nn.Module) -> None:
    """Compile a model block by block, in place: one compilation serves all alike blocks."""
    torch._dynamo.config.recompile_limit = 64  # one for each resolution and mode
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and name.endswith("blocks"):
            for block in module:
                block.compile(dynamic=False)
        elif name.endswith("patch_embed"):
            module.compile(dynamic=False)


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
