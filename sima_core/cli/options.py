"""What several commands share: options, declared once, and checks before any work."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, ParamSpec, TypeVar

from cyclopts import Parameter

from sima_core import environment
from sima_core.coco.root import NO_COCO, default_root, find_root, named_root
from sima_core.errors import InputError
from sima_core.files import reason
from sima_core.numbers import Whole, whole_number

if TYPE_CHECKING:
    from sima_core.lens.lens import Lens

#: Exit statuses; a command returns the first or the second.
OK, SOME_FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

P = ParamSpec("P")
R = TypeVar("R")


Wholes = Annotated[
    list[int],
    Parameter(
        converter=lambda _, tokens: [whole_number(token.value) for token in tokens],
        consume_multiple=(1, None),
    ),
]
Layer = Annotated[Whole, Parameter(help="from 1; negative from the end")]
Resolution = Annotated[Whole, Parameter(help="shorter side of the input in pixels")]
Data = Annotated[
    list[Path],
    Parameter(
        help="folders or tar files of <class>/<picture>; what is held out lies in a folder val, or "
        "in a source whose name ends in -val"
    ),
]
Folder = Annotated[Path, Parameter(metavar="DIR", help="made if absent")]
PngFile = Annotated[Path, Parameter(metavar="FILE.png")]
JsonFile = Annotated[Path, Parameter(metavar="FILE")]

#: As `bench.sweeps` has them (DTYPES, SWEEP_SIZES) and `comparison`, with which torch comes.
Dtype = Literal["bfloat16", "float32", "float64"]
SweepOver = Literal["dim", "tokens"]
MapKind = Literal["norms", "cls", "rollout"]


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions:
    """Which model a command looks at."""

    #: The bundled one where None.
    checkpoint: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            help="a file, hf-hub:owner/name, or an architecture (untrained); default: the bundled "
            "one",
        ),
    ] = None
    architecture: Annotated[
        str | None, Parameter(metavar="NAME", help="if the file does not say")
    ] = None

    def load(self) -> "Lens":
        """The lens over that model.

        Raises:
            CheckpointError: as `Lens.load`.
        """
        from sima_core.lens.lens import Lens
        from sima_core.weights.loading import DEFAULT_CHECKPOINT

        source = DEFAULT_CHECKPOINT if self.checkpoint is None else self.checkpoint
        return Lens.load(source, self.architecture)


#: The default of every command.
BUNDLED = ModelOptions()


@Parameter(name="*")
@dataclass(frozen=True)
class CocoOptions:
    """Where COCO lies, or shall lie."""

    coco: Annotated[
        Path | None,
        Parameter(
            metavar="ROOT",
            help=f"a COCO folder; default: that of {environment.COCO_ROOT.name}, else the cache's",
        ),
    ] = None

    def root(self) -> Path:
        """The root, with COCO in it.

        Raises:
            InputError: there is none.
            CocoError: as `find_root`.
        """
        root = find_root(self.coco)
        if root is None:
            raise InputError(NO_COCO)
        return root

    def root_of_downloads(self) -> Path:
        """The same, but it need not be there yet.

        Raises:
            CocoError: as `named_root`.
        """
        return named_root(self.coco) or default_root()


#: The default of every command.
FOUND_COCO = CocoOptions()


def computes(command: Callable[P, R]) -> Callable[P, R]:
    """A command that runs models: it gets the processors and keeps the memory it may use."""

    @functools.wraps(command)
    def prepared(*args: P.args, **kwargs: P.kwargs) -> R:
        from sima_core.machine import keep_freed_memory, use_available_cpus

        use_available_cpus()
        keep_freed_memory()
        return command(*args, **kwargs)

    return prepared


def require_png(option: str, file: Path) -> None:
    """Refuse a figure's file that could not be written later, before any work.

    Raises:
        InputError: it has another suffix, or as `require_writable`.
    """
    if file.suffix.lower() != ".png":
        raise InputError(f"{option} must name a .png file")
    require_writable(file)


def require_writable(file: Path) -> None:
    """Refuse a file that could not be written later, before any work.

    Raises:
        InputError: it is a folder, in none, or may not be written.
    """
    try:
        existed = file.exists()
        with file.open("ab"):
            pass
        if not existed:
            file.unlink()
    except OSError as error:
        raise InputError(f"{file.name} cannot be written: {reason(error)}") from None
