"""Good files with bytes changed by chance: they load, or are refused in a sentence."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from sima_core.weights import formats
from sima_core.weights.sentences import CheckpointError
from tests.weights.support import saved_bytes

WEIGHTS = {"head.weight": torch.arange(6.0).view(2, 3), "head.bias": torch.zeros(2).half()}
PICKLED = {"model": WEIGHTS, "epoch": 3}


def legacy_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def tensors_file() -> bytes:
    return safetensors_bytes(WEIGHTS, {"labels": json.dumps(["a", "b"]), "architecture": "x"})


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, or a part taken out, repeated, or cut off."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        begin, end = sorted(chance.choices(range(len(found) + 1), k=2))
        kind = chance.randrange(5)
        if kind == 0:
            del found[begin : min(end, begin + 9)]
        elif kind == 1:
            found[begin:begin] = found[begin : min(end, begin + 40)]
        elif kind == 2 and len(found) > 30:
            del found[max(begin, 30) :]
        elif kind == 3:
            found[begin:begin] = chance.choice([b"9" * 30, b"[" * 2000, b'"', b"-1", b"1e999"])
        elif begin < len(found):
            found[begin] = chance.randrange(256)
    return bytes(found)


@pytest.mark.parametrize(
    ("make", "rounds"),
    [(tensors_file, 600), (lambda: saved_bytes(PICKLED), 60), (lambda: legacy_bytes(PICKLED), 60)],
    ids=["safetensors", "zip", "legacy"],
)
def test_changed_files_load_or_are_refused(
    make: Callable[[], bytes], rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "UNPICKLE_SECONDS", 4)
    content, path = make(), tmp_path / "changed"
    refused = []
    for seed in range(rounds):
        path.write_bytes(mutated(content, random.Random(seed)))
        with path.open("rb") as file:
            try:
                for tensor in formats.read_file(file, "it").load().values():
                    tensor.float().sum()
            except CheckpointError as error:
                refused.append(str(error))
    assert len(refused) > rounds * 0.3
    assert all(sentence.isprintable() and len(sentence) <= 200 for sentence in refused)
    path.write_bytes(content)
    with path.open("rb") as file:
        assert formats.read_file(file, "it").load().keys() == WEIGHTS.keys()
