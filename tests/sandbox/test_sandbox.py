"""Jobs in a process of their own: they come back, or die of their limits and harm nobody."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sima_core.sandbox.sandbox import (
    MAX_JOBS,
    BrokenError,
    BusyError,
    Limits,
    Result,
    Sandbox,
    TooLargeError,
    TooSlowError,
)

LIMITS = Limits(seconds=20, memory_bytes=2**28, output_bytes=2**22)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox("tests.sandbox.tasks")
    yield made
    made.close()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stranger") / "file"
    path.write_bytes(b"some bytes")
    return path


def run(sandbox: Sandbox, stranger: Path, task: str, limits: Limits = LIMITS, **a: Any) -> Result:
    with stranger.open("rb") as file:
        return sandbox.run(f"tests.sandbox.tasks:{task}", file, limits, **a)


def test_a_job_gets_its_file_and_arguments_and_gives_words_and_bytes(sandbox, stranger) -> None:
    found = run(sandbox, stranger, "echo", number=3, names=["a"])
    assert found.answer == {"number": 3, "names": ["a"]}
    assert bytes(found.data) == b"some bytes"


def test_an_endless_job_is_ended_while_others_are_done(sandbox, stranger) -> None:
    endless: list[BaseException] = []

    def spin() -> None:
        with pytest.raises(TooSlowError) as caught:
            run(sandbox, stranger, "spin", Limits(2, 2**28, 2**22))
        endless.append(caught.value)

    run(sandbox, stranger, "echo")  # warm
    thread = threading.Thread(target=spin)
    thread.start()
    started = time.monotonic()
    run(sandbox, stranger, "echo")
    assert thread.is_alive(), "another's endless job made this one wait"
    thread.join(30)
    assert endless
    assert time.monotonic() - started < 30


def test_who_finds_no_place_is_told_so(sandbox, stranger, monkeypatch) -> None:
    monkeypatch.setattr("sima_core.sandbox.sandbox.WAIT_SECONDS", 0.01)
    for _ in range(MAX_JOBS):
        sandbox._places.acquire()
    with pytest.raises(BusyError, match="try again"):
        run(sandbox, stranger, "echo")
    for _ in range(MAX_JOBS):
        sandbox._places.release()
    run(sandbox, stranger, "echo")


def test_what_a_child_has_written_keeps_its_size(sandbox, stranger) -> None:
    """It may live on and cut its file, on which this process would die (SIGBUS)."""
    found = run(sandbox, stranger, "cut_later")
    time.sleep(0.5)
    assert bytes(found.data) == b"some bytes"


def test_a_task_may_set_itself_an_earlier_end(sandbox, stranger) -> None:
    started = time.monotonic()
    with pytest.raises(TooSlowError):
        run(sandbox, stranger, "spin_briefly", Limits(60, 2**28, 2**22))
    assert time.monotonic() - started < 50


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("eat", TooLargeError),
        ("crash", BrokenError),
        ("fail", BrokenError),
        ("flood", BrokenError),
        ("chatter", BrokenError),
    ],
)
def test_what_a_job_breaks_is_gone_with_it(sandbox, stranger, task, error) -> None:
    with pytest.raises(error):
        run(sandbox, stranger, task)
    assert bytes(run(sandbox, stranger, "echo").data) == b"some bytes"


def test_a_process_that_was_killed_is_started_again(sandbox, stranger) -> None:
    run(sandbox, stranger, "echo")
    assert sandbox._process is not None
    sandbox._process.kill()
    sandbox._process.wait()
    assert bytes(run(sandbox, stranger, "echo").data) == b"some bytes"


def test_jobs_leave_no_descriptors_and_no_processes(sandbox, stranger) -> None:
    run(sandbox, stranger, "echo")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        run(sandbox, stranger, "echo")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert sandbox._process is not None
    pid = sandbox._process.pid
    time.sleep(0.2)
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text().split() == []
