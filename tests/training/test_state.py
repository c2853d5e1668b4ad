"""What a run keeps on disk."""

import resource
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from sima_core.training import card
from sima_core.training.data import TrainingData
from sima_core.training.recipe import TrainingError
from sima_core.training.state import RunFolder
from sima_core.training.train import train
from tests.training.support import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_full_disk_is_said(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: dict[str, object], file: BinaryIO) -> None:
        with Path("/dev/full").open("wb") as nowhere:
            really(state, nowhere)

    really = torch.save
    assert train(data, SMALL, tmp_path / "run", stop_after=2, compiled=False) is None
    before = (tmp_path / "run" / "state.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(TrainingError, match=r"[nN]o space .*left.*make room"):
            train(data, SMALL, tmp_path / "run", resume=True, compiled=False)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert len(list((tmp_path / "run").glob("*state.pt*"))) == 1

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = 60_000_000  # for the state; the weights are made as if there were none
    monkeypatch.setattr(card, "save", lambda *_: bytes(room + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(TrainingError, match="make room"):
            train(data, SMALL, tmp_path / "run", resume=True, compiled=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("content", [b"", b"nothing", -1, -40])
def test_a_damaged_or_older_state_is_said(
    data: TrainingData, tmp_path: Path, content: bytes | int
) -> None:
    run = tmp_path / "run"
    assert train(data, SMALL, run, stop_after=1, compiled=False) is None
    state = run / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[:content] if isinstance(content, int) else content)
    with pytest.raises(TrainingError, match=r"damaged: delete its state\.pt"):
        train(data, SMALL, run, resume=True, compiled=False)
    state.write_bytes(whole)
    older = torch.load(state, weights_only=True)
    del older["settings"]["compressed_probability"]
    torch.save(older, state)
    with pytest.raises(TrainingError, match="another version"):
        train(data, SMALL, run, resume=True, compiled=False)


def test_damaged_lines_of_the_log_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log({"step": 1, "loss": 0.5})
    with folder.log_file.open("ab") as log:
        for damaged in (
            b"\xff",
            b"null",
            b"[]",
            b"5",
            b"{}",
            b'{"step": "x"}',
            b"[" * 99_999,
            b'{"st',
        ):
            log.write(damaged + b"\n")
    folder.log({"step": 3, "loss": 0.25})
    assert [line["step"] for line in folder.logged()] == [1, 3]
    folder.forget_log_after(2)
    assert [line["step"] for line in folder.logged()] == [1]


@pytest.mark.parametrize("change", [{"model": {}}, {"optimizer": 5}, {"step": None}, {"ema": None}])
def test_a_state_of_other_tensors_is_said(
    data: TrainingData, tmp_path: Path, change: dict[str, object]
) -> None:
    run = tmp_path / "run"
    assert train(data, SMALL, run, stop_after=1, compiled=False) is None
    state = torch.load(run / "state.pt", weights_only=True)
    torch.save(state | change, run / "state.pt")
    with pytest.raises(TrainingError, match=r"damaged: delete its state\.pt"):
        train(data, SMALL, run, resume=True, compiled=False)
    for other in (5, [], {"settings": 5}):
        torch.save(other, run / "state.pt")
        with pytest.raises(TrainingError, match=r"damaged: delete its state\.pt"):
            train(data, SMALL, run, resume=True, compiled=False)
