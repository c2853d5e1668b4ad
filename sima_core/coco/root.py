"""Where COCO lies on this machine."""

import os
from pathlib import Path

from sima_core.files import cache_folder

#: The environment variable that names a COCO root.
ROOT_VARIABLE = "SIMA_COCO_ROOT"


#: The splits of COCO 2017 with pictures; test2017 has no annotations.
SPLITS = ("val2017", "train2017", "test2017")


#: Said where there is no COCO at all.
NO_COCO = (
    "There is no COCO here yet: `python -m sima_core coco download --images 100` fetches a hundred "
    f"pictures with their objects, or name a folder that has COCO with {ROOT_VARIABLE}."
)


class CocoError(ValueError):
    """COCO data are absent or broken; the message says what to do, without a path."""


def default_root() -> Path:
    """The root that downloads go to where none is named."""
    return cache_folder() / "coco"


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
        raise CocoError(
            f"{'--coco' if named else ROOT_VARIABLE} names a folder that is no COCO root: expected "
            "annotations/instances_val2017.json in it, and the pictures in val2017/."
        )
    return None


def named_root(named: str | Path | None = None) -> Path | None:
    """The folder that was `named`, else the one in the environment; it need not be there.

    Raises:
        CocoError: it begins with the home of somebody who does not exist.
    """
    given = named or os.environ.get(ROOT_VARIABLE)
    try:
        return Path(given).expanduser() if given else None
    except RuntimeError:
        raise CocoError("The COCO folder begins with ~ and a name that nobody has here.") from None


def available_splits(root: Path) -> list[str]:
    """The splits that a root has a list of pictures for."""
    return [split for split in SPLITS if annotations_file(root, split).is_file()]
