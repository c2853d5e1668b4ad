"""Every form that weights come in, and files that are none."""

import argparse
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.weights.support import error, save, truncated


def test_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "code" in error(save({"model": Bomb()}, tmp_path / "new.pth"))
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    assert "code" in error(tmp_path / "old.pth")
    assert not (tmp_path / "bomb-went-off").exists()


def test_other_classes_than_namespace_are_refused(tmp_path):
    class_in_args = {"model": {}, "args": argparse.Namespace(when=Path("x"))}
    assert "code" in error(save(class_in_args, tmp_path / "a.pth"))


def test_files_that_are_no_checkpoint(tmp_path, photo_file):
    text = tmp_path / "notes.pth"
    text.write_text("not weights")
    assert "not a checkpoint" in error(text)
    assert "not a checkpoint" in error(photo_file)
    assert "no weights" in error(save([1, 2], tmp_path / "list.pth"))
    assert "no weights" in error(save({"epoch": 3}, tmp_path / "epoch.pth"))
    assert "no weights" in error(save({}, tmp_path / "empty-dict.pth"))


def test_empty_and_truncated_files(published, tmp_path):
    empty = tmp_path / "empty.pth"
    empty.touch()
    assert "empty" in error(empty)
    assert "truncated" in error(truncated(save(published, tmp_path / "zip.pth")))
    old = tmp_path / "old.pth"
    torch.save(published["model"], old, _use_new_zipfile_serialization=False)
    assert "truncated" in error(truncated(old))
    tensors = tmp_path / "a.safetensors"
    save_file(published["model"], tensors)
    assert "truncated" in error(truncated(tensors))
    assert "truncated" in error(truncated(tensors, 0.01))


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    import zipfile

    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    assert "not a checkpoint" in error(path)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch bomb-went-off",)


def hostile_pickles() -> dict[str, bytes]:
    """Keys that take for ever, or the whole stack, to hash."""
    key = {"deep": b")" + b"\x85" * 300_000, "doubled": b")" + b"q\x01h\x01\x86" * 60}
    return {kind: b"\x80\x02}" + tuples + b"K\x01s." for kind, tuples in key.items()}


@pytest.mark.parametrize(
    ("kind", "seconds", "why"), [("deep", 6, "not a checkpoint"), ("doubled", 0.5, "too long")]
)
def test_hostile_pickles_harm_only_a_child_process(kind, seconds, why, tmp_path, monkeypatch):
    monkeypatch.setattr("sima_core.weights.formats.UNPICKLE_SECONDS", seconds)
    path = tmp_path / "hostile.pth"
    path.write_bytes(hostile_pickles()[kind])
    assert why in error(path)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda t: t.to(torch.complex64)])
def test_tensors_that_are_no_weights(published, tmp_path, change):
    published["model"]["head.weight"] = change(published["model"]["head.weight"])
    assert re.search("no weights|only real weights", error(save(published, tmp_path / "a.pth")))


def test_integer_weights_are_refused(published, tmp_path):
    published["model"]["head.weight"] = published["model"]["head.weight"].char()
    assert "quantised" in error(save(published, tmp_path / "a.pth"))
