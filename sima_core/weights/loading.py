"""Load weights from any of the forms they come in, safely, and say where they came from."""

import tempfile
from pathlib import Path
from typing import cast

import timm
import torch
from torch import nn

from sima_core.files import ASSETS, file_sha256, reason
from sima_core.models.architectures import ARCHITECTURES, create_model, translate_names
from sima_core.weights.formats import (
    CheckpointError,
    first_names,
    read_file,
    shown,
    without_wrappers,
)
from sima_core.weights.hub import HUB_PREFIX, WEIGHT_SUFFIXES, fetch
from sima_core.weights.matching import architecture_of, num_classes_of, require_registered
from sima_core.weights.provenance import Labels, Provenance, class_names, read_labels

#: The bundled trained weights, with their `labels.json` beside them.
DEFAULT_CHECKPOINT = ASSETS / "sima_nano_12_p16.safetensors"

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
    in a child process with limits (`unpickle.py`).
    Class names come from ``labels.json`` beside the file, the Hub repository's ``config.json``,
    the metadata of a .safetensors file that was trained here, or, for 1000 classes, ImageNet-1k.

    Raises:
        CheckpointError: the weights cannot be used; its message is one clear sentence or two.
    """
    if architecture is not None:
        require_registered(architecture)
    name = str(source)
    if name.startswith(HUB_PREFIX):
        with tempfile.TemporaryDirectory() as folder:
            found = fetch(name.removeprefix(HUB_PREFIX), Path(folder))
            return _load_file(
                found.weights, found.shown_as, architecture or found.architecture, found.labels
            )
    if isinstance(source, str) and source in ARCHITECTURES:
        if architecture not in (None, source):
            raise CheckpointError(f"{source} is not {architecture}: name one of the two.")
        return _untrained(source)
    path = Path(source)
    try:
        if path.is_file():
            labels = read_labels(path.parent / "labels.json")
            return _load_file(path, shown(path.name), architecture, labels)
        if path.is_dir():
            raise CheckpointError(f"{path.name} is a folder: name the checkpoint file in it.")
    except OSError as error:  # no permission, a name that is too long, a full disk
        raise CheckpointError(f"{shown(path.name)} cannot be read: {reason(error)}.") from None
    if isinstance(source, Path) or len(path.parts) > 1 or path.suffix in WEIGHT_SUFFIXES:
        raise CheckpointError(
            f"There is no file {shown(path.name)}: check the name and the folder."
        )
    require_registered(name)
    raise AssertionError("unreachable: a registered name was handled above")


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


def _load_file(
    path: Path, shown_as: str, architecture: str | None, labels: Labels | None
) -> nn.Module:
    contents = read_file(path, shown_as)
    state_dict = translate_names(without_wrappers(contents.state_dict))
    found = architecture_of(state_dict, architecture or contents.architecture, shown_as)
    num_classes = num_classes_of(state_dict)

    model = create_model(found, num_classes=num_classes, device="meta")
    counters = {k for k in state_dict if k.endswith("num_batches_tracked")}
    if wrong := [k for k, t in state_dict.items() if not (t.is_floating_point() or k in counters)]:
        raise CheckpointError(
            f"{shown_as} is quantised or complex ({first_names(wrong)}): "
            "only real weights are used."
        )
    tensors = {k: t if k in counters else t.float() for k, t in state_dict.items()}
    # BatchNorm's counter plays no part in eval mode and is absent from some exports.
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensors.setdefault(key, torch.zeros_like(value, device="cpu"))
    model.load_state_dict(tensors, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    known = (found for found in (labels, contents.labels) if found is not None)
    labels = next((found for found in known if len(found.names) == num_classes), None)
    names, label_set = class_names(num_classes, labels)
    ids = labels.ids if labels is not None and len(labels.ids) == num_classes else ()
    model.provenance = Provenance(  # type: ignore[assignment]  # plain attribute on a Module
        found, num_classes, True, shown_as, file_sha256(path), names, label_set, ids
    )
    return model.eval()
