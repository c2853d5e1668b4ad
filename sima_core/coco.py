"""COCO: where it lies, its pictures and objects, and which of them to show. Built on pycocotools."""

import os
from pathlib import Path

from .runtime import cache_folder

#: The environment variable that names a COCO root.
ROOT_VARIABLE = "SIMA_COCO_ROOT"
#: The splits of COCO 2017 with pictures; test2017 has no annotations.
SPLITS = ("val2017", "train2017", "test2017")


class CocoError(ValueError):
    """COCO data are absent or broken; the message says what to do, without a path."""


def default_root() -> Path:
    """The root that downloads go to where none is named."""
    return cache_folder() / "coco"


def annotations_file(root: Path, split: str) -> Path:
    """Where a root keeps the list of a split's pictures and their objects."""
    kind = "image_info" if split.startswith("test") else "instances"
    return root / "annotations" / f"{kind}_{split}.json"
