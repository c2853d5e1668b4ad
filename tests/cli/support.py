"""The command line, run as a user runs it."""

import subprocess
import sys

from tests.support import ROOT


def run(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """``python -m sima_core`` in a process of its own; whatever happens, no traceback is shown."""
    command = [sys.executable, "-m", "sima_core", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert "Traceback" not in done.stderr
    return done
