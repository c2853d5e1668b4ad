"""Read every form that weights come in, without running code from it."""

import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sima_core.errors import SimaLensError
from sima_core.weights.provenance import Labels, labels_from, parsed_json
from sima_core.words import shown as shown  # for the rest of this room

#: Seconds after which reading a pickle is given up.
UNPICKLE_SECONDS = 120

_UNPICKLE = Path(__file__).with_name("unpickle.py")
_TRUNCATED = "{} is truncated: its end is missing. Copy or download it again."
_NO_CHECKPOINT = (
    "{} is not a checkpoint: expected a .safetensors file or one saved with torch.save."
)


class CheckpointError(SimaLensError, ValueError):
    """A checkpoint cannot be used; the message says why, and what to do, in one sentence or two."""


@dataclass(frozen=True)
class Contents:
    """What a weights file holds."""

    state_dict: dict[str, Tensor]
    architecture: str | None
    labels: "Labels | None" = None


def read_file(path: Path, shown_as: str) -> Contents:
    """Read any supported file without running code from it.

    Args:
        shown_as: what the file is called in sentences.

    Raises:
        CheckpointError: it holds no weights, or damaged ones.
        OSError: it cannot be read.
    """
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


def _read_safetensors(path: Path, shown_as: str) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            named = labels_from(parsed_json(metadata.get("labels", "")))
            return Contents(tensors, metadata.get("architecture"), named)
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


def _read_pickle(path: Path, shown_as: str) -> Contents:
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
            return Contents(contents.state_dict, answer["architecture"])
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


def without_wrappers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefixes that DistributedDataParallel and torch.compile put before every name."""
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): t for name, t in state_dict.items()}
    return state_dict


def first_names(names: list[str], count: int = 3) -> str:
    """The first few names, and how many more there are; fit for a sentence."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(shown, names[:count])) + more


def shape_in_words(size: torch.Size) -> str:
    """Such as ``128×3``, or that it is a single number."""
    return "×".join(map(str, size)) if size else "a single number"
