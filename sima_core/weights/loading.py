"""Load weights from any of the forms they come in, safely, and say where they came from."""

import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import timm
import torch
from torch import Tensor, nn

from sima_core.errors import UnreadableError
from sima_core.files import ASSETS, open_regular, reason
from sima_core.models.architectures import ARCHITECTURES, create_model, translate_names
from sima_core.weights.formats import read_file, without_wrappers
from sima_core.weights.hub import HUB_PREFIX, WEIGHT_SUFFIXES, fetch
from sima_core.weights.matching import architecture_of, num_classes_of, require_registered
from sima_core.weights.provenance import Labels, Provenance, class_names, read_labels
from sima_core.weights.sentences import CheckpointError, first_names
from sima_core.words import SHOWN, shown

#: The bundled trained weights, with their `labels.json` beside them.
DEFAULT_CHECKPOINT = ASSETS / "sima_nano_12_p16.safetensors"

#: The types of numbers that weights may have; quantised ones mean nothing without their scales.
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: Folders of bundled weights, each file named after its architecture, with `labels.json` beside it.
BUNDLED_FOLDERS = (ASSETS, ASSETS / "twins")


def load_model(
    source: str | Path = DEFAULT_CHECKPOINT, architecture: str | None = None
) -> nn.Module:
    """A model in eval mode, float32, from `source`; `provenance` tells the rest.

    Args:
        source: a file (a published training script's, a bare state dict, or .safetensors), the
            name of an architecture (untrained weights), or ``hf-hub:owner/name``.
        architecture: overrides the name in the file; else that name decides, else the shapes.
            Shapes do not tell single-head variants (``…_1h``) from the others, nor CvT with SimA
            from CvT with softmax: without a name, the latter of each two is taken.

    A pickle never runs code: only tensors, plain containers and `argparse.Namespace` are read, and
    in a child process with limits (`unpickle.py`). Where a stranger names the source, use
    `load_file` or `load_from_hub`, which take it for nothing else.
    Class names come from ``labels.json`` beside the file, the Hub repository's ``config.json``,
    the metadata of a .safetensors file that was trained here, or, for 1000 classes, ImageNet-1k.

    Raises:
        CheckpointError: the weights cannot be used; its message is one clear sentence or two.
    """
    name = str(source)
    if name.startswith(HUB_PREFIX):
        return load_from_hub(name.removeprefix(HUB_PREFIX), architecture)
    if isinstance(source, str) and source in ARCHITECTURES:
        if architecture not in (None, source):
            require_registered(architecture)
            raise CheckpointError(f"{source} is not {architecture}: name one of the two.")
        return _untrained(source)
    path = Path(source)
    is_word = isinstance(source, str) and len(path.parts) < 2 and path.suffix not in WEIGHT_SUFFIXES
    if is_word and not os.path.lexists(path):
        require_registered(name)
    return load_file(path, architecture)


def load_file(path: Path, architecture: str | None = None) -> nn.Module:
    """A model from a file; as `load_model`, but whatever `path` is, it names a file.

    Raises:
        CheckpointError: as `load_model`.
    """
    if architecture is not None:
        require_registered(architecture)
    shown_as = shown(path.name, SHOWN)
    try:
        if not os.path.lexists(path):
            raise CheckpointError(f"There is no file {shown_as}: check the name and the folder.")
        with open_regular(path) as file:
            labels = read_labels(path.parent / "labels.json")
            return _load(file, shown_as, architecture, labels)
    except UnreadableError as error:
        raise CheckpointError(f"{shown_as or 'A name'} cannot be opened. {error}") from None
    except OSError as error:  # a bad disk, or a full one
        raise CheckpointError(f"{shown_as} cannot be read: {reason(error)}.") from None


def load_from_hub(repo_id: str, architecture: str | None = None) -> nn.Module:
    """A model from the Hugging Face Hub; whatever `repo_id` is, it names no file of this machine.

    Raises:
        CheckpointError: as `load_model`.
    """
    if architecture is not None:
        require_registered(architecture)
    with tempfile.TemporaryDirectory() as folder:
        found = fetch(repo_id, Path(folder))
        with open_regular(found.weights) as file:
            named = architecture or found.architecture
            return _load(file, found.shown_as, named, found.labels)


def load_best(architecture: str) -> nn.Module:
    """An architecture with the best weights there are; `provenance` says which they are.

    Bundled ones where they are; for timm's own models those that timm publishes on the Hub, where
    there is a network; else random ones.

    Raises:
        CheckpointError: there is no such architecture.
    """
    require_registered(architecture)
    for folder in BUNDLED_FOLDERS:
        if (bundled := folder / f"{architecture}.safetensors").exists():
            return load_model(bundled)
    published = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    if published is not None and published.hf_hub_id:
        try:
            return load_model(f"{HUB_PREFIX}{published.hf_hub_id}", architecture)
        except CheckpointError:
            pass  # no network, or another's weights: said by the provenance
    return load_model(architecture)


def _untrained(architecture: str) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # the same weights every time
        model = create_model(architecture)
    num_classes = cast(int, model.num_classes)
    names, label_set = class_names(num_classes, None)
    model.provenance = Provenance(  # type: ignore[assignment]  # plain attribute on a Module
        architecture, num_classes, False, architecture, None, names, label_set
    )
    return model.eval()


def _load(
    file: BinaryIO, shown_as: str, architecture: str | None, labels: Labels | None
) -> nn.Module:
    """The model from an open file, whose shapes are judged before its weights are read."""
    contents = read_file(file, shown_as)
    outline = _our_names(contents.outline)
    found = architecture_of(outline, architecture or contents.architecture, shown_as)
    num_classes = num_classes_of(outline)
    if wrong := [k for k, t in outline.items() if t.dtype not in REAL and not _is_counter(k)]:
        raise CheckpointError(
            f"{shown_as} is quantised or complex ({first_names(wrong)}): "
            "only real weights are used."
        )
    model = create_model(found, num_classes=num_classes, device="meta")
    _fill(model, _our_names(contents.load()))
    known = (found for found in (labels, contents.labels) if found is not None)
    labels = next((found for found in known if len(found.names) == num_classes), None)
    names, label_set = class_names(num_classes, labels)
    ids = labels.ids if labels is not None and len(labels.ids) == num_classes else ()
    model.provenance = Provenance(  # type: ignore[assignment]  # plain attribute on a Module
        found, num_classes, True, shown_as, _sha256(file), names, label_set, ids
    )
    return model.eval()


def _our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return translate_names(without_wrappers(state_dict))


def _is_counter(name: str) -> bool:
    """Whether it counts BatchNorm's batches: it plays no part in eval mode, and may be absent."""
    return name.endswith("num_batches_tracked")


def _fill(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Give a model without memory its weights, as float32."""
    tensors = {k: t if _is_counter(k) else t.float() for k, t in state_dict.items()}
    for key, value in model.state_dict().items():
        if _is_counter(key):
            tensors.setdefault(key, torch.zeros_like(value, device="cpu"))
    model.load_state_dict(tensors, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
