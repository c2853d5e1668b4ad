"""Names, folders, disks and streams as a hostile system has them: all is written, or nothing is."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sima_core import files
from sima_core.cli.options import json_text
from sima_core.cli.streams import settle
from tests.cli.support import run_here
from tests.support import ROOT

HEATMAP = (sys.executable, "-m", "sima_core", "heatmap", "--resolution", "32")
RESULTS = (".json", ".npz", "_key.png", "_query.png")

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="names and pipes as Linux has")


def heatmap_in(
    folder: Path, *arguments: str | Path, shell: str = ""
) -> subprocess.CompletedProcess:
    """The command in a process of its own; `shell` says what the shell does with its streams."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = ["sh", "-c", f'"$@" {shell}', "sh", *HEATMAP, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, timeout=120, check=False
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    return done


def test_every_name_gives_whole_results_or_a_sentence(photo, tmp_path):
    good = ["-x.png", "new\nline.png", "esc\x1b[31m.png", os.fsdecode(b"\xff\xfe.png"), ".png"]
    long = "long" * 62 + ".png"  # its results' names would be too long, and are cut
    for name in (*good, long):
        photo.save(tmp_path / name, "PNG")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    bad = [tmp_path / "long" / "x.png", tmp_path / "loop.png"]
    out = tmp_path / "out"
    given = [*(tmp_path / name for name in (*good, long)), *bad, "", "nul\0.png", "~nobody/x.png"]
    done = run_here("heatmap", *given, "--out", out, "--resolution", 32)

    assert done.returncode == 1
    assert "maps of 6 of 11 image(s)" in done.stdout
    stems = [Path(name).stem for name in good]
    written = {file.name for file in out.iterdir()}
    cut = {name for name in written if name.startswith("longlonglong")}
    assert len(cut) == len(RESULTS)
    assert written - cut == {f"{s}{e}" for s in stems for e in RESULTS}
    for name, stem in zip(good, stems, strict=True):
        shown = json.loads((out / f"{stem}.json").read_text("utf-8"))["image"]
        assert shown == "".join(c if c.isprintable() else "\ufffd" for c in name)
        assert np.load(out / f"{stem}.npz")["query_norm"].ndim == 2
        assert Image.open(out / f"{stem}_key.png").size == photo.size
    said = done.stderr.split("\r")
    refused = [line for part in said for line in part.splitlines() if ": " in line]
    assert len(refused) == 5
    assert all(len(line) < 200 and line.isprintable() for line in refused)


def test_a_name_is_printed_in_every_encoding(photo, tmp_path):
    name = os.fsdecode(b"caf\xe9\xff.png")
    photo.save(tmp_path / name)
    done = heatmap_in(tmp_path, name, f"gone-ü{name}", "--out", os.fsdecode(b"\xfe"))
    assert done.returncode == 1
    assert b"gone-\\xfc" in done.stderr
    assert b"maps of 1 of 2 image(s) written to ?" in done.stdout


def test_one_picture_that_cannot_be_read_is_status_2_in_every_command(tmp_path):
    out = tmp_path / "out"
    assert run_here("heatmap", "gone.png", "--out", out).returncode == 2
    assert run_here("latency", "gone.png").returncode == 2
    models = ("--models", "bundled,bundled@6")
    assert run_here("compare", "gone.png", *models, "--out", tmp_path / "c.png").returncode == 2


def test_closed_and_full_streams_cost_no_results(photo_file, tmp_path):
    closed = heatmap_in(tmp_path, photo_file, "--out", "a", shell="<&- >&- 2>&-")
    assert closed.returncode == 0
    assert len(list((tmp_path / "a").iterdir())) == 4
    if Path("/dev/full").exists():
        full = heatmap_in(tmp_path, photo_file, "--out", "b", shell="> /dev/full")
        assert (full.returncode, full.stderr.count(b"\n")) == (2, 1)
        assert b"No space left" in full.stderr
        assert len(list((tmp_path / "b").iterdir())) == 4


def test_a_folder_that_is_gone_is_a_sentence(photo_file, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = ["sh", "-c", 'rmdir ../gone; "$@"', "sh", *HEATMAP, photo_file, "--out", "o"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=gone, env=environment, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr == "error: the folder that this runs in is gone: change to another one\n"


def test_a_full_disk_leaves_four_files_or_none(photo_file, tmp_path, monkeypatch):
    """A limit on the size of files stands for the disk; each is met by another of the four."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    run_here("heatmap", photo_file, "--out", tmp_path / "all", "--resolution", 32)
    sizes = sorted(file.stat().st_size for file in (tmp_path / "all").iterdir())
    for number, size in enumerate(sizes):
        out = tmp_path / f"out{number}"
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))
            done = run_here("heatmap", photo_file, "--out", out, "--resolution", 32)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert done.returncode == 2
        assert "The disk is full, so its results cannot be written" in done.stderr
        assert list(out.iterdir()) == []


def test_a_pipe_without_a_reader_is_not_waited_for_for_ever(photo_file, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "READER_SECONDS", 0.1)
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    options = ("--seconds", 0.01, "--resolution", 32, "--out")
    models = ("--models", "bundled,bundled@6")
    done = run_here("compare", photo_file, *models, *options, pipe)
    assert done.returncode == 2
    assert "the figure cannot be written: No such device or address" in done.stderr
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("loop.png", "zero\0.png", "x" * 300 + ".png", "\x1b[2J/x.png"):
        done = run_here("compare", photo_file, *models, *options, tmp_path / name)
        assert done.returncode == 2
        assert "cannot be written: " in done.stderr
        assert done.stderr[:-1].isprintable()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_batch_that_is_told_to_end_leaves_nothing_half_written(photo, tmp_path, how):
    photo.resize((2400, 1600)).save(tmp_path / "a.png")
    command = [*HEATMAP, *["a.png"] * 500, "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = tmp_path / "out"
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            give_up = time.monotonic() + 100
            while not (out / "a.json").exists() and time.monotonic() < give_up:
                time.sleep(0.02)
            process.send_signal(how)
            said = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert said.endswith(b"interrupted\n")
    assert b"Traceback" not in said
    found = {file.name for file in out.iterdir()}
    stems = {name.removesuffix(".json") for name in found if name.endswith(".json")}
    assert not [name for name in found if name.endswith(".partial")]
    assert found == {f"{stem}{end}" for stem in stems for end in RESULTS}


def test_json_holds_no_number_that_other_readers_refuse():
    found = json_text({"a": [float("nan"), (float("inf"), 1.5)], "b": {"c": -float("inf")}})
    assert json.loads(found) == {"a": [None, [None, 1.5]], "b": {"c": None}}


@pytest.mark.parametrize("raised", [OSError, ValueError])
def test_what_cannot_be_written_at_the_end_is_let_go(tmp_path, raised):
    """A full disk, or a stream that is closed: nothing is left that could fail at the exit."""

    with (tmp_path / "out").open("wb", buffering=0) as file:

        class Failing(io.StringIO):
            def flush(self) -> None:
                raise raised("no room")

            def fileno(self) -> int:
                return file.fileno()

        settle(Failing())
        file.write(b"nowhere")
    assert not (tmp_path / "out").read_bytes()
