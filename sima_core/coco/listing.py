"""A split's list of pictures and objects, read by pycocotools, with words for what is wrong."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sima_core.coco.root import CocoError, annotations_file
from sima_core.errors import MissingExtraError

try:
    from pycocotools.coco import COCO
except ModuleNotFoundError:
    raise MissingExtraError("coco") from None


def read_listing(root: Path, split: str) -> COCO:
    """The list, indexed by id.

    Raises:
        CocoError: it is absent, broken or half-written, or names no picture.
    """
    file = annotations_file(root, split)
    try:
        coco = _QuietCOCO()
        coco.dataset = json.loads(file.read_bytes())
        coco.createIndex()
    except FileNotFoundError:
        raise CocoError(f"There is no list of {split}: {fetch_again(split)}.") from None
    except OSError as error:
        raise CocoError(f"The list of {split} cannot be read: {error.strerror}.") from None
    except (ValueError, AssertionError, KeyError, TypeError, AttributeError, RecursionError):
        raise broken_list(split) from None
    if not coco.imgs:
        raise broken_list(split)
    return coco


def broken_list(split: str) -> CocoError:
    """What to raise where the list is not what it should be."""
    return CocoError(f"The list of {split} is broken or half-written: {fetch_again(split)}")


def fetch_again(split: str) -> str:
    """What to do about a list that is absent or broken, as the end of a sentence."""
    return f"fetch it anew with `python -m sima_core coco download --split {split} --annotations`"


@contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Parsing makes millions of objects and no garbage; looking for some takes half the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _QuietCOCO(COCO):  # type: ignore[misc]  # pycocotools is untyped
    """pycocotools' COCO, which prints while it reads; stdout belongs to all threads."""

    def createIndex(self) -> None:  # noqa: N802  # pycocotools' name
        """Index pictures, annotations and categories by id."""
        self.anns = {a["id"]: a for a in self.dataset.get("annotations", ())}
        self.imgs = {i["id"]: i for i in self.dataset.get("images", ())}
        self.cats = {c["id"]: c for c in self.dataset.get("categories", ())}
        for annotation in self.anns.values():
            self.imgToAnns[annotation["image_id"]].append(annotation)
            self.catToImgs[annotation["category_id"]].append(annotation["image_id"])
