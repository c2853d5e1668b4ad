"""Read every form that weights come in, without running code from it."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, cast

import torch
from torch import Tensor

from sima_core.sandbox.sandbox import BrokenError, Limits, Sandbox, TooLargeError, TooSlowError
from sima_core.weights.provenance import Labels, labels_from
from sima_core.weights.sentences import CheckpointError
from sima_core.weights.short_json import parsed_json
from sima_core.weights.tensors import (
    MAX_HEADER_BYTES,
    MAX_WEIGHTS_BYTES,
    NO_CHECKPOINT,
    NO_WEIGHTS,
    TRUNCATED,
    read_header,
)

#: Seconds after which reading a pickle is given up, beside those that a slow disk needs.
UNPICKLE_SECONDS = 4.0
#: Bytes that a slow disk gives in a second.
SLOW_DISK = 200 * 2**20
#: Bytes that reading a pickle may take beyond the size of its file.
UNPICKLE_MEMORY = 2**28

_SANDBOX = Sandbox("sima_core.weights.unpickle")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_SAVE = "save only the state dict, with torch.save(model.state_dict(), …)."


@dataclass(frozen=True)
class Contents:
    """What a weights file holds."""

    #: The tensors without memory, on the device "meta", to judge names and shapes by.
    outline: dict[str, Tensor]
    #: Reads the tensors themselves; while the file is open.
    load: Callable[[], dict[str, Tensor]]
    architecture: str | None
    labels: Labels | None = None


def read_file(file: BinaryIO, shown_as: str) -> Contents:
    """Read any supported file without running code from it.

    Args:
        file: a real one, such as `files.open_regular` gives.
        shown_as: what the file is called in sentences.

    Raises:
        CheckpointError: it holds no weights, or damaged ones, or takes too much to read.
        OSError: it cannot be read.
    """
    head = _part(file, 0, 16)
    if not head:
        raise CheckpointError(f"{shown_as} is empty: copy or download it again.")
    if head[8:9] == b"{":
        return _read_safetensors(file, shown_as)
    if head.startswith((_ZIP, _PICKLE)):
        return _read_pickle(file, shown_as)
    raise CheckpointError(NO_CHECKPOINT.format(shown_as))


def _part(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)


def _read_safetensors(file: BinaryIO, shown_as: str) -> Contents:
    size = os.fstat(file.fileno()).st_size
    header = read_header(lambda begin, end: _part(file, begin, end), size, shown_as)

    def load() -> dict[str, Tensor]:
        # Read, not mapped: a mapped file that somebody shortens ends the whole process.
        data = torch.empty(header.data_bytes, dtype=torch.uint8).numpy().data
        file.seek(header.data_start)
        done = 0
        while done < len(data):
            count = cast(io.BufferedReader, file).readinto(data[done:])
            if not count:
                raise CheckpointError(TRUNCATED.format(shown_as))
            done += count
        return header.tensors(data)

    labels = labels_from(parsed_json(header.metadata.get("labels", "")))
    return Contents(header.outline(), load, header.metadata.get("architecture"), labels)


def _read_pickle(file: BinaryIO, shown_as: str) -> Contents:
    """Read a pickle in a child process, so that hostile bytes can harm nothing but that child."""
    size = os.fstat(file.fileno()).st_size
    most = min(size + 2**26, MAX_WEIGHTS_BYTES)  # two names may share one tensor
    seconds = UNPICKLE_SECONDS + min(size, MAX_WEIGHTS_BYTES) / SLOW_DISK
    limits = Limits(seconds, size + UNPICKLE_MEMORY, most + MAX_HEADER_BYTES)
    try:
        found = _SANDBOX.run("sima_core.weights.unpickle:convert", file, limits, max_bytes=most)
    except TooSlowError:
        raise CheckpointError(f"{shown_as} takes too long to read: {_SAVE}") from None
    except TooLargeError:
        raise CheckpointError(f"{shown_as} takes too much memory to read: {_SAVE}") from None
    except BrokenError:
        raise CheckpointError(NO_CHECKPOINT.format(shown_as)) from None
    finally:
        file.seek(0, os.SEEK_END)  # the child moved the place in the file, which is shared
    if "architecture" in found.answer:
        data = found.data
        header = read_header(lambda begin, end: bytes(data[begin:end]), len(data), shown_as)
        return Contents(
            header.outline(),
            lambda: header.tensors(data[header.data_start :]),
            found.answer["architecture"],
        )
    messages = {
        "code": (
            f"{shown_as} holds code ({found.answer['detail'][:40]}), which is never run: {_SAVE}"
        ),
        "truncated": TRUNCATED.format(shown_as),
        "torchscript": (
            f"{shown_as} is a TorchScript program, not weights: save the state dict instead."
        ),
        "no weights": NO_WEIGHTS.format(shown_as),
        "not a checkpoint": NO_CHECKPOINT.format(shown_as),
    }
    raise CheckpointError(messages[found.answer["error"]])


def without_wrappers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefixes that DistributedDataParallel and torch.compile put before every name."""
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): t for name, t in state_dict.items()}
    return state_dict
