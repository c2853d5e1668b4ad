"""Headers of .safetensors that promise, repeat, nest and lie: refused in a sentence, at once."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sima_core.weights.loading import load_model
from sima_core.weights.provenance import MAX_CLASS_NAME, provenance
from sima_core.weights.tensors import MAX_HEADER_BYTES, MAX_TENSORS, read_header, write
from tests.weights.support import error


def with_header(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    said = len(words) if length is None else length
    path.write_bytes(said.to_bytes(8, "little") + words + data)
    return path


def one(shape: Any, offsets: Any, dtype: Any = "F32", name: str = "a") -> dict[str, Any]:
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


HEADERS: dict[str, Any] = {
    "deep": b'{"a":' + b"[" * 1_000_000,
    "deep metadata": b'{"__metadata__":' + b'{"a":' * 100_000,
    "no object": b"{]",
    "a number of 10,000 digits": b'{"a":' + b"9" * 10_000 + b"}",
    "not UTF-8": b'{"\xff":1}',
    "no entry": {"a": 7},
    "half an entry": {"a": {"dtype": "F32"}},
    "shape of words": one(["4"], [0, 16]),
    "shape of fractions": one([4.0], [0, 16]),
    "shape of infinity": one([float("inf")], [0, 16]),
    "shape of truth": one([True, 4], [0, 16]),
    "no shape": one(None, [0, 16]),
    "negative": one([-4], [0, 16]),
    "two negatives": one([-2, -2], [0, 16]),
    "of 10,000 dimensions": one([1] * 10_000, [0, 4]),
    "400 digits": one([10**400], [0, 16]),
    "400 digits of nothing": one([0, 10**400], [0, 0]),
    "larger than its bytes": one([5], [0, 16]),
    "backwards": one([4], [16, 0]),
    "three offsets": one([4], [0, 16, 32]),
    "a gap": one([3], [4, 16]),
    "more bytes than said": one([3], [0, 12]),
    "a long name": one([4], [0, 16], name="x" * 100_000),
    "overlapping": {**one([4], [0, 16]), **one([4], [0, 16], name="b")},
    "no dtype": one([4], [0, 16], dtype=["F32"]),
    "named a path": one([4], [0, 16], name="\x1b[2J<script>" * 5),
    "of an unknown type": one([4], [0, 16], dtype="F4" * 1000),
    "of 16-bit signless numbers": one([8], [0, 16], dtype="U16"),
    "of nothing": {},
    "metadata only": {"__metadata__": {"architecture": "sima_nano_12_p16"}},
    "metadata that is none": {"__metadata__": [1], **one([4], [0, 16])},
    "endless architecture": {
        "__metadata__": {"architecture": "<\x1b" * 2 * 10**5},
        **one([4], [0, 16]),
    },
    "architecture of numbers": {"__metadata__": {"architecture": 7}, **one([4], [0, 16])},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_lie_are_refused(kind, tmp_path):
    error(with_header(tmp_path / "a.safetensors", HEADERS[kind], b"\0" * 16))


def test_a_long_header_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("it was parsed"))
    path = with_header(tmp_path / "a.safetensors", b"{" + b" " * (MAX_HEADER_BYTES + 1))
    assert "a header of 2 MiB" in error(path)
    path = with_header(tmp_path / "many.safetensors", b'{"a":[' + b"[]," * 100_000 + b"[]]}")
    assert "not a checkpoint" in error(path)
    path = with_header(tmp_path / "b.safetensors", b"{", length=2**63)
    assert "not a checkpoint" in error(path)
    path = with_header(tmp_path / "c.safetensors", b"{", length=1000)
    assert "truncated" in error(path)


def test_many_tensors_are_counted(tmp_path):
    header = {f"t{i}": one([], [4 * i, 4 * i + 4])["a"] for i in range(MAX_TENSORS + 1)}
    path = with_header(tmp_path / "a.safetensors", header, b"\0" * 4 * len(header))
    assert f"holds {MAX_TENSORS + 1} tensors" in error(path)
    header.popitem()
    path = with_header(tmp_path / "b.safetensors", header, b"\0" * 4 * len(header))
    assert "another kind of model" in error(path)


def test_shapes_are_judged_before_weights_are_read(tmp_path):
    size = 600 * 2**20
    path = with_header(tmp_path / "a.safetensors", one([size // 4], [0, size]))
    os.truncate(path, path.stat().st_size + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "another kind of model" in error(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 2**10  # KiB


def test_more_weights_than_any_architecture_has_are_refused(tmp_path):
    size = 2**40
    path = with_header(tmp_path / "a.safetensors", one([size // 2**20, 2**18], [0, size]))
    try:
        os.truncate(path, path.stat().st_size + size)
    except OSError:
        pytest.skip("no such large files here")
    assert "at most 800 MiB" in error(path)


def test_a_model_of_100_000_layers_is_refused_before_it_is_built(tmp_path):
    header, end = {}, 0
    for i in range(MAX_TENSORS):
        header[f"blocks.{20 * i}.attn.qkv.weight"] = one([3, 1], [end, end + 12])["a"]
        end += 12
    header["__metadata__"] = {"architecture": "sima_nano_12_p16"}
    path = with_header(tmp_path / "a.safetensors", header, b"\0" * end)
    assert "sima_nano_12_p16" in error(path)


def test_a_head_of_many_classes_needs_its_weights(tmp_path, published):
    header, end = {}, 0
    for name, tensor in published["model"].items():
        shape = list(tensor.shape)
        if name.startswith("head."):
            shape[0] = 10**9
        header[name] = one(shape, [end, end + 4])["a"]
    assert "not a checkpoint" in error(with_header(tmp_path / "a.safetensors", header, b"\0" * 4))


@pytest.mark.parametrize("name", ["cls_attn_blocks.0.attn.qkv.weight", "head.bias"])
def test_single_numbers_in_place_of_weights(name, published, tmp_path):
    state = {**published["model"], "blocks.0.attn.temperature": torch.ones(1)}
    for i in range(1, 12):
        state[f"blocks.{i}.attn.temperature"] = torch.ones(1)
    state[name] = torch.tensor(1.0)
    save_file(state, tmp_path / "a.safetensors")
    error(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.float8_e5m2, torch.uint16])
def test_numbers_that_are_no_real_weights(dtype, published, tmp_path):
    published["model"]["head.weight"] = torch.zeros(10, 128, dtype=dtype)
    save_file(published["model"], tmp_path / "a.safetensors")
    assert "only real weights" in error(tmp_path / "a.safetensors")


def test_weights_at_odd_addresses_are_read(published, tmp_path):
    """Other writers may put a tensor anywhere; compiled code takes only whole addresses."""
    odd = {"b": torch.zeros(3, dtype=torch.uint8), "a": torch.arange(4.0)}
    header, end, data = {}, 0, b""
    for name, tensor in odd.items():
        part = tensor.numpy().tobytes()
        kind = "U8" if tensor.dtype == torch.uint8 else "F32"
        header |= one(list(tensor.shape), [end, end + len(part)], kind, name)
        end, data = end + len(part), data + part
    path = with_header(tmp_path / "a.safetensors", header, data)
    content = path.read_bytes()
    found = read_header(lambda begin, end: content[begin:end], len(content), "it")
    loaded = found.tensors(memoryview(bytearray(data)))
    assert torch.equal(loaded["a"], odd["a"])
    assert loaded["a"].data_ptr() % 4 == 0


def test_what_is_written_is_what_is_read(tmp_path):
    tensors = {
        "none": torch.empty(0, 3),
        "one": torch.tensor(2.5, dtype=torch.float64),
        "halves": torch.arange(3).bfloat16(),
        "turned": torch.arange(6.0).view(2, 3).T,
        "flags": torch.tensor([True, False]),
    }
    with (tmp_path / "a").open("w+b", buffering=0) as file:
        write(tensors, file)
    content = (tmp_path / "a").read_bytes()
    header = read_header(lambda begin, end: content[begin:end], len(content), "it")
    found = header.tensors(memoryview(bytearray(content[header.data_start :])))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_names_of_classes_are_cut_and_made_plain(published, tmp_path):
    names = ["\x1b[31mred\x00", "x" * 1_000_000, *(f"thing {i}" for i in range(8))]
    metadata = {"labels": json.dumps([{"id": f"{n}/a", "name": n} for n in names])}
    save_file(published["model"], tmp_path / "a.safetensors", metadata)
    origin = provenance(load_model(tmp_path / "a.safetensors"))
    assert origin.labels[0] == "?[31mred?"
    assert len(origin.labels[1]) == MAX_CLASS_NAME
    assert origin.labels[2] == "thing 0"
    assert origin.label_set.isprintable()
    assert len(origin.label_set) < 400


@pytest.mark.parametrize("labels", [[None] * 10, [["a"]] * 10, [{"name": 3}] * 10, {"0": "a"}, 7])
def test_labels_that_are_no_names_are_ignored(labels, published, tmp_path):
    save_file(published["model"], tmp_path / "a.safetensors", {"labels": json.dumps(labels)})
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    assert provenance(load_model(tmp_path / "a.safetensors")).labels[3] == "class 3"


def test_labels_beside_the_weights_are_files_of_bearable_size(published, tmp_path):
    save_file(published["model"], tmp_path / "a.safetensors")
    beside = tmp_path / "labels.json"
    for make in (
        lambda: os.mkfifo(beside),
        lambda: beside.symlink_to("/dev/zero"),
        lambda: beside.write_bytes(b"[" * 10**6),
        lambda: beside.write_bytes(b'"' + b"x" * 5 * 10**6 + b'"'),
        lambda: beside.write_bytes(b"\xff"),
    ):
        make()
        assert provenance(load_model(tmp_path / "a.safetensors")).labels[3] == "class 3"
        beside.unlink()


def test_only_files_are_opened(tmp_path):
    pipe, loop, link = tmp_path / "pipe.pth", tmp_path / "loop.pth", tmp_path / "zero.pth"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    link.symlink_to("/dev/zero")
    assert "a named pipe" in error(pipe)
    assert "a device" in error(link)
    assert "cannot be" in error(loop)
    assert "a device" in error("/dev/ptmx")
    assert "no file" in error("\0.pth")
    assert "no file" in error("x" * 5000 + ".pth")
    assert "no file" in error("\udcff.pth")
    assert "\x1b" not in error("\x1b[2J" + "x" * 300 + ".pth")
