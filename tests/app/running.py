"""The real app in a process of its own, on a free port of this machine."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT


@dataclass(frozen=True)
class Running:
    """An app that answers."""

    url: str
    process: subprocess.Popen[bytes]
    #: What it prints.
    log: Path


@contextlib.contextmanager
def started_app(folder: Path, **environment: str) -> Iterator[Running]:
    """An app that answers; ended afterwards. Its log goes to `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env={**os.environ, **own, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Running(f"http://127.0.0.1:{port}", process, folder / "log")
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(running.url, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, running.log.read_text()
                time.sleep(0.5)
        yield running
    finally:
        process.terminate()
        try:
            assert process.wait(20) == 0  # it ended by itself
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextlib.contextmanager
def running_app(folder: Path, **environment: str) -> Iterator[str]:
    """The address of a running app; afterwards: no traceback in its log."""
    with started_app(folder, **environment) as running:
        yield running.url
        assert "Traceback" not in running.log.read_text()
