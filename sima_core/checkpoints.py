"""Load weights from any of the forms they come in, safely, and say where they came from."""

import difflib
import errno
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx2
import timm
import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from timm.data import ImageNetInfo
from torch import Tensor, nn

from .models import ARCHITECTURES, create_model, parameter_shapes, translate_names

ASSETS = Path(__file__).resolve().parent.parent / "assets"
#: The bundled trained weights, with their `labels.json` beside them.
DEFAULT_CHECKPOINT = ASSETS / "sima_nano_12_p16.safetensors"

#: Folders of bundled weights, each file named after its architecture, with `labels.json` beside it.
BUNDLED_FOLDERS = (ASSETS, ASSETS / "twins")

HUB_PREFIX = "hf-hub:"
#: The largest file taken from the Hub, in bytes: the largest architecture in float32 and a margin.
MAX_HUB_BYTES = 800 * 2**20
#: More classes than any public data set has; a larger head is a broken or hostile file.
MAX_CLASSES = 100_000

#: Seconds after which reading a pickle is given up.
UNPICKLE_SECONDS = 120
#: The largest config.json or labels.json that is read, in bytes.
MAX_JSON_BYTES = 4 * 2**20

_UNPICKLE = Path(__file__).with_name("unpickle.py")
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_TRUNCATED = "{} is truncated: its end is missing. Copy or download it again."
_NO_CHECKPOINT = (
    "{} is not a checkpoint: expected a .safetensors file or one saved with torch.save."
)


#: What weights without a name may be: of architectures that share their shapes, only the first.
_GUESSED = [
    name
    for name in ARCHITECTURES
    if not name.endswith(("_1h", "_384")) and not name.startswith(("sima_cvt", "plain_"))
]


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why, and what to do, in one sentence or two."""


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
class _Contents:
    """What a weights file holds."""

    state_dict: dict[str, Tensor]
    architecture: str | None
    labels: "_Labels | None" = None


@dataclass(frozen=True)
class _Labels:
    """Class names, and the data sets they come from."""

    names: tuple[str, ...]
    sources: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


def provenance(model: nn.Module) -> Provenance:
    """The provenance of a model that `load_model` gave.

    Raises:
        ValueError: the model was not made by `load_model`.
    """
    found = getattr(model, "provenance", None)
    if not isinstance(found, Provenance):
        raise ValueError("this model was not made by sima_core.load_model")
    return found


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
        _require_registered(architecture)
    name = str(source)
    if name.startswith(HUB_PREFIX):
        return _load_from_hub(name.removeprefix(HUB_PREFIX), architecture)
    if isinstance(source, str) and source in ARCHITECTURES:
        if architecture not in (None, source):
            raise CheckpointError(f"{source} is not {architecture}: name one of the two.")
        return _untrained(source)
    path = Path(source)
    try:
        if path.is_file():
            labels = _read_labels(path.parent / "labels.json")
            return _load_file(path, _shown(path.name), architecture, labels)
        if path.is_dir():
            raise CheckpointError(f"{path.name} is a folder: name the checkpoint file in it.")
    except OSError as error:  # no permission, a name that is too long, a full disk
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"{_shown(path.name)} cannot be read: {reason}.") from None
    if isinstance(source, Path) or len(path.parts) > 1 or path.suffix in _WEIGHT_SUFFIXES:
        raise CheckpointError(
            f"There is no file {_shown(path.name)}: check the name and the folder."
        )
    _require_registered(name)
    raise AssertionError("unreachable: a registered name was handled above")


def load_best(architecture: str) -> nn.Module:
    """An architecture with the best weights there are; `provenance` says which they are.

    Bundled ones where they are; for timm's own models those that timm publishes on the Hub, where
    there is a network; else random ones.

    Raises:
        CheckpointError: there is no such architecture.
    """
    _require_registered(architecture)
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
    names, label_set = _class_names(num_classes, None)
    model.provenance = Provenance(  # type: ignore[assignment]  # plain attribute on a Module
        architecture, num_classes, False, architecture, None, names, label_set
    )
    return model.eval()


def _load_file(
    path: Path, shown_as: str, architecture: str | None, labels: _Labels | None
) -> nn.Module:
    contents = _read_file(path, shown_as)
    state_dict = translate_names(_without_wrappers(contents.state_dict))
    found = _architecture_of(state_dict, architecture or contents.architecture, shown_as)
    num_classes = _num_classes(state_dict)

    model = create_model(found, num_classes=num_classes, device="meta")
    counters = {k for k in state_dict if k.endswith("num_batches_tracked")}
    if wrong := [k for k, t in state_dict.items() if not (t.is_floating_point() or k in counters)]:
        raise CheckpointError(
            f"{shown_as} is quantised or complex ({_first(wrong)}): only real weights are used."
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
    names, label_set = _class_names(num_classes, labels)
    ids = labels.ids if labels is not None and len(labels.ids) == num_classes else ()
    model.provenance = Provenance(  # type: ignore[assignment]  # plain attribute on a Module
        found, num_classes, True, shown_as, file_sha256(path), names, label_set, ids
    )
    return model.eval()


def _load_from_hub(repo_id: str, architecture: str | None) -> nn.Module:
    """Download the repository's weights to a folder that is removed again, and load them."""
    shown_as = HUB_PREFIX + _shown(repo_id)
    try:
        # No token is sent: a stranger's id must not read what this machine's owner may read.
        info = HfApi(token=False).model_info(repo_id, files_metadata=True, timeout=20)
        sizes = {s.rfilename: s.size for s in info.siblings or ()}
        weights = _hub_weights(sizes, shown_as)
        with tempfile.TemporaryDirectory() as folder:

            def fetch(filename: str) -> Path:
                return Path(hf_hub_download(repo_id, filename, local_dir=folder, token=False))

            small = {name for name, size in sizes.items() if size and size <= MAX_JSON_BYTES}
            config = _read_json(fetch("config.json")) if "config.json" in small else {}
            config = config if isinstance(config, dict) else {}
            labels = _labels(config.get("label_names"))
            if labels is None and "labels.json" in small:
                labels = _read_labels(fetch("labels.json"))
            named = architecture or config.get("architecture")
            named = named if isinstance(named, str) else None
            return _load_file(fetch(weights), shown_as, named, labels)
    except (RepositoryNotFoundError, HFValidationError):
        message = (
            f"There is no public model {_shown(repo_id)!r} on the Hugging Face Hub: "
            "check owner/name."
        )
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # how the Hub client words "no network"
            message = _unreachable(shown_as)
        else:
            message = f"{shown_as} no longer has the file that its list names: try again."
    except OfflineModeIsEnabled:
        message = _unreachable(shown_as)
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        message = f"The Hugging Face Hub answered with status {status} for {shown_as}: try later."
    except CheckpointError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            message = f"There is no space left on the disk to download {shown_as}."
        else:
            message = _unreachable(shown_as)
    except httpx2.TransportError:  # what huggingface_hub lets through when it cannot connect
        message = _unreachable(shown_as)
    raise CheckpointError(message)


def _unreachable(shown_as: str) -> str:
    return (
        f"The Hugging Face Hub cannot be reached for {shown_as}: check the network, or use a file."
    )


def _hub_weights(sizes: Mapping[str, int | None], shown_as: str) -> str:
    """The weights file to take of a repository's files and their sizes in bytes."""
    candidates = [f for f in _HUB_FILES if f in sizes] or sorted(
        (f for f in sizes if f.endswith(_WEIGHT_SUFFIXES)),
        key=lambda f: (_WEIGHT_SUFFIXES.index(Path(f).suffix), f),
    )
    if not candidates:
        raise CheckpointError(f"{shown_as} holds no weights: expected a .safetensors or .pth file.")
    size = sizes[candidates[0]]
    if size is None or size > MAX_HUB_BYTES:
        shown = "an unknown size" if size is None else f"{size / 2**20:.0f} MiB"
        raise CheckpointError(
            f"{candidates[0]} of {shown_as} has {shown}; "
            f"at most {MAX_HUB_BYTES >> 20} MiB are taken."
        )
    return candidates[0]


def _read_file(path: Path, shown_as: str) -> _Contents:
    """Read any supported file without running code from it."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise CheckpointError(f"{shown_as} is empty: copy or download it again.")
    header_bytes = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= header_bytes < 2**32:
        return _read_safetensors(path, shown_as)
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):  # the directory at a zip's end is missing
            raise CheckpointError(_TRUNCATED.format(shown_as))
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        except zipfile.BadZipFile:
            raise CheckpointError(_TRUNCATED.format(shown_as)) from None
        if unpacked > 2 * path.stat().st_size + 2**20:  # torch.save does not compress
            raise CheckpointError(_NO_CHECKPOINT.format(shown_as))
    elif not head.startswith(b"\x80"):  # neither zip nor pickle
        raise CheckpointError(_NO_CHECKPOINT.format(shown_as))
    return _read_pickle(path, shown_as)


def _read_safetensors(path: Path, shown_as: str) -> _Contents:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            named = _labels(_parsed(metadata.get("labels", "")))
            return _Contents(tensors, metadata.get("architecture"), named)
    except (SafetensorError, OSError):
        text = _TRUNCATED if _safetensors_cut_off(path) else _NO_CHECKPOINT
        raise CheckpointError(text.format(shown_as)) from None


def _safetensors_cut_off(path: Path) -> bool:
    """Whether a .safetensors file is shorter than its header says."""
    content_size = path.stat().st_size - 8
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if header_size > content_size:
            return True
        try:
            header = json.loads(file.read(header_size))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
            return header_size + max(ends, default=0) > content_size
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return False  # not a header at all


def _read_pickle(path: Path, shown_as: str) -> _Contents:
    """Read a pickle in a child process, so that hostile bytes can harm nothing but that child."""
    with tempfile.TemporaryDirectory() as folder:
        tensors, answer_file = Path(folder, "tensors.safetensors"), Path(folder, "answer.json")
        size = path.stat().st_size
        most_weights = 2 * size + 2**20  # two names may share one tensor
        most_memory = 4 * size + 8 * 2**30  # torch maps several GiB that it never touches
        arguments = (path, tensors, answer_file, most_weights, most_memory)
        try:
            subprocess.run(
                [sys.executable, str(_UNPICKLE), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=UNPICKLE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CheckpointError(_NO_CHECKPOINT.format(shown_as)) from None
        answer = json.loads(answer_file.read_text("utf-8")) if answer_file.exists() else {}
        if "architecture" in answer:
            contents = _read_safetensors(tensors, shown_as)
            return _Contents(contents.state_dict, answer["architecture"])
    kind, _, detail = answer.get("error", "not a checkpoint").partition(": ")
    messages = {
        "code": (
            f"{shown_as} holds code ({detail}), which is never run: "
            "save only the state dict, with torch.save(model.state_dict(), …)."
        ),
        "truncated": _TRUNCATED.format(shown_as),
        "torchscript": (
            f"{shown_as} is a TorchScript program, not weights: save the state dict instead."
        ),
        "no weights": (
            f"{shown_as} holds no weights: expected parameter names with tensors, "
            "or a dict that has them under 'model'."
        ),
        "not a checkpoint": _NO_CHECKPOINT.format(shown_as),
    }
    raise CheckpointError(messages[kind])


def _without_wrappers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefixes that DistributedDataParallel and torch.compile put before every name."""
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): t for name, t in state_dict.items()}
    return state_dict


def _require_registered(name: str, shown_as: str | None = None) -> None:
    """Raise a CheckpointError that suggests the nearest name unless `name` is registered."""
    if name in ARCHITECTURES:
        return
    says = f"{shown_as} says that it holds" if shown_as else "There is no architecture"
    if timm.is_model(name):
        raise CheckpointError(
            f"{says} {_shown(name)!r}, which is not an architecture of SimA Lens: "
            "`python -m sima_core models` lists those."
        )
    nearest = difflib.get_close_matches(name, ARCHITECTURES, n=3, cutoff=0.5)
    hint = (
        f"Did you mean {' or '.join(nearest)}?"
        if nearest
        else ("`python -m sima_core models` lists them all.")
    )
    unknown = ", which is not registered" if shown_as else ""
    raise CheckpointError(f"{says} {_shown(name)!r}{unknown}. {hint}")


def _num_classes(state_dict: Mapping[str, Tensor]) -> int:
    return state_dict["head.bias"].shape[0]


def _architecture_of(state_dict: dict[str, Tensor], named: str | None, shown_as: str) -> str:
    """The architecture whose parameters these are; the name given must agree with the shapes.

    Raises:
        CheckpointError: no architecture, or not the named one, has these parameters.
    """
    if named is not None:
        _require_registered(named, shown_as)
    shapes = {name: tensor.shape for name, tensor in state_dict.items()}
    candidates = [named] if named else _GUESSED
    agreement = {name: _agreement(shapes, name) for name in candidates}
    best = max(candidates, key=lambda name: agreement[name])
    if not named and agreement[best] < 0.5:
        raise CheckpointError(
            f"{shown_as} holds another kind of model: its parameters (such as "
            f"{_first(sorted(shapes))}) are of no registered architecture."
        )
    expected = _expected_shapes(shapes, best)
    wrong = [n for n in expected if n in shapes and shapes[n] != expected[n]]
    if wrong and named:
        fitting = [n for n in _GUESSED if _agreement(shapes, n) == 1.0]
        name = wrong[0]
        detail = f"{_shown(name)} is {_shape(shapes[name])} and should be {_shape(expected[name])}."
        hint = f"They are those of {fitting[0]}." if fitting else detail
        raise CheckpointError(f"The shapes in {shown_as} are not those of {named}. {hint}")
    missing = [n for n in expected if n not in shapes and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in shapes if n not in expected]
    found = {"missing": missing, "unexpected": unexpected, "wrongly shaped": wrong}
    problems = [f"{kind} {_first(names)}" for kind, names in found.items() if names]
    if problems:
        raise CheckpointError(f"{shown_as} does not fit {best}: {'; '.join(problems)}.")
    return best


def _expected_shapes(shapes: Mapping[str, torch.Size], architecture: str) -> dict[str, torch.Size]:
    """`architecture`'s shapes with as many classes as the head in `shapes`, where that is sound."""
    expected = dict(parameter_shapes(architecture))
    bias = shapes.get("head.bias", torch.Size())
    if len(bias) == 1 and 1 <= bias[0] <= MAX_CLASSES:
        expected["head.bias"] = bias
        expected["head.weight"] = torch.Size([bias[0], expected["head.weight"][1]])
    return expected


def _agreement(shapes: Mapping[str, torch.Size], architecture: str) -> float:
    """The share of all names, here or there, whose shapes agree; from 0 to 1."""
    expected = _expected_shapes(shapes, architecture)
    both = sum(shapes.get(name) == shape for name, shape in expected.items())
    return both / len(shapes.keys() | expected.keys())


def _first(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(_shown, names[:count])) + more


def _shown(name: str, length: int = 80) -> str:
    """A name from a file, made fit for a sentence: no markup, no endless line."""
    plain = re.sub(r"[^\w .\-/]", "?", name)
    return plain if len(plain) <= length else plain[:length] + "…"


def _shape(size: torch.Size) -> str:
    return "×".join(map(str, size)) if size else "a single number"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _labels(value: object) -> _Labels | None:
    """Class names from a list of strings or of ``{"id": …, "name": …}``; None if it is neither.

    An id tells the source: a WordNet id is ImageNet's, ``caltech101/ant`` is of caltech101.
    """
    if not isinstance(value, list) or not value:
        return None
    names = [v.get("name") if isinstance(v, dict) else v for v in value]
    if not all(isinstance(name, str) for name in names):
        return None
    ids = [str(v.get("id", "")) for v in value if isinstance(v, dict)]
    sources = {"ImageNet" for i in ids if re.fullmatch(r"n\d{8}", i)}
    sources |= {i.split("/")[0] for i in ids if "/" in i}
    return _Labels(tuple(map(str, names)), tuple(sorted(sources)), tuple(ids))


def _read_labels(path: Path) -> _Labels | None:
    """Class names from a `labels.json`; None if it is absent or not such a list."""
    return _labels(_read_json(path))


def _read_json(path: Path) -> object:
    """What a JSON file of bearable size holds; None if it cannot be read."""
    try:
        small = path.stat().st_size <= MAX_JSON_BYTES
        return _parsed(path.read_text(encoding="utf-8")) if small else None
    except (OSError, ValueError):
        return None


def _parsed(text: str) -> object:
    """What a JSON text of bearable size says; None if it is none."""
    try:
        return json.loads(text) if len(text) <= MAX_JSON_BYTES else None
    except (ValueError, RecursionError):
        return None


def _class_names(num_classes: int, labels: _Labels | None) -> tuple[tuple[str, ...], str]:
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
