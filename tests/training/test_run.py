"""A run: killed, interrupted, in pieces, by minutes, or with a loss that is not finite."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from sima_core.training.accuracy import held_out_accuracy
from sima_core.training.data import TrainingData
from sima_core.training.learner import Learner
from sima_core.training.recipe import TrainingError
from sima_core.training.run import duration
from sima_core.training.train import train
from tests.support import ROOT
from tests.training.support import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


STEP_BY_STEP = """
import sys, time
from pathlib import Path
import torch
from sima_core.training import run
from sima_core.training.data import read_training_data
from sima_core.training.train import train
from tests.training.support import SMALL

class Slow(run.Batches):
    def __getitem__(self, step):
        time.sleep(0.5 if step > 1 else 0.0)  # so that it is stopped before its end
        return super().__getitem__(step)

run.Batches = Slow
run.SAVE_SECONDS = 0.0  # after every step
torch.set_num_threads(1)
train(read_training_data([Path(sys.argv[1])]), SMALL, Path(sys.argv[2]), compiled=False)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_exactly(
    flowers: Path, data: TrainingData, tmp_path: Path, how: signal.Signals
) -> None:
    straight = train(data, SMALL, tmp_path / "straight", compiled=False)
    run = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-c", STEP_BY_STEP, str(flowers), str(run)],
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    while not (run / "state.pt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate()
    if how is signal.SIGINT:
        assert b"KeyboardInterrupt" in said
    state = torch.load(run / "state.pt", weights_only=True)
    assert 0 < state["step"] < 6
    resumed = train(data, SMALL, run, resume=True, compiled=False)
    assert straight is not None
    assert resumed is not None
    one, other = load_file(straight.weights), load_file(resumed.weights)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_pieces_are_the_whole(data: TrainingData, tmp_path: Path) -> None:
    assert train(data, SMALL, tmp_path / "run", stop_after=4, compiled=False) is None
    with pytest.raises(TrainingError, match="already holds a run"):
        train(data, SMALL, tmp_path / "run", compiled=False)
    other = dataclasses.replace(SMALL, seed=5)
    with pytest.raises(TrainingError, match="has another seed"):
        train(data, other, tmp_path / "run", resume=True, compiled=False)
    pieces = train(data, SMALL, tmp_path / "run", resume=True, compiled=False)
    straight = train(data, SMALL, tmp_path / "straight", compiled=False)
    assert pieces is not None
    assert straight is not None
    one, other_weights = load_file(pieces.weights), load_file(straight.weights)
    assert all(torch.equal(one[name], other_weights[name]) for name in one)
    seeded = train(data, other, tmp_path / "seeded", compiled=False)
    assert seeded is not None
    assert not torch.equal(load_file(seeded.weights)["head.weight"], one["head.weight"])


def test_minutes_become_epochs_that_resuming_keeps(data: TrainingData, tmp_path: Path) -> None:
    run, straight = tmp_path / "run", tmp_path / "straight"
    assert train(data, SMALL, run, minutes=0.5, stop_after=1, compiled=False) is None
    state = torch.load(run / "state.pt", weights_only=True)
    assert state["settings"]["epochs"] != SMALL.epochs
    # Measuring leaves no trace: a run told these epochs is in the same state.
    told = dataclasses.replace(SMALL, epochs=state["settings"]["epochs"])
    assert train(data, told, straight, stop_after=1, compiled=False) is None
    other = torch.load(straight / "state.pt", weights_only=True)
    for part in ("model", "ema"):
        assert state[part].keys() == other[part].keys()
        assert all(torch.equal(state[part][name], other[part][name]) for name in state[part])
    train(data, SMALL, run, minutes=0.5, resume=True, stop_after=1, compiled=False)
    again = torch.load(run / "state.pt", weights_only=True)
    assert again["settings"]["epochs"] == state["settings"]["epochs"]
    assert again["step"] == 2


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sima_core.training.run.SAVE_SECONDS", 0.0)
    wild = dataclasses.replace(SMALL, optimizer="sgd", learning_rate=1e30, epochs=10)
    with pytest.raises(TrainingError, match=r"not a finite number .* nothing had been saved"):
        train(data, wild, tmp_path / "wild", compiled=False)
    assert not (tmp_path / "wild" / "state.pt").exists()

    learn = Learner.learn

    def broken(learner: Learner, *batch: torch.Tensor) -> tuple[float, float]:
        found = learn(learner, *batch)
        if learner.step == 3:  # as an update may that follows the last finite loss
            learner.model.head.bias.data[0] = float("nan")
        return found

    monkeypatch.setattr(Learner, "learn", broken)
    with pytest.raises(TrainingError, match=r"at step 3: .* good state, of step 2, is kept"):
        train(data, SMALL, tmp_path / "run", compiled=False)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_the_averaged_weights_are_checked_each_epoch_at_the_phases_largest_size(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    def check(model, pictures, side):
        checked.append((len(pictures), side))
        return held_out_accuracy(model, pictures, side)

    bars = []

    class Bar(tqdm):
        def close(self) -> None:
            bars.append((self.n, self.total))
            super().close()

    monkeypatch.setattr("sima_core.training.run.held_out_accuracy", check)
    monkeypatch.setattr("sima_core.training.run.tqdm", Bar)
    assert train(data, SMALL, tmp_path / "run", stop_after=5, compiled=False) is None
    assert checked == [(len(data.held_out) // 4, 64)]  # after step 4 of 6, in the second phase
    assert (5, 6) in bars  # how far the run is, of all its steps


@pytest.mark.parametrize(
    ("seconds", "words"), [(29, "0 min"), (420, "7 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_the_time_left_is_said_in_minutes(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_and_resumes(data: TrainingData, tmp_path: Path) -> None:
    assert train(data, SMALL, tmp_path / "run", device="cuda", stop_after=2) is None
    trained = train(data, SMALL, tmp_path / "run", device="cuda", resume=True)
    assert trained is not None
    assert len(trained.accuracy) == 3
