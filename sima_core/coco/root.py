"""Where COCO lies on this machine: the root, a folder with annotations and pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from sima_core import files
from sima_core.environment import COCO_ROOT
from sima_core.errors import SimaLensError

#: The splits of COCO 2017 with pictures; test2017 has no annotations.
AnnotatedSplit = Literal["val2017", "train2017"]
Split = Literal[AnnotatedSplit, "test2017"]
SPLITS: tuple[Split, ...] = get_args(Split)
#: How the file of a picture that is all there ends.
JPEG_END = b"\xff\xd9"
#: Said where there is no COCO at all.
NO_COCO = (
    "There is no COCO here yet: `python -m sima_core coco download --images 100` fetches a hundred "
    f"pictures with their objects, or name a folder that has COCO with {COCO_ROOT.name}."
)


class CocoError(SimaLensError, ValueError):
    """COCO data are absent or broken; the message says what to do, without a path."""


class RootNotWritableError(CocoError):
    """The root takes no more files: its disk is full, or it may not be written to."""


def default_root() -> Path:
    """The root that downloads go to where none is named."""
    return files.cache_folder() / "coco"


def annotations_file(root: Path, split: str) -> Path:
    """Where a root keeps the list of a split's pictures and their objects."""
    kind = "image_info" if split.startswith("test") else "instances"
    return root / "annotations" / f"{kind}_{split}.json"


def find_root(named: str | Path | None = None) -> Path | None:
    """The COCO root: the one `named`, else that of SIMA_COCO_ROOT, else the cache's, if any.

    Raises:
        CocoError: a root that was named, here or in the environment, is not one.
    """
    given = named_root(named)
    root = given or default_root()
    if available_splits(root):
        return root
    if given:
        source = "--coco" if named else COCO_ROOT.name
        raise CocoError(
            f"{source} names a folder that is no COCO root: expected "
            "annotations/instances_val2017.json in it, and the pictures in val2017/."
        )
    return None


def named_root(named: str | Path | None = None) -> Path | None:
    """The folder that was `named`, else the one in the environment; it need not be there.

    Raises:
        CocoError: it begins with the home of somebody who does not exist.
    """
    given = named or COCO_ROOT.get()
    try:
        return Path(given).expanduser() if given else None
    except RuntimeError:
        raise CocoError("The COCO folder begins with ~ and a name that nobody has here.") from None


def available_splits(root: Path) -> list[str]:
    """The splits that a root has a list of pictures for."""
    return [split for split in SPLITS if annotations_file(root, split).is_file()]


def partial_folder(root: Path) -> Path:
    """Where files grow before they are put in place: on the root's own disk.

    Raises:
        RootNotWritableError: it cannot be made.
    """
    folder = root / ".partial"
    with writing_to_root():
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def writing_to_root() -> Iterator[None]:
    """Say in a sentence why a root cannot be written to.

    Raises:
        RootNotWritableError: in place of every OSError inside.
    """
    try:
        yield
    except OSError as error:
        if files.is_full(error):
            raise RootNotWritableError(
                "The disk is full: what is complete is kept; "
                "free some space and run the same command again."
            ) from None
        raise RootNotWritableError(
            f"The COCO folder cannot be written to ({files.reason(error)}): "
            "check its permissions, or choose another."
        ) from None
