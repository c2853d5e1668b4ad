"""Attackers as the suite runs them: in a process of their own, where nothing has computed yet."""

import subprocess
import sys

from tests.support import ROOT

#: Seconds that one of them may take on a machine that does much else.
TIMEOUT = 600


def run_module(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m tests.hostile.NAME …``, or a program where the name is ``-c``."""
    what = ["-c"] if name == "-c" else ["-m", f"tests.hostile.{name}"]
    return subprocess.run(
        [sys.executable, *what, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
