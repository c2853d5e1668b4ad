"""The safetensors format, read and written within limits.

A file begins with the length of its header, 8 bytes, and the header, JSON that says of each tensor
its type, shape and place among the bytes that follow: https://huggingface.co/docs/safetensors. Here
a header is parsed only if it is short, and believed only if all that it says fits together, so that
a stranger's header costs no more than a good one. Nothing here knows architectures.
"""

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sima_core.weights.sentences import CheckpointError
from sima_core.weights.short_json import parsed_json
from sima_core.words import SHOWN, shown

#: The longest header, in bytes; that of the largest architecture has 80 KiB.
MAX_HEADER_BYTES = 2 * 2**20
#: The most weights that are read, in bytes: the largest architecture in float32 and a margin.
MAX_WEIGHTS_BYTES = 800 * 2**20
#: Of the largest architecture: 731 tensors, names of 56 characters, four dimensions.
MAX_TENSORS, MAX_NAME, MAX_RANK = 5000, 200, 8

TRUNCATED = "{} is truncated: its end is missing. Copy or download it again."
NO_CHECKPOINT = "{} is not a checkpoint: expected a .safetensors file or one saved with torch.save."
NO_WEIGHTS = (
    "{} holds no weights: expected parameter names with tensors, "
    "or a dict that has them under 'model'."
)

#: Types of numbers, as headers name them.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Entry:
    """One tensor: its type, its shape, and where its bytes begin and end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        """What type and shape take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """What a file says of itself, checked: the tensors lie in it without gaps or overlaps."""

    entries: Mapping[str, Entry]
    #: Words about the whole, as far as they are strings.
    metadata: Mapping[str, str]
    #: Where in the file the tensors' bytes begin, and how many there are.
    data_start: int
    data_bytes: int

    def outline(self) -> dict[str, Tensor]:
        """The tensors without memory, on the device "meta"."""
        return {
            name: torch.empty(entry.shape, dtype=entry.dtype, device="meta")
            for name, entry in self.entries.items()
        }

    def tensors(self, data: memoryview) -> dict[str, Tensor]:
        """The tensors, over the bytes that follow the header; nothing is copied."""
        return {name: _tensor(entry, data) for name, entry in self.entries.items()}


def _tensor(entry: Entry, data: memoryview) -> Tensor:
    if entry.begin == entry.end:
        return torch.empty(entry.shape, dtype=entry.dtype)
    raw = torch.frombuffer(data[entry.begin : entry.end], dtype=torch.uint8)
    if entry.begin % entry.dtype.itemsize:  # compiled code may rely on whole addresses
        raw = raw.clone()
    return raw.view(entry.dtype).view(entry.shape)


def read_header(part: Callable[[int, int], bytes], size: int, shown_as: str) -> Header:
    """The header of a file of `size` bytes.

    Args:
        part: gives the bytes from a first place to before a second.
        shown_as: what the file is called in sentences.

    Raises:
        CheckpointError: the file is cut off, too large, or no such file.
    """
    length = int.from_bytes(part(0, _LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{shown_as} has a header of {length / 2**20:.0f} MiB or is damaged; "
            f"at most {MAX_HEADER_BYTES >> 20} MiB are read."
            if length <= 100 * 2**20  # more is no header for anybody
            else NO_CHECKPOINT.format(shown_as)
        )
    data_start = _LENGTH_BYTES + length
    if data_start > size:
        raise CheckpointError(TRUNCATED.format(shown_as))
    said = parsed_json(part(_LENGTH_BYTES, data_start))
    if not isinstance(said, dict):
        raise CheckpointError(NO_CHECKPOINT.format(shown_as))
    metadata = said.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise CheckpointError(NO_CHECKPOINT.format(shown_as))
    words = {k: v for k, v in metadata.items() if isinstance(v, str)}
    if len(said) > MAX_TENSORS:
        raise CheckpointError(
            f"{shown_as} holds {len(said)} tensors: save only the weights, {MAX_TENSORS} at most."
        )
    if not said:
        raise CheckpointError(NO_WEIGHTS.format(shown_as))
    entries = {name: _entry(name, value, shown_as) for name, value in said.items()}
    data_bytes = _require_seamless(entries, size - data_start, shown_as)
    return Header(entries, words, data_start, data_bytes)


def _entry(name: str, said: Any, shown_as: str) -> Entry:
    """What a header says of one tensor, if it fits together."""
    try:
        kind, shape, (begin, end) = said["dtype"], said["shape"], said["data_offsets"]
        known = isinstance(kind, str) and kind in DTYPES
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(NO_CHECKPOINT.format(shown_as)) from None
    if not whole or len(shape) > MAX_RANK or len(name) > MAX_NAME:
        raise CheckpointError(NO_CHECKPOINT.format(shown_as))
    if not known:
        raise CheckpointError(
            f"{shown_as} is quantised or damaged ({shown(name, SHOWN)}): "
            "only real weights are used."
        )
    entry = Entry(DTYPES[kind], tuple(shape), begin, end)
    if entry.num_bytes != end - begin:
        raise CheckpointError(NO_CHECKPOINT.format(shown_as))
    others = math.prod(side or 1 for side in shape)
    if not entry.num_bytes and others > MAX_WEIGHTS_BYTES:  # beside a side of length 0
        raise CheckpointError(NO_CHECKPOINT.format(shown_as))
    return entry


def _require_seamless(entries: Mapping[str, Entry], data_bytes: int, shown_as: str) -> int:
    """Refuse tensors that overlap, leave gaps, or end elsewhere than the file; gives the end."""
    end = 0
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != end:
            raise CheckpointError(NO_CHECKPOINT.format(shown_as))
        end = entry.end
    if end > data_bytes:
        raise CheckpointError(TRUNCATED.format(shown_as))
    if end < data_bytes:
        raise CheckpointError(NO_CHECKPOINT.format(shown_as))
    if end > MAX_WEIGHTS_BYTES:
        raise CheckpointError(
            f"{shown_as} holds {end >> 20} MiB of weights; "
            f"at most {MAX_WEIGHTS_BYTES >> 20} MiB are read."
        )
    return end


def fits(name: object, value: object) -> bool:
    """Whether a name and a value can be a parameter's: an ordinary tensor in memory."""
    return (
        isinstance(name, str)
        and len(name) <= MAX_NAME
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_nested
        and not value.is_quantized
        and value.device.type == "cpu"
        and value.dtype in DTYPES.values()
        and value.dim() <= MAX_RANK
    )


def write(tensors: Mapping[str, Tensor], out: BinaryIO) -> None:
    """Write tensors that fit (`fits`); each on its own, even where two share their memory."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    # The widest numbers first: so each lies at a whole multiple of its own width.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % _LENGTH_BYTES)
    writer = io.BufferedWriter(out)
    writer.write(len(words).to_bytes(_LENGTH_BYTES, "little") + words)
    for _, tensor in ordered:
        whole = tensor.detach().resolve_conj().resolve_neg().contiguous()
        if whole.numel():
            writer.write(whole.reshape(-1).view(torch.uint8).numpy().data)
    writer.flush()
    writer.detach()
