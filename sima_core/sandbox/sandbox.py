"""Read what strangers send in a process of its own, with limits that the system enforces.

A small file can be expensive: a picture that decodes for ever, a header that promises gigabytes, a
pickle that never ends. A `Sandbox` keeps one process warm (`child.py`) that forks a child for each
job; the child has a limit of time and of memory, and dies of them alone. The caller hands over an
open file, and gets back a few words of JSON and a block of bytes.

On other systems than Linux jobs run in this process, without limits.
"""

import atexit
import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sima_core import environment
from sima_core.errors import SimaLensError
from sima_core.sandbox.child import MAX_MESSAGE, run

#: Jobs of one sandbox that may run at once, and seconds that others wait for a place.
MAX_JOBS, WAIT_SECONDS = 4, 60.0
#: Seconds until a sandbox that was just started must take its first job.
START_SECONDS = 60.0
#: Seconds beyond a job's own limit after which it is given up even if the system did not end it.
GRACE_SECONDS = 2.0

if sys.platform != "win32":
    import fcntl

_CHILD = "sima_core.sandbox.child"
_SUPPORTED = sys.platform == "linux"


class SandboxError(SimaLensError):
    """A job came to no result; callers put into words what that means for their file."""

    SENTENCE = ""

    def __init__(self) -> None:
        super().__init__(self.SENTENCE)


class TooSlowError(SandboxError):
    """The job took longer than its limit, and was ended."""

    SENTENCE = "The file takes too long to read."


class TooLargeError(SandboxError):
    """The job wanted more memory than its limit."""

    SENTENCE = "The file takes too much memory to read."


class BrokenError(SandboxError):
    """The job failed in a way that its task did not expect, or crashed."""

    SENTENCE = "The file is broken and cannot be read."


class BusyError(SandboxError):
    """No place became free in time; to be passed on as it is."""

    SENTENCE = "Too many files are being read here: try again in a minute."


@dataclass(frozen=True)
class Limits:
    """What one job may use."""

    #: Of the clock.
    seconds: float
    #: Beyond what the warm process has.
    memory_bytes: int
    #: Of the block of bytes that comes back.
    output_bytes: int


@dataclass(frozen=True)
class Result:
    """What a task gave back, and what it wrote."""

    answer: Any
    #: A mapped file, so that nothing was copied.
    data: memoryview


class Sandbox:
    """A warm process for jobs of one kind; it starts when it is first needed, or `warm` is called.

    Args:
        modules: what the tasks need, imported beforehand.
    """

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_JOBS)
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def warm(self) -> None:
        """Start the process, if it does not run, without waiting until it is ready."""
        if _SUPPORTED:
            with self._lock:
                self._running()

    def run(self, task: str, file: BinaryIO, limits: Limits, **arguments: Any) -> Result:
        """Run one job in a child of its own.

        Args:
            task: ``module:function``; called with the file, a file for its output, and the
                arguments, which must be fit for JSON, as must be what it returns.
            file: open for reading; a real one, with a descriptor.

        Raises:
            TooSlowError, TooLargeError, BrokenError: the job came to no result.
            BusyError: too many jobs are there already.
        """
        job = {"task": task, "arguments": arguments, **asdict(limits)}
        with in_memory() as out:
            if _SUPPORTED:
                if not self._places.acquire(timeout=WAIT_SECONDS):
                    raise BusyError()
                try:
                    said = self._ask(json.dumps(job).encode(), file, out)
                finally:
                    self._places.release()
                _seal(out)
            else:
                said = run(task, os.dup(file.fileno()), os.dup(out.fileno()), arguments)
            if "ok" not in said:
                raise TooLargeError() if said["error"] == "memory" else BrokenError()
            size = os.fstat(out.fileno()).st_size
            data = mmap.mmap(out.fileno(), size) if size else bytearray()
            return Result(said["ok"], memoryview(data))

    def close(self) -> None:
        """End the process; it starts again when it is needed."""
        with self._lock:
            self._end()

    def _ask(self, job: bytes, file: BinaryIO, out: BinaryIO) -> dict[str, Any]:
        """Hand a job over and wait for its answer."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here:
            with there:
                self._send(job, [file.fileno(), out.fileno(), there.fileno()])
            end = time.monotonic() + START_SECONDS
            while True:
                here.settimeout(max(end - time.monotonic(), 0) + GRACE_SECONDS)
                try:
                    message = here.recv(MAX_MESSAGE)
                except TimeoutError:
                    raise TooSlowError() from None
                if not message:
                    raise TooSlowError() if time.monotonic() >= end else BrokenError()
                found: dict[str, Any] = json.loads(message)
                if "end" not in found:
                    return found
                end = found["end"]  # it has begun, or knows better

    def _send(self, job: bytes, descriptors: list[int]) -> None:
        """Hand a job to the process, started anew if it is gone."""
        for _ in range(2):
            with self._lock:
                control = self._running()
                try:
                    socket.send_fds(control, [job], descriptors)
                    return
                except OSError:
                    self._end()
        raise BrokenError()

    def _running(self) -> socket.socket:
        """The way to the process, which is started if it does not run."""
        if self._control is None or self._process is None or self._process.poll() is not None:
            self._end()
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with there:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _CHILD, str(there.fileno()), *self._modules],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    pass_fds=[there.fileno()],
                    start_new_session=True,  # Ctrl-C is for those who asked
                )
            self._control = here
        return self._control

    def _end(self) -> None:
        if self._control:
            self._control.close()
        if self._process:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


def in_memory(content: bytes = b"") -> BinaryIO:
    """A file that no folder has and, where the system can do that, no disk holds; at its start."""
    file, view = _empty(), memoryview(content)
    while view:  # one write takes at most 2 GiB
        view = view[file.write(view) :]
    file.seek(0)
    return file


def _empty() -> BinaryIO:
    if _SUPPORTED:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        return os.fdopen(os.memfd_create("sima-lens", flags), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _seal(out: BinaryIO) -> None:
    """Fix the file's size: to read what a child has cut off meanwhile would crash this process."""
    fcntl.fcntl(out, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)


def _environment() -> dict[str, str]:
    """This process's, where modules are found as here, and no library starts threads."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return environment.inherited(
        PYTHONPATH=path, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="1"
    )
