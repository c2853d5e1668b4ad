"""The recipe of a run: everything that decides its outcome, beside the pictures.

`Settings` is declared once: it is what a run keeps on disk and compares, and its fields are the
options of the ``train`` command. Nothing heavy is imported before a value is looked at.
"""

import dataclasses
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from cyclopts import Group, Parameter, Token
from cyclopts.validators import mutually_exclusive

from sima_core.errors import InputError, SimaLensError
from sima_core.numbers import SEEDS, TRAINED_SIDES, Epochs, Real, Share, Whole, option
from sima_core.words import plain

#: Pictures are kept in memory with a shorter side of at most so many pixels.
STORED_SIDE = 256
#: The resolutions at which the accuracy of what was trained is told, in pixels.
CARD_RESOLUTIONS = (160, 224, 320)
#: Options that say how long to train: one at most.
LENGTH = Group("", validator=mutually_exclusive)

_NO_OPTION = Parameter(parse=False)


class TrainingError(SimaLensError, RuntimeError):
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


def resolutions_from(text: str) -> tuple[int, ...]:
    """Input sides in pixels from a text such as ``96,128``.

    Raises:
        InputError: it holds something else, or a size that is out of bounds or no multiple of 32.
    """
    found = TRAINED_SIDES.read_list(text)
    if any(side % 32 for side in found):
        raise InputError("sizes must be multiples of 32 px")
    return found


def _one_phase(_: Any, tokens: Sequence[Token]) -> tuple[Phase, ...]:
    return (Phase(1.0, resolutions_from(tokens[-1].value)),)


_Share = Annotated[Share, Parameter(metavar="SHARE")]


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome, beside the pictures.

    Raises:
        TrainingError: a value that cannot be trained with.
    """

    model: Annotated[str, Parameter(metavar="NAME", help="see models")]
    seed: Annotated[int, option(SEEDS), Parameter(metavar="S")] = 0
    epochs: Annotated[
        Epochs,
        Parameter(group=LENGTH, metavar="N", help="passes over the pictures; need not be whole"),
    ] = 10.0
    batch_size: Annotated[int, option(Whole(2, 65_536)), Parameter(metavar="B")] = 128
    #: A name that timm's `create_optimizer_v2` knows.
    optimizer: Annotated[str, Parameter(help="a name of timm's")] = "muon"
    learning_rate: Annotated[float, option(Real(1e-9, 100))] = 2e-3
    weight_decay: Annotated[float, _NO_OPTION] = 0.05
    warmup: Annotated[float, _NO_OPTION] = 0.05
    label_smoothing: Annotated[float, _NO_OPTION] = 0.1
    mixup_alpha: Annotated[float, _NO_OPTION] = 0.2
    cutmix_alpha: Annotated[float, _NO_OPTION] = 1.0
    #: Half of these steps mix by cutmix.
    mix_probability: Annotated[
        _Share,
        Parameter(
            name="--mix",
            help="of the steps that mix pictures in pairs (mixup, cutmix), 0 to 1",
        ),
    ] = 0.5
    color_jitter: Annotated[float, _NO_OPTION] = 0.3
    #: A picture is first made coarser, and then compressed (`RandomQuality`).
    coarser_probability: Annotated[
        _Share,
        Parameter(name="--coarser", help="of the pictures that are made coarser at random, 0 to 1"),
    ] = 0.5
    compressed_probability: Annotated[
        _Share,
        Parameter(name="--compressed", help="of the pictures compressed at random, 0 to 1"),
    ] = 0.0
    #: The coarsest source's shorter side is best.
    sharpest_side: Annotated[
        int,
        option(TRAINED_SIDES),
        Parameter(
            name="--sharpest",
            metavar="PX",
            help="no picture keeps more pixels along its shorter side",
        ),
    ] = STORED_SIDE
    drop_path: Annotated[float, _NO_OPTION] = 0.0
    ema_decay: Annotated[float, _NO_OPTION] = 0.996
    phases: Annotated[
        tuple[Phase, ...],
        Parameter(
            name="--resolutions",
            negative="",
            accepts_keys=False,
            n_tokens=1,
            converter=_one_phase,
            show_default=False,
            metavar="PX,…",
            help="train at these sizes alone, such as 96 or 96,128",
        ),
    ] = PHASES
    #: SHA-256 of the weights to start from, if any.
    initial_weights: Annotated[str | None, _NO_OPTION] = None

    def __post_init__(self) -> None:
        self._require_known_names()
        if self.seed < 0:
            raise TrainingError("The seed must be 0 or more.")
        if not 0 < self.epochs < math.inf:
            raise TrainingError("The epochs must be more than 0.")
        if self.batch_size < 2 or self.batch_size % 2:
            raise TrainingError("The batch size must be even, since pictures are mixed in pairs.")
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

    def _require_known_names(self) -> None:
        # Here, since printing the options must take no time.
        from timm.optim import list_optimizers

        from sima_core.models.architectures import ARCHITECTURES

        if self.model not in ARCHITECTURES:
            raise TrainingError(f"There is no architecture {plain(self.model)!r}: see models.")
        if self.optimizer not in list_optimizers():
            raise TrainingError(
                f"timm has no optimiser {plain(self.optimizer)!r}: try muon or adamw."
            )

    def phase(self, progress: float) -> Phase:
        """The phase at `progress`, from 0 to 1."""
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])

    def resolution(self, step: int, num_steps: int) -> int:
        """The input side of one step, in pixels."""
        chosen = numbers_for(self.seed, step, "resolution").choice
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


def numbers_for(seed: int, step: int, purpose: str) -> random.Random:
    """The random numbers of one step for one purpose; what was drawn before makes no difference."""
    return random.Random(f"{seed} {step} {purpose}")
