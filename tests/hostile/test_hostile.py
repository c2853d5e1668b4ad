"""The suite's share of the attackers: what once stopped the program, and a sample of the rest.

In full: ``python -m tests.hostile.commands``, ``….page`` and ``….soak --visits 300``.
"""

import sys
from collections import Counter

import pytest

from tests.hostile.files import cases
from tests.hostile.judging import wrong_sentence, wrong_with
from tests.hostile.measuring import Ended
from tests.hostile.support import run_module

#: Seconds of an answer: above the promise, since tests run beside others; what hangs is found.
SECONDS = "20"


def test_there_are_hundreds_of_hostile_files_of_every_kind():
    kinds = Counter(case.kind for case in cases() if not case.good)
    assert sum(kinds.values()) >= 200
    assert min(kinds[kind] for kind in ("picture", "checkpoint", "annotations", "tar")) >= 20
    assert len({case.label for case in cases()}) == len(cases())


@pytest.mark.parametrize("label", ["flipped-jpeg-0", "ppm-bomb", "header-deep", "polygon-inf"])
def test_hostile_files_are_the_same_each_time(label, tmp_path):
    case = next(case for case in cases() if case.label == label)
    first, again = (case.place(tmp_path / name).read_bytes() for name in "ab")
    assert first == again != b""


def test_commands_answer_hostile_files_and_options_in_words():
    done = run_module("commands", "--known", "--limit", "40", "--seconds", SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "40 of 40 answered in words" in done.stdout


def test_the_page_answers_hostile_visitors_in_words():
    done = run_module("page", "--known", "--limit", "110", "--seconds", SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert " 0 times in vain" in done.stdout


def test_visitors_leave_the_app_as_it_was():
    done = run_module("soak", "--visits", "40", "--clients", "8", "--pictures", "4")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "32 pictures" in done.stdout


# That the attackers notice


def ended(**changes: object) -> Ended:
    usual = {
        "status": 2,
        "seconds": 1.0,
        "cpu": 0.5,
        "peak": 300.0,
        "stdout": "",
        "stderr": "error: no.\n",
    }
    return Ended(**{**usual, "lingering": 0, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": None}, "took more than"),
        ({"status": -11}, "ended with status -11"),
        ({"seconds": 11.0}, "took 11.0 s"),
        ({"peak": 1400.0}, "MiB more than usual"),
        ({"stderr": ""}, "said nothing"),
        ({"stderr": "Traceback (most recent call last)\n"}, "Traceback"),
        ({"stderr": "error: \x1b[31mred\n"}, "raw"),
        ({"stderr": "e" * 201}, "a sentence of 201 characters"),
        ({"lingering": 1}, "left 1 process"),
    ],
)
def test_an_answer_that_breaks_a_promise_is_named(changes, said):
    assert said in "; ".join(wrong_with(ended(**changes), [], False, 300.0))


def test_an_answer_in_words_is_fine():
    assert wrong_with(ended(), [], False, 300.0) == []
    bar = "\r  0%|    | 0/1 [00:00<?, ?picture/s]\r          \rerror: no.\n"
    assert wrong_with(ended(stderr=bar), [], False, 300.0) == []
    path = "/home/somebody/" + "n" * 150 + ".png"
    said = ended(stderr=f"{path}: This is not a picture in a format that is read. {'x' * 60}\n")
    assert wrong_with(said, [path], False, 300.0) == []
    assert "refused" in wrong_with(ended(), [], True, 300.0)[0]
    assert wrong_sentence("Choose another.") == []
    assert wrong_sentence(None) != []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_forked_run_is_measured_and_ended(tmp_path):
    """In a process that has no other threads."""
    program = (
        "import os, time, pathlib\n"
        "from tests.hostile.measuring import run_forked\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "def eat():\n    kept = b'x' * (200 << 20)\n    time.sleep(0.3)\n    print(len(kept))\n"
        "def leave():\n    os.fork() or time.sleep(99)\n    return 2\n"
        "one = run_forked(eat, folder, 20, 1 << 30)\n"
        "assert one.status == 0 and one.peak > 200 and one.stdout.strip() == str(200 << 20), one\n"
        "assert run_forked(lambda: time.sleep(99), folder, 0.5, 1 << 30).status is None\n"
        "assert run_forked(os.abort, folder, 20, 1 << 30).status == -6\n"
        "two = run_forked(leave, folder, 20, 1 << 30)\n"
        "assert (two.status, two.lingering) == (2, 1), two\n"
        "print('measured')"
    )
    done = run_module("-c", program)
    assert done.stdout.strip() == "measured", done.stderr
