"""Turn a pickled checkpoint into safetensors: the task of a sandbox.

``torch.load(weights_only=True)`` runs no code from a file, but hostile bytes can still crash the
interpreter, exhaust its memory or keep it busy for ever. So `sima_core.weights.formats` has
`convert` called in a child process with limits (`sima_core.sandbox`), and reads only its results.
Of sima_core only what is small is imported here, so that the child is small too.
"""

import argparse
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from sima_core.weights import tensors

#: The one class beside tensors and plain containers that is made from a pickle: scripts' arguments.
ALLOWED_CLASSES = (argparse.Namespace,)
#: The most tensors, optimizers' included, and the longest pickle in a zip, in bytes.
MAX_ENTRIES, MAX_PICKLE_BYTES = 20_000, 32 * 2**20

_ALLOCATION_FAILED = ("allocate memory", "bad_alloc", "ENOMEM", "not enough memory")


class UnusableError(Exception):
    """There are no weights; says of which kind the reason is, and a name from the file."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = detail


def convert(source: BinaryIO, out: BinaryIO, max_bytes: int) -> dict[str, str | None]:
    """Write the weights in `source` to `out`, as safetensors.

    Args:
        max_bytes: the most weights that are written.

    Returns:
        ``architecture``, from a training script's arguments, or None; or ``error``, one of "code",
        "truncated", "torchscript", "no weights" and "not a checkpoint", and ``detail``.

    Raises:
        MemoryError: there is less than it takes.
    """
    try:
        state_dict, architecture = weights_in(read(source))
        if sum(t.numel() * t.element_size() for t in state_dict.values()) > max_bytes:
            raise UnusableError("no weights")  # a tensor can claim any size by repeating one number
    except UnusableError as error:
        return {"error": error.kind, "detail": error.detail}
    tensors.write(state_dict, out)
    return {"architecture": architecture}


def read(source: BinaryIO) -> object:
    """What torch.save wrote.

    Raises:
        UnusableError: it cannot be read without running code, or not at all.
        MemoryError: there is less than it takes.
    """
    source.seek(0)
    zipped = source.read(4) == b"PK\x03\x04"
    if zipped:
        _require_plain_zip(source)
    source.seek(0)
    # By its own name a zip can be mapped, so that only what is used of it takes memory.
    name = Path("/proc/self/fd", str(source.fileno()))
    mapped = zipped and name.exists()
    try:
        with torch.serialization.safe_globals(list(ALLOWED_CLASSES)):
            return torch.load(
                name if mapped else source, map_location="cpu", weights_only=True, mmap=mapped
            )
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise UnusableError("code", code[1][:100]) from None
        raise UnusableError("not a checkpoint") from None
    except MemoryError:
        raise
    except (EOFError, OSError):
        raise UnusableError("truncated") from None
    except RuntimeError as error:
        raise _explained(str(error)) from None
    except Exception:  # damaged bytes can fail anywhere inside the unpickler
        raise UnusableError("not a checkpoint") from None


def _explained(said: str) -> Exception:
    """What torch's own words mean."""
    if any(words in said for words in _ALLOCATION_FAILED):
        return MemoryError()
    if "TorchScript" in said:
        return UnusableError("torchscript")
    cut_off = any(word in said for word in ("PytorchStreamReader", "unexpected"))
    return UnusableError("truncated" if cut_off else "not a checkpoint")


def _require_plain_zip(source: BinaryIO) -> None:
    """Refuse what torch.save does not write: packed or endless entries, or more than the file."""
    if not zipfile.is_zipfile(source):  # the directory at a zip's end is missing
        raise UnusableError("truncated")
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        raise UnusableError("truncated") from None
    if any(e.filename.endswith("/constants.pkl") for e in entries):
        raise UnusableError("torchscript")
    pickles = [e.file_size for e in entries if e.filename.endswith(".pkl")]
    if (
        len(entries) > MAX_ENTRIES
        or max(pickles, default=0) > MAX_PICKLE_BYTES
        or any(e.compress_type != zipfile.ZIP_STORED for e in entries)
        or sum(e.file_size for e in entries) > os.fstat(source.fileno()).st_size
    ):
        raise UnusableError("not a checkpoint")


def weights_in(loaded: object) -> tuple[dict[str, Tensor], str | None]:
    """The weights in what torch.save wrote: a training script's dict, or the weights alone.

    Raises:
        UnusableError: it holds none.
    """
    if not isinstance(loaded, Mapping):
        raise UnusableError("no weights")
    args = loaded.get("args")
    architecture = getattr(args, "model", None) if isinstance(args, argparse.Namespace) else None
    weights: object = loaded
    for key in ("model", "model_ema", "state_dict"):
        if isinstance(loaded.get(key), Mapping):
            weights = loaded[key]
            break
    state_dict = dict(cast(Mapping[Any, Any], weights))
    if not 0 < len(state_dict) <= tensors.MAX_TENSORS or not all(
        tensors.fits(name, value) for name, value in state_dict.items()
    ):
        raise UnusableError("no weights")
    return state_dict, architecture[:200] if isinstance(architecture, str) else None
