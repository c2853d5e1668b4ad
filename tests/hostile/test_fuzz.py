"""Mutated files give results or our own sentences; longer by ``python -m tests.hostile.fuzz``."""

import pytest

from tests.hostile.support import run_module


def test_mutated_files_give_results_or_sentences():
    done = run_module("fuzz", "--seconds", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mutated files read, 0 batches" in done.stdout


@pytest.mark.parametrize("answer", ["raise KeyError('x')", "import os; os.abort()"])
def test_the_fuzzer_notices(answer, tmp_path):
    """A reader that raises anything else, or crashes, is named."""
    program = (
        "from tests.hostile import fuzz\n"
        f"def read(path):\n    {answer}\n"
        "target = fuzz.Target('lists', fuzz._lists, read)\n"
        "print(fuzz.fuzz_batch(target, 0, 2))"
    )
    assert "lists, seed 0: ended with" in run_module("-c", program).stdout
