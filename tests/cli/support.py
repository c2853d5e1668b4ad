"""The command line, run as a user runs it."""

import contextlib
import io
import subprocess
import sys

import torch

from sima_core.cli import main
from tests.support import ROOT


def run(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """``python -m sima_core`` in a process of its own; whatever happens, no traceback is shown."""
    command = [sys.executable, "-m", "sima_core", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert "Traceback" not in done.stderr
    return done


def run_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process, where torch is there already: seconds sooner."""
    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(list(map(str, arguments)))
    finally:
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
