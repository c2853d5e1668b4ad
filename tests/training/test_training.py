"""The training recipe: what it reads, what it writes, and that a killed run goes on exactly."""

import dataclasses
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from sima_core import load_model, provenance, token_norms
from sima_core.attention.modules import PlainAttention
from sima_core.cli import main
from sima_core.coco.split import CocoSplit
from sima_core.experiments.twins import compare_twins, twins_table
from sima_core.training import run as training
from sima_core.training.accuracy import held_out_accuracy
from sima_core.training.data import (
    PictureSet,
    TrainingDataError,
    near_duplicates,
    read_training_data,
    relabelled,
    signatures,
)
from sima_core.training.run import Phase, RandomQuality, Settings, TrainingError, train

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Settings(
    "sima_nano_12_p16", epochs=1.5, batch_size=8, phases=(Phase(0.5, (32,)), Phase(1.0, (32, 64)))
)


def picture(seed: int, tint: int = 0) -> Image.Image:
    """40 × 32 pixels of coarse noise, no two alike."""
    noise = np.random.default_rng(seed).integers(0, 200, (4, 5, 3))
    noise[..., tint] += 55
    return Image.fromarray(noise.astype(np.uint8)).resize((40, 32), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, 16 pictures of each to train on and 4 held out; one file is broken."""
    root = tmp_path_factory.mktemp("photos") / "Flowers"
    for tint, name in enumerate(("red_rose", "green leaf")):
        for split, count in (("train", 16), ("val", 4)):
            where = root / split / name
            where.mkdir(parents=True)
            for i in range(count):
                picture(100 * tint + 50 * (split == "val") + i, tint).save(where / f"{i}.png")
    (root / "train" / "red_rose" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return root


def tar_of(file: Path, pictures: dict[str, Image.Image]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, image in pictures.items():
            buffer = io.BytesIO()
            image.save(buffer, "webp", quality=90)
            member = tarfile.TarInfo(name)
            member.size = buffer.tell()
            archive.addfile(member, io.BytesIO(buffer.getvalue()))
    return file


def test_sources_share_one_label_space_and_copies_are_in_neither_part(
    folder: Path, tmp_path: Path
) -> None:
    copied = picture(1007).resize((80, 64), Image.Resampling.BICUBIC)  # another size of the same
    trained = tar_of(
        tmp_path / "nets-train.tar",
        {"n01532829/a.webp": picture(1007), "n01532829/b.webp": picture(1008)},
    )
    held_out = tar_of(
        tmp_path / "nets-val.tar", {"n01532829/c.webp": copied, "n01532829/d.webp": picture(1009)}
    )
    data = read_training_data([folder, trained, held_out])
    assert data.class_ids == ("flowers/green leaf", "flowers/red_rose", "n01532829")
    assert data.class_names == ("green leaf", "red rose", "house finch")
    assert (len(data.training), len(data.held_out)) == (33, 9)
    assert (data.training_duplicates, data.held_out_duplicates, data.unreadable) == (1, 1, 1)
    assert data.training.sources.count("nets") == 1
    by_class = np.bincount(data.training.labels, minlength=3)
    assert by_class.tolist() == [16, 16, 1]
    assert "33 pictures to train on" in data.summary()


def test_pictures_that_nobody_holds_out_are_held_out_by_name(tmp_path: Path) -> None:
    pictures = {f"{c}/{i}.webp": picture(ord(c) * 100 + i) for c in "ab" for i in range(40)}
    first = read_training_data([tar_of(tmp_path / "plain.tar", pictures)])
    assert 0 < len(first.held_out) < 16
    again = read_training_data([tar_of(tmp_path / "plain.tar", dict(reversed(pictures.items())))])
    assert len(again.held_out) == len(first.held_out)


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"the"):
        where = tmp_path / "drinks" / os.fsdecode(name)
        where.mkdir(parents=True)
        for i in range(30):
            picture(i + 100 * len(name)).save(where / os.fsdecode(b"%d\xe9.png" % i))
    data = read_training_data([tmp_path / "drinks"])
    assert data.class_names == ("caf\ufffd", "the")
    json.dumps(data.labels_json(), ensure_ascii=False).encode()
    assert data.fingerprint()


def test_what_cannot_be_trained_on_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=r"no folder or tar file none\.tar"):
        read_training_data([tmp_path / "none.tar"])
    with pytest.raises(TrainingDataError, match="No picture was found"):
        read_training_data([tmp_path])
    (tmp_path / "cut.tar").write_bytes(b"not a tar")
    with pytest.raises(TrainingDataError, match=r"cut\.tar is not a whole tar file"):
        read_training_data([tmp_path / "cut.tar"])
    one = tar_of(tmp_path / "one.tar", {f"x/{i}.webp": picture(i) for i in range(3)})
    with pytest.raises(TrainingDataError, match="one folder a class"):
        read_training_data([one])
    few = tar_of(tmp_path / "few.tar", {f"{c}/1.webp": picture(ord(c)) for c in "ab"})
    with pytest.raises(TrainingDataError, match="No picture is left to hold out"):
        read_training_data([few])


def test_the_two_parts_may_be_named_by_themselves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_training_data([folder])
    monkeypatch.chdir(folder / "val")
    parts = read_training_data([folder / "train", Path()])
    assert parts.class_ids == whole.class_ids
    assert parts.fingerprint() == whole.fingerprint()
    assert parts.fingerprint() != dataclasses.replace(parts, held_out=parts.training).fingerprint()


def test_near_duplicates_survive_size_and_compression_and_spare_the_others() -> None:
    def as_set(images: list[Image.Image]) -> PictureSet:
        arrays = [np.asarray(image) for image in images]
        return PictureSet(arrays, np.zeros(len(arrays), np.int64), ("s",) * len(arrays))

    buffer = io.BytesIO()
    picture(3).resize((120, 96)).save(buffer, "jpeg", quality=40)
    ours = as_set([picture(i) for i in range(6)])
    theirs = as_set([Image.open(buffer).convert("RGB"), picture(77)])
    in_ours, in_theirs = near_duplicates(signatures(ours), signatures(theirs))
    assert np.flatnonzero(in_ours).tolist() == [3]
    assert in_theirs.tolist() == [True, False]


def test_labels_follow_the_model_that_is_measured() -> None:
    pixels = [np.asarray(picture(i)) for i in range(4)]
    pictures = PictureSet(pixels, np.array([0, 1, 2, 1]), ("s",) * 4)
    found = relabelled(pictures, ("a", "b", "c"), ("c", "b"))
    assert found.labels.tolist() == [1, 0, 1]
    with pytest.raises(TrainingDataError, match="none of the pictures' classes"):
        relabelled(pictures, ("a", "b", "c"), ())


def test_accuracy_counts_ranks_by_source() -> None:
    class Reddest(nn.Module):
        """Ranks red, green, blue by the mean of the channels; three more classes come after."""

        def __init__(self, scale: float = 1.0) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            low = torch.tensor([-97.0, -98.0, -99.0]).expand(len(x), 3)
            return self.scale * torch.cat([x.mean((2, 3)), low], 1)

    def plain(colour: tuple[int, int, int]) -> np.ndarray:
        return np.asarray(Image.new("RGB", (20, 10), colour))

    red, green = (250, 90, 0), (0, 250, 10)
    pictures = PictureSet(
        [plain(red), plain(red), plain(green)], np.array([0, 1, 4]), ("a", "a", "b")
    )
    found = held_out_accuracy(Reddest(), pictures, 32)
    assert found.top1 == pytest.approx(1 / 3)
    assert found.by_source == {"a": 0.5, "b": 0.0}
    assert found.top5 == 1.0
    for scale in (0.0, float("nan")):  # a model that says nothing is right about nothing
        found = held_out_accuracy(Reddest(scale), pictures, 32)
        assert (found.top1, found.top5) == (0.0, 0.0)


def test_a_run_leaves_weights_with_a_card_that_load_again(folder: Path, tmp_path: Path) -> None:
    data = read_training_data([folder])
    trained = train(data, SMALL, tmp_path / "run", compiled=False)
    assert trained is not None
    assert {f.name for f in (tmp_path / "run").iterdir()} >= {
        "sima_nano_12_p16.safetensors", "labels.json", "CARD.md", "log.jsonl", "log.png",
    }  # fmt: skip
    model = load_model(trained.weights)
    origin = provenance(model)
    assert (origin.architecture, origin.labels) == ("sima_nano_12_p16", data.class_names)
    assert origin.class_ids == data.class_ids
    (tmp_path / "alone").mkdir()  # as when only the weights are uploaded
    alone = shutil.copy(trained.weights, tmp_path / "alone")
    assert provenance(load_model(alone)).class_ids == data.class_ids
    with safe_open(trained.weights, "pt") as file:
        metadata = file.metadata()
        assert file.get_tensor("head.weight").dtype is torch.float16
    assert metadata["architecture"] == "sima_nano_12_p16"
    assert json.loads(metadata["accuracy"])["224"]["images"] == 8
    assert metadata["code_version"]
    # The figures are those of the file, rounded to halves as it is.
    assert held_out_accuracy(model, data.held_out, 224) == trained.accuracy[224]
    card = trained.card.read_text("utf-8")
    assert "held-out at 224 px" in card
    assert "muon" in card
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert lines[-1]["step"] == 6
    assert {"loss", "accuracy", "images_per_second"} <= lines[-1].keys()


STEP_BY_STEP = """
import sys, time
from pathlib import Path
import sima_core.training as training
from sima_core.training.data import read_training_data
training.SAVE_SECONDS = 0.0  # after every step
import torch
torch.set_num_threads(1)
settings = training.Settings("sima_nano_12_p16", epochs=1.5, batch_size=8,
    phases=(training.Phase(0.5, (32,)), training.Phase(1.0, (32, 64))))

class Slow(training._Batches):
    def __getitem__(self, step):
        time.sleep(0.5 if step > 1 else 0.0)  # so that it is stopped before its end
        return super().__getitem__(step)

training._Batches = Slow
training.train(read_training_data([Path(sys.argv[1])]), settings, Path(sys.argv[2]), compiled=False)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_exactly(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    data = read_training_data([folder])
    straight = train(data, SMALL, tmp_path / "straight", compiled=False)
    run = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-c", STEP_BY_STEP, str(folder), str(run)], stderr=subprocess.PIPE
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


def test_pieces_are_the_whole(folder: Path, tmp_path: Path) -> None:
    data = read_training_data([folder])
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


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sima_core.training.run.SAVE_SECONDS", 0.0)
    data = read_training_data([folder])
    wild = dataclasses.replace(SMALL, optimizer="sgd", learning_rate=1e30, epochs=10)
    with pytest.raises(TrainingError, match=r"not a finite number .* nothing had been saved"):
        train(data, wild, tmp_path / "wild", compiled=False)
    assert not (tmp_path / "wild" / "state.pt").exists()

    step = training._Run._one_step

    def broken(run: training._Run, *batch: torch.Tensor) -> tuple[float, float]:
        found = step(run, *batch)
        if run.step == 3:  # as an update may that follows the last finite loss
            run.model.head.bias.data[0] = float("nan")
        return found

    monkeypatch.setattr(training._Run, "_one_step", broken)
    with pytest.raises(TrainingError, match=r"at step 3: .* good state, of step 2, is kept"):
        train(data, SMALL, tmp_path / "run", compiled=False)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_full_disk_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: dict[str, object], file: BinaryIO) -> None:
        with Path("/dev/full").open("wb") as nowhere:
            really(state, nowhere)

    really = torch.save
    data = read_training_data([folder])
    assert train(data, SMALL, tmp_path / "run", stop_after=2, compiled=False) is None
    before = (tmp_path / "run" / "state.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(TrainingError, match=r"[nN]o space .*left.*make room"):
            train(data, SMALL, tmp_path / "run", resume=True, compiled=False)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert len(list((tmp_path / "run").glob("state.pt*"))) == 1

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = 60_000_000  # for the state; the weights are made as if there were none
    monkeypatch.setattr(training, "save", lambda *_: bytes(room + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(TrainingError, match="make room"):
            train(data, SMALL, tmp_path / "run", resume=True, compiled=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_training_starts_from_given_weights_class_by_class(folder: Path, tmp_path: Path) -> None:
    data = read_training_data([folder])
    first = train(data, SMALL, tmp_path / "first", compiled=False)
    assert first is not None
    still = dataclasses.replace(SMALL, optimizer="sgd", learning_rate=1e-12, weight_decay=0.0)
    swapped = dataclasses.replace(
        data, class_ids=data.class_ids[::-1], class_names=data.class_names[::-1]
    )
    second = train(swapped, still, tmp_path / "second", initial=first.weights, compiled=False)
    assert second is not None
    before, after = (load_model(t.weights).state_dict() for t in (first, second))
    torch.testing.assert_close(after["head.bias"], before["head.bias"].flip(0), rtol=0, atol=1e-3)
    other = dataclasses.replace(SMALL, model="sima_deit_nano_patch16_224")
    wider = dataclasses.replace(SMALL, model="sima_tiny_12_p16")
    for unlike in (other, wider):
        with pytest.raises(TrainingError, match="does not fit"):
            train(data, unlike, tmp_path / "third", initial=first.weights, compiled=False)


def test_the_command_trains_measures_and_refuses(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    arguments = ["train", str(folder), "--model", "deit_nano_patch16_224", "--out", out]
    arguments += ["--batch-size", "8", "--resolutions", "32", "--no-compile"]
    assert main([*arguments, "--epochs", "1"]) == 0
    assert "held out, at 224 px" in capsys.readouterr().out
    weights = str(tmp_path / "run" / "deit_nano_patch16_224.safetensors")
    assert main(["accuracy", str(folder), "--checkpoint", weights, "--resolutions", "64"]) == 0
    assert "at 64 px: " in capsys.readouterr().out
    for wrong, says in (
        (["--epochs", "1"], "already holds a run"),
        (["--epochs", "0"], "must be more than 0"),
        (["--epochs", "nan"], "must be more than 0"),
        (["--minutes", "0"], "must be more than 0"),
        (["--seed", "-1"], "0 or more"),
        (["--optimizer", "none"], "no optimiser 'none'"),
        (["--resolutions", "100"], "multiples of 32"),
        (["--batch-size", "7"], "even"),
        (["--mix", "1.5"], "steps that mix must be between 0 and 1"),
        (["--sharpest", "0"], "32 pixels or more"),
        (["--coarser", "-1"], "pictures made coarser must be between 0 and 1"),
        (["--compressed", "nan"], "pictures compressed must be between 0 and 1"),
        (["--resume", "--epochs", "2"], "another epochs"),
        (["--resume", "--epochs", "1", "--mix", "0"], "another mix_probability"),
    ):
        assert main([*arguments, *wrong]) == 2
        said = capsys.readouterr().err
        assert says in said
        assert str(tmp_path) not in said


def test_minutes_become_epochs_that_resuming_keeps(folder: Path, tmp_path: Path) -> None:
    data = read_training_data([folder])
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_and_resumes(folder: Path, tmp_path: Path) -> None:
    data = read_training_data([folder])
    assert train(data, SMALL, tmp_path / "run", device="cuda", stop_after=2) is None
    trained = train(data, SMALL, tmp_path / "run", device="cuda", resume=True)
    assert trained is not None
    assert len(trained.accuracy) == 3


def test_sharpness_is_taken_away_at_random_and_never_added() -> None:
    image = picture(1).resize((100, 80))
    always, never = RandomQuality(1.0, 0.0), RandomQuality(0.0, 0.0)
    sides = [min(always(image).size) for _ in range(20)]
    assert all(40 <= side <= 80 for side in sides)
    assert len(set(sides)) > 1
    assert never(image) is image
    capped = RandomQuality(0.0, 0.0, sharpest_side=60)(image)
    assert capped.size == (75, 60)


def test_pictures_are_compressed_at_random_and_keep_their_size() -> None:
    image = picture(1).resize((100, 80))

    def error(result: Image.Image) -> float:
        assert result.size == image.size
        return float(np.abs(np.asarray(result, int) - np.asarray(image, int)).mean())

    def error_at(quality: int) -> float:
        jpeg = io.BytesIO()
        image.save(jpeg, "jpeg", quality=quality)
        return error(Image.open(jpeg))

    errors = [error(RandomQuality(0.0, 1.0)(image)) for _ in range(30)]
    assert error_at(95) <= min(errors) < max(errors) <= error_at(15)
    assert len(set(errors)) > 10


def test_runs_without_compression_draw_the_numbers_they_always_drew() -> None:
    image = picture(1).resize((100, 80))
    random.seed(5)
    RandomQuality(1.0, 0.0)(image)
    drawn = random.random()
    random.seed(5)
    random.random(), random.uniform(0, 1)  # whether to make it coarser, and by how much
    assert drawn == random.random()


@pytest.mark.parametrize("content", [b"", b"nothing", -1, -40])
def test_a_damaged_or_older_state_is_said(
    folder: Path, tmp_path: Path, content: bytes | int
) -> None:
    data = read_training_data([folder])
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


@pytest.mark.parametrize("optimizer", ["fusedadam", "adahessian"])
def test_optimisers_that_cannot_be_used_are_refused(
    folder: Path, tmp_path: Path, optimizer: str
) -> None:
    other = dataclasses.replace(SMALL, optimizer=optimizer)
    with pytest.raises(TrainingError, match="cannot be used here"):
        train(read_training_data([folder]), other, tmp_path / "run", compiled=False)


def test_plain_attention_is_the_bare_product_and_is_captured_as_it_is() -> None:
    torch.manual_seed(0)
    attention = PlainAttention(16, 2)
    x = torch.randn(2, 9, 16)
    q, k, v = attention.qkv(x).view(2, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)
    expected = attention.proj((q @ k.transpose(-2, -1) @ v).transpose(1, 2).flatten(2))
    for order in ("qk_first", "kv_first"):
        attention.order = order
        torch.testing.assert_close(attention(x), expected)
    model = load_model("plain_deit_nano_patch16_224")
    pixels = torch.randn(1, 3, 64, 64)
    seen: list[torch.Tensor] = []
    hook = model.blocks[11].attn.qkv.register_forward_hook(lambda m, a, out: seen.append(out))
    norms = token_norms(model, pixels, 12)
    hook.remove()
    expected = seen[0][0, 1:, :128].norm(dim=-1).view(4, 4)
    torch.testing.assert_close(norms.query[0], expected)


def test_twins_are_trained_once_and_tabled(
    folder: Path, tmp_path: Path, coco_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sima_core.experiments.twins.TIMED_RESOLUTIONS", (32,))
    monkeypatch.setattr("sima_core.experiments.twins.BATCH_SIZE", 8)
    monkeypatch.setattr("sima_core.training.run.compile_blocks", lambda model: None)
    data = read_training_data([folder])
    split = CocoSplit(coco_root, "val2017")
    models = ["deit_nano_patch16_224", "sima_deit_nano_patch16_224_1h"]
    twins = compare_twins(data, tmp_path / "twins", split, models, [3], 1.0, 32)
    assert [twin.model for twin in twins] == models
    assert all(0 <= twin.top1[0] <= 1 and 0 <= twin.auc["query"] <= 1 for twin in twins)
    assert all(twin.forward_seconds[32] > 0 for twin in twins)
    table = twins_table(twins)
    assert all(f"| `{model}` |" in table for model in models)
    result = tmp_path / "twins" / f"{models[0]}-3" / "result.json"
    kept = result.read_text()
    compare_twins(data, tmp_path / "twins", split, models, [3], 1.0, 32)
    assert result.read_text() == kept  # its seconds would differ had it been trained again
    with pytest.raises(TrainingError, match="other options"):
        compare_twins(data, tmp_path / "twins", split, models, [3], 2.0, 32)


def test_twins_without_objects_to_score_on_train_nothing(
    folder: Path, tmp_path: Path, coco_root: Path
) -> None:
    listed = tmp_path / "annotations" / "instances_val2017.json"
    listed.parent.mkdir()
    shutil.copy(coco_root / "annotations" / listed.name, listed)  # and no picture
    data = read_training_data([folder])
    with pytest.raises(TrainingError, match="no picture of val2017 with objects"):
        compare_twins(data, tmp_path / "twins", CocoSplit(tmp_path, "val2017"))
    assert not (tmp_path / "twins").exists()
