"""Hostile checkpoints: headers that lie, pickles that run, and weights that are none."""

import functools
import io
import json
import pickle
import struct
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.hostile.case import Case, flipped, holding, sparse
from tests.support import ROOT

BUNDLED = ROOT / "assets" / "sima_nano_12_p16.safetensors"

Content = bytes | Callable[[], bytes]
Header = dict[str, Any]


def checkpoints() -> Iterator[Case]:
    """All of them."""
    for label, content in _HEADERS.items():
        known = label in _KNOWN
        yield Case(label, "checkpoint", holding(content), f"{label}.safetensors", known=known)
    yield Case(
        "header-100-mb-hole",
        "checkpoint",
        sparse(length(100 << 20) + b"{", 8 + (100 << 20)),
        "hole.safetensors",
    )
    yield Case(
        "header-4-gb", "checkpoint", sparse(length(2**32 - 9) + b'{"a":', 2**32), "four.safetensors"
    )
    for label, content in {**_PICKLES, **_ZIPS}.items():
        yield Case(label, "checkpoint", holding(content), f"{label}.pth", known=label in _KNOWN)
    for label, change in _WEIGHTS.items():
        write = functools.partial(_write_weights, change)
        yield Case(label, "checkpoint", write, "changed.safetensors", known=label in _KNOWN)
    for number, keep in enumerate((9, 1000, 50_000, 4_000_000)):
        write = functools.partial(_write_cut, keep)
        yield Case(f"cut-weights-{keep}", "checkpoint", write, f"cut{number}.safetensors")
    for seed in range(4):
        write = functools.partial(_write_flipped, seed)
        yield Case(f"flipped-header-{seed}", "checkpoint", write, "flipped.safetensors")
    yield Case("good-safetensors", "checkpoint", _copy, "own.safetensors", good=True, known=True)
    yield Case("good-pth", "checkpoint", _write_pth, "own.pth", good=True, known=True)
    yield Case("good-training-pth", "checkpoint", _write_training, "run.pth", good=True)


_KNOWN = {
    "header-100-mb",
    "header-90-mb-architecture",
    "header-deep",
    "pickle-os-system",
    "pickle-huge-tuple",
    "weights-nan",
    "zip-bomb",
}


# Headers of safetensors


def length(size: int) -> bytes:
    """What a .safetensors file begins with."""
    return struct.pack("<Q", size)


def safetensors(header: Header | bytes, data: bytes = b"") -> bytes:
    """A .safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return length(len(text)) + text + data


def entry(shape: list[Any], start: Any = 0, end: Any = 4, dtype: Any = "F32") -> Header:
    """What a header says of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _many(count: int) -> bytes:
    rows = b",".join(
        b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(count)
    )
    return safetensors(b"{" + rows + b"}")


def _deep(depth: int) -> bytes:
    return safetensors(b'{"a":' + b"[" * depth + b"]" * depth + b"}")


def _with_metadata(**metadata: str) -> Content:
    """The bundled weights with other metadata."""
    return lambda: _bundled_with(metadata)


def _bundled_with(metadata: dict[str, str]) -> bytes:
    whole = BUNDLED.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    header["__metadata__"] = metadata
    return safetensors(header, whole[8 + size :])


_HEADERS: dict[str, Content] = {
    "header-100-mb": lambda: _many(1_700_000),
    "header-100-mb-spaces": lambda: safetensors(b"{" + b" " * (100 << 20) + b"}"),
    "header-100000-tensors": lambda: _many(100_000),
    "header-90-mb-architecture": _with_metadata(architecture="a" * (90 << 20)),
    "header-long-architecture": _with_metadata(architecture="sima_nano_12_p16" * 5000),
    "header-control-architecture": _with_metadata(architecture="\x1b[31m\x07\n\x00bell"),
    "header-labels-bomb": _with_metadata(labels="[" * 4_000_000),
    "header-labels-numbers": _with_metadata(labels="[" + "1," * 100_000 + "1]"),
    "header-labels-digits": _with_metadata(labels="9" * 100_000),
    "header-labels-control": _with_metadata(labels=json.dumps(["\x1b[2J\n<script>"] * 838)),
    "header-deep": lambda: _deep(100_000),
    "header-deep-million": lambda: _deep(1_000_000),
    "header-deep-objects": safetensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "header-overlap": safetensors({"a": entry([1]), "b": entry([1])}, bytes(4)),
    "header-hole": safetensors({"a": entry([1]), "b": entry([1], 8, 12)}, bytes(12)),
    "header-negative": safetensors({"a": entry([1], -4, 0)}, bytes(4)),
    "header-backwards": safetensors({"a": entry([1], 4, 0)}, bytes(4)),
    "header-negative-shape": safetensors({"a": entry([-1])}, bytes(4)),
    "header-huge-shape": safetensors({"a": entry([2**40, 2**40], 0, 2**62)}, bytes(4)),
    "header-overflow-shape": safetensors({"a": entry([2**63, 2])}, bytes(4)),
    "header-empty-shape": safetensors({"a": entry([0, 2**60], 0, 0)}),
    "header-many-dimensions": safetensors({"a": entry([1] * 100_000)}, bytes(4)),
    "header-float-shape": safetensors({"a": entry([1.5])}, bytes(4)),
    "header-nan": safetensors(
        b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)
    ),
    "header-digits": safetensors(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 400 + b'],"data_offsets":[0,4]}}'
    ),
    "header-1e999": safetensors(b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}'),
    "header-dtype": safetensors({"a": entry([1], dtype="OBJECT")}, bytes(4)),
    "header-dtype-long": safetensors({"a": entry([1], dtype="F" * 1_000_000)}, bytes(4)),
    "header-null": safetensors({"a": None}),
    "header-list": safetensors(b"{}[]"),
    "header-duplicate-keys": safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "header-no-utf-8": safetensors(
        b'{"\xff\xfe":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)
    ),
    "header-surrogate": safetensors(
        b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)
    ),
    "header-control-names": safetensors({"\x1b[31m\n\x07" * 50: entry([1])}, bytes(4)),
    "header-long-name": safetensors({"n" * 5_000_000: entry([1])}, bytes(4)),
    "header-metadata-list": safetensors({"__metadata__": [1, 2], "a": entry([1])}, bytes(4)),
    "header-metadata-numbers": safetensors(
        {"__metadata__": {"architecture": 7}, "a": entry([1])}, bytes(4)
    ),
    "header-empty": safetensors({}),
    "header-length-2e64": length(2**64 - 1) + b"{}",
    "header-length-0": length(0) + b"{}",
    "header-length-1": length(1) + b"{",
    "header-cut": length(10_000) + b'{"a":',
}


# Pickles


class _Calls:
    """Pickled, it calls a function with arguments when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.how = function, arguments

    def __reduce__(self) -> Any:
        return self.how


def _call(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls any function with a text, whether or not it is here."""
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


def _legacy(*pickles: bytes) -> bytes:
    """The form that torch.save had before it wrote zips."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    return b"".join([magic, pickle.dumps(1001, 2), *pickles])


def _dumped(value: object) -> Content:
    return lambda: pickle.dumps(value, 2)


_PICKLES: dict[str, Content] = {
    "pickle-os-system": b"\x80\x02" + _call("os", "system", "touch pwned"),
    "pickle-posix-system": b"\x80\x02" + _call("posix", "system", "touch pwned"),
    "pickle-eval": b"\x80\x02" + _call("builtins", "eval", "open('pwned','w')"),
    "pickle-exec": b"\x80\x02" + _call("builtins", "exec", "open('pwned','w')"),
    "pickle-subprocess": b"\x80\x02" + _call("subprocess", "Popen", "touch pwned"),
    "pickle-torch-load": b"\x80\x02" + _call("torch.serialization", "load", "/etc/passwd"),
    "pickle-long-name": b"\x80\x02" + _call("os." + "x" * 100_000, "y" * 100_000, "z"),
    "pickle-control-name": b"\x80\x02" + _call("os\x1b[31m", "system\x07", "z"),
    "pickle-nested-reduce": _dumped([_Calls(list, [_Calls(dict)])] * 50),
    "pickle-huge-tuple": b"\x80\x02(" + b"K\x01" * 30_000_000 + b"t.",
    "pickle-huge-list": b"\x80\x02](" + b"N" * 60_000_000 + b"e.",
    "pickle-memo-bomb": b"\x80\x02"
    + b"".join(b"N" + b"r" + struct.pack("<I", 2**28) + b"0" for _ in range(9))
    + b"N.",
    "pickle-doubling": b"\x80\x02(lp0\n" + b"(g0\ng0\nlp0\n" * 60 + b".",
    "pickle-doubling-text": b"\x80\x02X\x01\0\0\0aq\0" + b"h\0h\0\x86q\0" * 60 + b".",
    "pickle-deep": b"\x80\x02" + b"(" * 2_000_000 + b"t" * 2_000_000 + b".",
    "pickle-deep-tuples": b"\x80\x02N" + b"\x85" * 3_000_000 + b".",
    "pickle-long-int": b"\x80\x02\x8b"
    + struct.pack("<i", 20_000_000)
    + b"\x7f" * 20_000_000
    + b".",
    "pickle-promised-bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "pickle-promised-text": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "pickle-digits": b"\x80\x02I" + b"9" * 1_000_000 + b"\n.",
    "pickle-persistent-id": b"\x80\x02X\x01\0\0\0aQ.",
    "pickle-no-end": b"\x80\x02" + b"N0" * 1_000_000,
    "pickle-protocol-255": b"\x80\xff.",
    "pickle-magic-only": b"\x80",
    "pickle-dict": _dumped({"a": 1}),
    "pickle-deep-dict": b"\x80\x02" + b"}X\1\0\0\0a" * 50_000 + b"N" + b"s" * 50_000 + b".",
    "pickle-self": b"\x80\x02}q\0X\1\0\0\0ah\0s.",
    "legacy-storages": lambda: _legacy(
        pickle.dumps({"little_endian": True}, 2),
        pickle.dumps({}, 2),
        pickle.dumps(["0"] * 100_000, 2),
    ),
    "legacy-code": lambda: _legacy(
        pickle.dumps({}, 2), b"\x80\x02" + _call("os", "system", "touch pwned")
    ),
    "legacy-cut": lambda: _legacy(),
}


def _zip(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _torch_zip(data: bytes, **files: bytes) -> bytes:
    """What torch.save writes, with any pickle in it."""
    others = {f"archive/{name}": content for name, content in files.items()}
    return _zip({"archive/data.pkl": data, "archive/version": b"3\n", **others})


def _encrypted() -> bytes:
    """The flag of an encrypted member, in both places where it stands."""
    whole = bytearray(_torch_zip(pickle.dumps({}, 2)))
    whole[6] |= 1
    whole[whole.index(b"PK\1\2") + 8] |= 1
    return bytes(whole)


def _zip_claiming(size: int) -> bytes:
    """A zip whose directory claims that its first member has so many bytes."""
    whole = bytearray(_torch_zip(pickle.dumps({}, 2)))
    at = whole.index(b"PK\1\2")
    whole[at + 20 : at + 28] = struct.pack("<II", size, size)
    return bytes(whole)


def _saved(value: object) -> Content:
    def made() -> bytes:
        buffer = io.BytesIO()
        with warnings.catch_warnings(action="ignore"):  # of kinds of tensors that torch gives up
            torch.save(value() if callable(value) else value, buffer)
        return buffer.getvalue()

    return made


def _nested(depth: int) -> Header:
    inner: Header = {"w": torch.zeros(1)}
    for _ in range(depth):
        inner = {"model": inner}
    return inner


_ZIPS: dict[str, Content] = {
    "zip-bomb": lambda: _zip({"archive/data.pkl": bytes(300 << 20)}, zipfile.ZIP_DEFLATED),
    "zip-slip": lambda: _zip({"../../../../tmp/pwned": b"x", "archive/data.pkl": b"\x80\x02}."}),
    "zip-absolute": lambda: _zip({"/tmp/pwned": b"x", "archive/data.pkl": b"\x80\x02}."}),
    "zip-encrypted": _encrypted,
    "zip-100000-entries": lambda: _zip({f"archive/data/{i}": b"" for i in range(100_000)}),
    "zip-claims-4-gb": lambda: _zip_claiming(2**32 - 2),
    "zip-torchscript": lambda: _torch_zip(
        b"\x80\x02}.", **{"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"import os"}
    ),
    "zip-code": lambda: _torch_zip(b"\x80\x02" + _call("os", "system", "touch pwned")),
    "zip-empty": lambda: _zip({}),
    "zip-no-pickle": lambda: _zip({"archive/version": b"3\n"}),
    "zip-cut": lambda: _torch_zip(bytes(5000))[:3000],
    "zip-magic-only": b"PK\x03\x04",
    "zip-epub": lambda: _zip({"mimetype": b"application/epub+zip"}),
    "saved-nothing": _saved({}),
    "saved-list": _saved([torch.zeros(2)]),
    "saved-number": _saved(7),
    "saved-tensor": _saved(torch.zeros(3)),
    "saved-names-are-numbers": _saved({1: torch.zeros(2)}),
    "saved-expanded": _saved(lambda: {"w": torch.zeros(1).expand(2**40)}),
    "saved-sparse": _saved(lambda: {"w": torch.sparse_coo_tensor([[0]], [1.0], (2**30,))}),
    "saved-meta": _saved(lambda: {"w": torch.empty(2**40, device="meta")}),
    "saved-quantised": _saved(
        lambda: {"w": torch.quantize_per_tensor(torch.zeros(4), 1.0, 0, torch.qint8)}
    ),
    "saved-nested-100": _saved(lambda: _nested(100)),
    "saved-namespace": _saved(
        {"args": Namespace(model="\x1b[31m" * 1000), "model": {"w": torch.zeros(1)}}
    ),
    "saved-hooks": _saved({"w": torch.nn.Parameter(torch.zeros(2))}),
    "saved-float8": _saved(lambda: {"w": torch.zeros(2).to(torch.float8_e4m3fn)}),
    "saved-one-bias": _saved({"cls_token": torch.zeros(1, 1, 128), "pos_embed": torch.zeros(1, 1)}),
}


# Weights that are nearly those of a model

Weights = dict[str, Tensor]


@functools.cache
def _weights() -> Weights:
    return load_file(BUNDLED)


def _write_weights(change: Callable[[Weights], Weights], path: Path) -> None:
    changed = {k: v.contiguous() for k, v in change(dict(_weights())).items()}
    save_file(changed, path, {"architecture": "sima_nano_12_p16"})


def _with(name_part: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    return lambda weights: {k: change(v) if name_part in k else v for k, v in weights.items()}


def _more_blocks(weights: Weights, blocks: int) -> Weights:
    first = {k: v for k, v in weights.items() if k.startswith("blocks.0.")}
    for number in range(12, blocks):
        weights.update(
            {k.replace("blocks.0.", f"blocks.{number}."): v.clone() for k, v in first.items()}
        )
    return weights


def _head(classes: int) -> Callable[[Weights], Weights]:
    def change(weights: Weights) -> Weights:
        head = {k: v for k, v in weights.items() if k.startswith("head.")}
        return {
            **weights,
            **{k: torch.zeros(classes, *v.shape[1:], dtype=v.dtype) for k, v in head.items()},
        }

    return change


_WEIGHTS: dict[str, Callable[[Weights], Weights]] = {
    "weights-nan": _with("", lambda t: torch.full_like(t, float("nan"))),
    "weights-inf": _with("qkv", lambda t: torch.full_like(t, float("inf"))),
    "weights-denormal": _with("", lambda t: torch.full_like(t.float(), 1e-42)),
    "weights-huge": _with("", lambda t: torch.full_like(t.float(), 3e38)),
    "weights-zero": _with("", torch.zeros_like),
    "weights-complex": _with("qkv.weight", lambda t: t.to(torch.complex64)),
    "weights-int": _with("qkv", lambda t: t.to(torch.int8)),
    "weights-float8": _with("qkv", lambda t: t.to(torch.float8_e4m3fn)),
    "weights-bool": _with("norm", lambda t: t > 0),
    "weights-float64": _with("", lambda t: t.double()),
    "weights-flat": _with("", lambda t: t.reshape(-1)),
    "weights-scalar": _with("bias", lambda t: t.reshape(-1)[0]),
    "weights-empty": _with("", lambda t: t[:0]),
    "weights-60-blocks": lambda weights: _more_blocks(weights, 60),
    "weights-0-classes": _head(0),
    "weights-1-class": _head(1),
    "weights-100000-classes": _head(100_000),
    "weights-no-head": lambda weights: {
        k: v for k, v in weights.items() if not k.startswith("head.")
    },
    "weights-one": lambda weights: dict(list(weights.items())[:1]),
    "weights-long-names": lambda weights: {k + "\x1b[2J" * 400: v for k, v in weights.items()},
}


def _copy(path: Path) -> None:
    path.write_bytes(BUNDLED.read_bytes())


def _write_cut(keep: int, path: Path) -> None:
    path.write_bytes(BUNDLED.read_bytes()[:keep])


def _write_flipped(seed: int, path: Path) -> None:
    whole = BUNDLED.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    path.write_bytes(flipped(whole[:size], seed) + whole[size:])


def _write_pth(path: Path) -> None:
    torch.save(_weights(), path)


def _write_training(path: Path) -> None:
    torch.save({"model": _weights(), "args": Namespace(model="sima_nano_12_p16"), "epoch": 3}, path)
