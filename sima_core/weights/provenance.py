"""Where a model's weights come from, and what its classes mean."""

import re
from dataclasses import dataclass
from pathlib import Path

from timm.data import ImageNetInfo
from torch import nn

from sima_core.errors import InputError
from sima_core.files import open_regular
from sima_core.weights.short_json import MAX_JSON_BYTES, parsed_json
from sima_core.words import plain

#: More classes than any public data set has; a larger head is a broken or hostile file.
MAX_CLASSES = 100_000
#: Characters of the longest name of a class that is kept whole.
MAX_CLASS_NAME = 100
#: The most data sets that a label set is named after.
MAX_SOURCES = 3


@dataclass(frozen=True)
class Provenance:
    """Where a model's weights come from and what its classes mean."""

    architecture: str
    num_classes: int
    #: False for weights as initialised; say so wherever the model's results are shown.
    trained: bool
    #: File name, Hub id or architecture name; never a path.
    source: str
    #: SHA-256 of the weights file, hexadecimal; None for untrained weights.
    sha256: str | None
    #: One name a class, in the order of the head; ``class 17`` where names are unknown.
    labels: tuple[str, ...]
    #: The label set in words, such as ``the 1000 classes of ImageNet-1k``.
    label_set: str
    #: One identifier a class where the labels have them, such as WordNet ids; else empty.
    class_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labels:
    """Class names, and the data sets they come from."""

    names: tuple[str, ...]
    sources: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


def weights_in_words(origin: Provenance | None) -> str:
    """The weights' source, or that they are untrained, or that nobody knows."""
    if origin is None:
        return "weights of unknown origin"
    return origin.source if origin.trained else "untrained weights"


def provenance(model: nn.Module) -> Provenance:
    """The provenance of a model that `load_model` gave.

    Raises:
        InputError: the model was not made by `load_model`.
    """
    found = getattr(model, "provenance", None)
    if not isinstance(found, Provenance):
        raise InputError("this model was not made by sima_core.load_model")
    return found


def labels_from(value: object) -> Labels | None:
    """Class names from a list of strings or of ``{"id": …, "name": …}``; None if it is neither.

    An id tells the source: a WordNet id is ImageNet's, ``caltech101/ant`` is of caltech101. Names
    and ids are cut where they are long, and hold no control characters.
    """
    if not isinstance(value, list) or not 0 < len(value) <= MAX_CLASSES:
        return None
    given = [v.get("name") if isinstance(v, dict) else v for v in value]
    names = [_short(name) for name in given if isinstance(name, str)]
    if len(names) < len(given):
        return None
    keys = [v.get("id") for v in value if isinstance(v, dict)]
    ids = [_short(str(key)) if isinstance(key, str | int) else "" for key in keys]
    sources = {"ImageNet" for i in ids if re.fullmatch(r"n\d{8}", i)}
    sources |= {i.split("/")[0] for i in ids if "/" in i}
    return Labels(tuple(names), tuple(sorted(sources)[:MAX_SOURCES]), tuple(ids))


def _short(text: str) -> str:
    return plain(text, MAX_CLASS_NAME)


def read_labels(path: Path) -> Labels | None:
    """Class names from a `labels.json`; None if it is absent or not such a list."""
    return labels_from(read_json(path))


def read_json(path: Path) -> object:
    """What a JSON file of bearable size holds; None if it cannot be read."""
    try:
        with open_regular(path) as file:
            return parsed_json(file.read(MAX_JSON_BYTES + 1))
    except OSError:
        return None


def class_names(num_classes: int, labels: Labels | None) -> tuple[tuple[str, ...], str]:
    """A name for each class and the label set in words."""
    if labels is not None and len(labels.names) == num_classes:
        of = f" of {' and '.join(labels.sources)}" if labels.sources else " named with the weights"
        return labels.names, f"{num_classes} classes{of}"
    if num_classes == 1000:
        imagenet = ImageNetInfo("imagenet-1k")
        descriptions = (imagenet.index_to_description(i) for i in range(1000))
        return tuple(d.split(",")[0] for d in descriptions), "the 1000 classes of ImageNet-1k"
    digits = len(str(num_classes - 1))
    return tuple(
        f"class {i:0{digits}}" for i in range(num_classes)
    ), f"{num_classes} unnamed classes"
