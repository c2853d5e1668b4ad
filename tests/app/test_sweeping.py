"""Uploads and results end after an hour, whoever left them; and the app ends when it is told to."""

import errno
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from app.lifetime import or_say_why
from app.page import max_upload_bytes
from app.sweeping import MAX_AGE, MAX_PAUSE, claim_folder, renew, sweep
from app.visitors import gradio_folder, new_folder
from sima_core.errors import DiskError
from tests.app.client import Visitor, file_data
from tests.app.running import running_app
from tests.support import ROOT, mounted


def age(path: Path, seconds: float = MAX_AGE + 60) -> Path:
    """Make a file, a link or a folder that old."""
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)
    return path


def put(path: Path, seconds: float = MAX_AGE + 60) -> Path:
    """A file that old, in a folder that old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture")
    age(path, seconds)
    age(path.parent, seconds)
    return path


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_what_is_old_goes_and_what_is_young_stays(tmp_path):
    put(tmp_path / "hash" / "upload.png")
    put(tmp_path / "zip" / "inner" / "maps.zip")
    put(tmp_path / "tmpbroken", MAX_PAUSE + 60)  # an upload that broke off
    put(tmp_path / "tmpcoming", MAX_PAUSE - 60)
    put(tmp_path / "both" / "old.png")
    put(tmp_path / "both" / "young.png", 10)
    age_of_empty = tmp_path / "empty"
    age_of_empty.mkdir()
    age(age_of_empty)
    (tmp_path / "about-to-be-filled").mkdir()
    sweep(tmp_path)
    assert left(tmp_path) == {"both", "both/young.png", "about-to-be-filled", "tmpcoming"}
    assert sweep(tmp_path) == 0


def test_links_are_deleted_and_never_followed(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    put(outside / "keep.png")
    inside.mkdir()
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "keep.png")
    (inside / "nowhere").symlink_to(tmp_path / "none")
    for link in inside.iterdir():
        age(link)
    sweep(inside)
    assert not left(inside)
    assert left(outside) == {"keep.png"}


def test_what_vanishes_meanwhile_is_passed_over(tmp_path, monkeypatch):
    for name in "abc":
        put(tmp_path / name / "file")
    unlink = Path.unlink

    def another_was_first(path: Path) -> None:
        unlink(path)
        unlink(path)

    monkeypatch.setattr(Path, "unlink", another_was_first)
    sweep(tmp_path)  # raises nothing
    monkeypatch.undo()
    assert not any(tmp_path.rglob("file"))
    sweep(tmp_path / "missing")


def test_what_was_renewed_stays(tmp_path):
    sample = put(tmp_path / "hash" / "sample.jpg")
    renew([str(sample), str(tmp_path / "gone.jpg")])
    sweep(tmp_path)
    assert sample.exists()


def test_gradio_keeps_its_files_in_a_folder_of_our_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    claim_folder()
    folder = gradio_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    claim_folder()  # as a process does that this one started
    assert gradio_folder() == folder
    put(tmp_path / "of-another-app" / "upload.png")
    sweep(folder)
    assert (tmp_path / "of-another-app" / "upload.png").exists()


def test_a_folder_that_another_user_put_there_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    claim_folder()
    taken = gradio_folder()
    taken.rmdir()
    (tmp_path / "theirs").mkdir()
    taken.symlink_to(tmp_path / "theirs")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    claim_folder()
    assert gradio_folder() != taken
    assert not gradio_folder().is_symlink()


def test_gradio_was_told_before_it_was_imported():
    program = "import app.page, gradio.routes as r; print(r.DEFAULT_TEMP_DIR)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "sima-lens-" in done.stdout


def test_a_result_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with pytest.raises(DiskError, match="disk is full, so the archive"), new_folder("the archive"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not left(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of eight MiB, where one may be mounted."""
    with mounted(tmp_path / "disk", "size=8m") as small:
        if not small:
            pytest.skip("no disk may be mounted here")
        yield tmp_path / "disk"


def test_a_full_disk_is_said_in_a_sentence(small_disk, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(small_disk))
    with pytest.raises(DiskError, match="disk is full"), new_folder("the archive") as folder:
        (folder / "large").write_bytes(b"x" * 9 * 2**20)
    assert not left(small_disk)


def test_on_a_full_disk_uploads_and_results_are_refused_in_words(small_disk, tmp_path, photo_file):
    with (
        running_app(tmp_path, GRADIO_TEMP_DIR=str(small_disk), XDG_CACHE_HOME=str(tmp_path)) as url,
        Visitor(url) as client,
    ):
        photo = file_data(client.upload(photo_file))
        with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with pytest.raises(httpx2.HTTPStatusError) as refused:
            client.upload(photo_file, "other.png")
        assert refused.value.response.status_code == 507
        assert "no room left" in refused.value.response.text
        heatmap = client.handler("heatmap")
        answer = client.call(heatmap.index, heatmap.given(picture=photo, resolution=64))
        assert "no room left" in answer.content


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_the_app_says_why_it_cannot_start(number):
    def build() -> None:
        raise OSError(number, os.strerror(number), "/secret/path")

    with pytest.raises(SystemExit, match="cannot write its files") as ended:
        or_say_why(build)
    assert "secret" not in str(ended.value)


@pytest.mark.parametrize("size", ["big", "-1", "0", "1e3", "9" * 5000])
def test_an_upload_size_that_is_none_is_a_sentence_at_the_start(monkeypatch, size):
    monkeypatch.setenv("SIMA_MAX_UPLOAD_MB", size)
    with pytest.raises(SystemExit, match=r"SIMA_MAX_UPLOAD_MB: .* whole number") as ended:
        or_say_why(max_upload_bytes)
    assert len(str(ended.value)) < 200


def test_an_app_sweeps_what_another_left_and_ends_when_told(tmp_path, photo_file):
    """Uploads of a killed app go at the next start; SIGTERM ends it, whatever it computes."""
    old = put(tmp_path / f"sima-lens-{os.getuid()}" / "hash" / "upload.png")
    with running_app(tmp_path, GRADIO_TEMP_DIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path)) as url:
        deadline = time.monotonic() + 20
        while old.parent.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not old.parent.exists()
        samples = [path for path in old.parents[1].rglob("*.jpg") if path.is_file()]
        assert len(samples) >= 4  # the page shows them
        client = Visitor(url)
        client.begin()
        assert Path(client.upload(photo_file)).is_relative_to(old.parents[1])
        measuring = client.handler("measure_orders")
        client.join(measuring.index, measuring.given(time=20))
        messages = client.messages()
        assert any(m["msg"] == "process_generating" for m in messages)
        told = time.monotonic()
    assert time.monotonic() - told < 10  # of the twenty that it measures
    messages.close()
    client.http.close()
