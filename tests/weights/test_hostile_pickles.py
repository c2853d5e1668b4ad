"""Pickles that run, repeat, nest, pack and lie: no code runs, and limits hold."""

import argparse
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from sima_core.sandbox.sandbox import Sandbox
from sima_core.weights import formats, unpickle
from sima_core.weights.loading import load_model
from tests.weights.support import error, save, saved_bytes

#: What begins a file of torch.save's first format: a magic number, a version, the system.
LEGACY = (
    pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    + pickle.dumps(1001, 2)
    + pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
)


def zipped(content: bytes, path: Path, extra: dict[str, bytes] | None = None) -> Path:
    """A file of torch.save's second format that holds a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/version", b"3\n")
        archive.writestr("a/byteorder", b"little")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return path


def called(module: str, name: str, argument: bytes = b"X\x01\x00\x00\x00a\x85") -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00ac" + f"{module}\n{name}\n".encode() + argument + b"Rs."


FORBIDDEN = [
    *(("builtins", name) for name in ("getattr", "print", "eval", "exec", "open", "__import__")),
    *(("__builtin__", name) for name in ("getattr", "apply", "type", "object")),
    *(("os", name) for name in ("system", "popen", "remove", "_exit")),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("sys", "exit"),
    ("importlib", "import_module"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("pathlib", "Path"),
    ("codecs", "open"),
    ("numpy", "load"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.nn.modules.linear", "Linear"),
    ("torch.jit._serialization", "load"),
    ("argparse", "ArgumentParser"),
    ("argparse", "FileType"),
    ("sima_core.weights.unpickle", "convert"),
]


@pytest.mark.parametrize(("module", "name"), FORBIDDEN)
def test_nothing_is_called_from_a_pickle(module, name, tmp_path):
    assert "code" in error(zipped(called(module, name), tmp_path / "a.pth"))


def test_no_other_class_is_allowed(monkeypatch, published, tmp_path):
    """What torch itself allows are tensors and plain containers; ours adds one class."""
    allowed = []
    load = torch.load

    def watched(*args, **kwargs):
        assert kwargs["weights_only"] is True
        allowed.extend(torch.serialization.get_safe_globals())
        return load(*args, **kwargs)

    torchs_own = set(torch.serialization.get_safe_globals())
    monkeypatch.setattr(torch, "load", watched)
    with save(published, tmp_path / "a.pth").open("rb") as file:
        assert unpickle.read(file)
    assert set(allowed) - torchs_own == {argparse.Namespace}
    assert set(torch.serialization.get_safe_globals()) == torchs_own


def touching(path: Path) -> dict[str, bytes]:
    """Pickles that would make a file, by each of the ways in which a pickle calls."""
    command = f"touch {path}".encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    return {
        "reduce": b"\x80\x02cos\nsystem\n" + text + b"\x85R.",
        "stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",
        "instance": b"(S'" + command + b"'\nios\nsystem\n.",
        "object": b"\x80\x02(cos\nsystem\n" + text + b"o.",
        "new": b"\x80\x02csubprocess\nPopen\n]" + text + b"a\x85\x81.",
        "inside": b"\x80\x02}X\x01\x00\x00\x00a(cos\nsystem\n" + text + b"\x85Rtds.",
        "built": b"\x80\x02cargparse\nNamespace\n)R}X\x05\x00\x00\x00modelcos\nsystem\n"
        + text
        + b"\x85Rsb.",
        "persistent": b"\x80\x02cos\nsystem\n" + text + b"\x85RQ.",
    }


@pytest.mark.parametrize("how", touching(Path("x")))
def test_no_code_runs_in_any_format(how, tmp_path):
    mark = tmp_path / "mark"
    content = touching(mark)[how]
    error(zipped(content, tmp_path / "new.pth"))
    for name, head in (("old", LEGACY), ("bare", b"")):
        (tmp_path / name).with_suffix(".pth").write_bytes(head + content)
        error(tmp_path / f"{name}.pth")
    assert not mark.exists()


def test_the_pickles_of_that_test_do_run_where_nothing_forbids_it(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(touching(mark)["reduce"])
    assert mark.exists()


def test_programs_are_not_weights(tmp_path):
    class Program(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.save(torch.jit.script(Program()), tmp_path / "a.pt")
    assert "TorchScript" in error(tmp_path / "a.pt")


def nested(depth: int) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


STREAMS = {
    "nested lists": nested(300_000),
    "a memo that doubles": b"\x80\x02]" + b"q\x00(h\x00h\x00t" * 40 + b".",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a dict that holds itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
    "an absent memo": b"\x80\x02h\x07.",
    "an empty stack": b"\x80\x02" + b"0" * 1000 + b".",
    "no end": b"\x80\x02" + b"K\x01" * 100_000,
    "a text of 4 GiB": b"\x80\x02X\xff\xff\xff\xff.",
    "a number of 2 GiB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a frame of 8 EiB": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "protocol 255": b"\x80\xff.",
    "nothing": b"\x80\x02N.",
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("form", ["zip", "bare"])
def test_streams_that_nest_repeat_and_lie(kind, form, tmp_path):
    path = tmp_path / "a.pth"
    if form == "zip":
        zipped(STREAMS[kind], path)
    else:
        path.write_bytes(STREAMS[kind])
    error(path)


def claiming(count: int) -> bytes:
    """A file of the first format whose one storage claims so many numbers."""
    persistent = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + b"\x8a\x08"
        + struct.pack("<q", count)
        + b"NtQ"
    )
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + b"K\x00K\x01\x85K\x01\x85\x89}tR"
    )
    return LEGACY + b"\x80\x02}X\x01\x00\x00\x00a" + tensor + b"s." + pickle.dumps(["0"], 2)


def test_memory_of_pickles_has_a_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(claiming(2**28))  # 1 GiB, never touched
    assert "too much memory" in error(path)
    monkeypatch.setattr(formats, "UNPICKLE_MEMORY", 2**32)
    assert "truncated" in error(path)  # so it was the limit that made the difference
    path.write_bytes(claiming(2**50))
    assert "too much memory" in error(path)


def test_a_huge_tuple_takes_no_more_than_the_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "UNPICKLE_SECONDS", 1.5)
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\x02(" + b"(t]}" * 2_000_000 + b"t.")
    assert "too" in error(path)


def test_every_job_is_limited(published, tmp_path, monkeypatch):
    given = []
    run = Sandbox.run
    monkeypatch.setattr(
        Sandbox, "run", lambda *args, **kwargs: (given.append(args[3]), run(*args, **kwargs))[1]
    )
    path = save(published, tmp_path / "a.pth")
    load_model(path)
    size = path.stat().st_size
    assert 0 < given[0].seconds <= 8
    assert 0 < given[0].memory_bytes <= 2 * size + 2**29
    assert 0 < given[0].output_bytes <= 2 * size + 2**27


def test_zips_that_torch_does_not_write(tmp_path):
    content = saved_bytes({"a": torch.zeros(3)})
    packed, many, twice = (tmp_path / name for name in ("packed.pth", "many.pth", "twice.pth"))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"N0" * 10**6 + b".")
    assert "not a checkpoint" in error(packed)
    with zipfile.ZipFile(many, "w") as archive:
        for i in range(unpickle.MAX_ENTRIES + 1):
            archive.writestr(f"a/data/{i}", b"")
    assert "not a checkpoint" in error(many)
    twice.write_bytes(content + content)
    error(twice)
    directory = content.index(b"PK\x01\x02")
    for at, lie in ((20, 0xFFFFFFFF), (24, 0xFFFFFFFF), (24, 10**9), (42, 0xFFFFFFFF), (42, 10**6)):
        lying = bytearray(content)
        lying[directory + at : directory + at + 4] = struct.pack("<I", lie)
        (tmp_path / "lie.pth").write_bytes(lying)
        error(tmp_path / "lie.pth")


def no_weights() -> dict[str, object]:
    zeros = torch.zeros(1)
    return {
        "expanded": {"a": zeros.expand(2**40)},
        "expanded in all directions": {"a": zeros.as_strided((2**20, 2**20), (0, 0))},
        "shared": {f"a{i}": zeros.expand(2**24) for i in range(9)},
        "meta": {"a": torch.zeros(2**40, device="meta")},
        "sparse": {"a": torch.eye(3).to_sparse()},
        "compressed": {"a": torch.eye(3).to_sparse_csr()},
        "quantised": {"a": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)},
        "complex": {"a": torch.zeros(3, dtype=torch.complex128)},
        "of 64 dimensions": {"a": torch.zeros((1,) * 64)},
        "a long name": {"a" * 10**6: zeros},
        "names of numbers": {1: zeros},
        "no tensors": {"a": [zeros]},
        "nested": {"model": {"a": {"b": zeros}}},
        "too many": {f"a{i}": zeros for i in range(6000)},
    }


@pytest.mark.parametrize("kind", no_weights())
def test_tensors_that_are_no_weights(kind, tmp_path):
    content = no_weights()[kind]
    try:
        path = save(content, tmp_path / "a.pth")
    except RuntimeError:
        pytest.skip("this torch does not save it")
    assert "no weights" in error(path)


@pytest.mark.parametrize("kind", ["empty", "numbers of classes", "named", "args", "wide"])
def test_weights_of_no_model(kind, published, tmp_path):
    model = published["model"]
    if kind == "empty":
        model = {name: torch.empty(0, 2**30) for name in model}
    elif kind == "numbers of classes":
        model["head.weight"], model["head.bias"] = torch.zeros(2**18, 1), torch.zeros(2**18)
    elif kind == "named":
        model = {f"\x1b[2J{'y' * 100}<{name}": tensor for name, tensor in model.items()}
    elif kind == "args":
        published["args"].model = "\x1b]0;" + "sima_nano_12_p16" * 1000
    elif kind == "wide":
        model["patch_embed.proj.0.0.weight"] = torch.zeros(10**5, 3, 1, 1)
    error(save({**published, "model": model}, tmp_path / ("n" * 200 + ".pth")))


def test_a_dict_whose_methods_are_replaced(tmp_path):
    content = b"\x80\x02ccollections\nOrderedDict\n)R}X\x03\x00\x00\x00getK\x03sb."
    assert "not a checkpoint" in error(zipped(content, tmp_path / "a.pth"))


def test_storages_that_are_shared_or_turned_are_taken_apart(published, tmp_path):
    model = published["model"]
    whole = torch.cat([model["head.weight"], model["head.weight"] + 1]).T.contiguous().T
    model["head.weight"] = whole[:10]
    expected = model["head.weight"].clone()
    for zip_format in (True, False):
        torch.save(published, tmp_path / "a.pth", _use_new_zipfile_serialization=zip_format)
        found = load_model(tmp_path / "a.pth").head.weight
        assert torch.equal(found, expected)
        assert found.is_contiguous()


def test_the_child_moves_nobodys_place_in_the_file(published, tmp_path):
    path = save(published, tmp_path / "a.pth")
    with path.open("rb") as file:
        formats.read_file(file, "it")
        file.seek(0)
        assert file.read() == path.read_bytes()
