"""What several commands share: options, declared once, and checks before any work."""

import errno
import functools
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar, get_args

from cyclopts import Parameter, Token

from sima_core import environment
from sima_core.coco.root import NO_COCO, default_root, find_root, named_root
from sima_core.errors import InputError
from sima_core.files import reason
from sima_core.numbers import IDS, LAYERS, SIDES, option
from sima_core.words import plain

if TYPE_CHECKING:
    from sima_core.lens.lens import Lens

#: Exit statuses: all is done; some of several pictures failed; nothing could be done; Ctrl-C.
OK, SOME_FAILED, NOTHING_DONE, INTERRUPTED = 0, 1, 2, 130

P = ParamSpec("P")
R = TypeVar("R")


def _ids(_: Any, tokens: Sequence[Token]) -> list[int]:
    return [IDS.read(token.value) for token in tokens]


Ids = Annotated[list[int], Parameter(converter=_ids, consume_multiple=(1, None))]
Layer = Annotated[int, option(LAYERS), Parameter(help="from 1; negative from the end")]
Resolution = Annotated[
    int, option(SIDES), Parameter(help="shorter side of the input in pixels, at most 4096")
]
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

#: As `bench.sweeps` has them (DTYPES, SWEEP_SIZES), `lens.maps` and `comparison`, with which torch
#: comes.
Dtype = Literal["bfloat16", "float32", "float64"]
SweepOver = Literal["dim", "tokens"]
MapName = Literal[
    "query", "key", "query_key", "value_weighted", "sent", "received", "class_contribution"
]
MapKind = Literal["norms", "cls", "rollout", MapName]


def one_of(choices: Any) -> Parameter:
    """What makes an option take one of many choices; says them all, and no more of what was typed.

    Args:
        choices: a `Literal`.
    """
    names = get_args(choices)

    def convert(_: Any, tokens: Sequence[Token]) -> str:
        typed = tokens[-1].value
        if typed not in names:
            raise InputError(f"{plain(typed, 12)!r} is none of {', '.join(names)}")
        return typed

    return Parameter(converter=convert)


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


def make_folder(folder: Path) -> None:
    """Make the folder that results go to, where it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {plain(folder)}: {reason(error)}") from None
    except ValueError:  # a zero byte, or half a character
        raise InputError(f"cannot make the folder {plain(folder)}: no name looks so") from None


def note_untrained(lens: "Lens", model: ModelOptions) -> None:
    """Say beside the results that they are those of untrained weights, where they are."""
    if not (lens.provenance and lens.provenance.trained):
        print(f"note: {plain(model.checkpoint)} has untrained weights", file=sys.stderr)


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
        _try_to_write(file)
    except OSError as error:
        why = reason(error)
    except ValueError:  # a zero byte, or half a character
        why = "no name of a file looks so"
    else:
        return
    raise InputError(f"{plain(file.name)} cannot be written: {why}") from None


def _try_to_write(file: Path) -> None:
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        file.touch(exist_ok=False)
        file.unlink()
        return
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        with file.open("ab"):
            return
    # Opening a pipe waits for its reader, and closing it again tells him that all was written.
    if not os.access(file, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def json_text(about: object, indent: int = 2) -> str:
    """As JSON that every reader takes: null stands for infinity and for what is not a number."""
    return json.dumps(_finite(about), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case _:
            return value
