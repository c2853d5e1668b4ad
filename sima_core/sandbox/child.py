"""The program behind `sima_core.sandbox.sandbox`: forks a child for each job, and limits it.

It is started with a socket and the modules to import beforehand. Each message on the socket holds
a job as JSON and three file descriptors: the stranger's file, a file for what comes out, and a
socket for the answer. The child that is forked for the job takes its limits upon itself and lets
the system enforce them: past its time an alarm ends it, past its memory an allocation fails. What
it breaks is gone with it. This process itself never looks at a stranger's bytes.

It imports nothing but what it is told, so that it starts quickly and forks in a millisecond.
"""

import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

if sys.platform != "win32":
    import resource

#: Bytes of the longest job and of the longest answer.
MAX_MESSAGE = 2**16
#: Lower than the page's own priority: a job that computes to its limit shall not slow others.
NICENESS = 5

# In a child, its way to tell the parent when it ends, by the clock that all processes share.
_say_ends: list[Callable[[float], object]] = []


def serve(control: socket.socket) -> None:
    """Fork a child for every job that comes, until the other side is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no trace
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # and end by their alarm
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE, 3)
        if not message:
            return
        if os.fork() == 0:
            _work(control, message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _work(control: socket.socket, message: bytes, descriptors: list[int]) -> NoReturn:
    """One job, in a process of its own: nothing of it is left but its answer."""
    try:
        control.close()
        file, out, back = descriptors
        job: dict[str, Any] = json.loads(message)
        with socket.socket(fileno=back) as answering:
            _say_ends.append(lambda end: answering.send(json.dumps({"end": end}).encode()))
            be_done_within(job["seconds"])
            _limit(job)
            answering.send(_done(job, file, out))
    finally:  # whatever happens here, this process must not go on as a server
        os._exit(0)


def _done(job: dict[str, Any], file: int, out: int) -> bytes:
    """The answer to a job, which is short: what is long belongs into the file."""
    answer = json.dumps(run(job["task"], file, out, job["arguments"])).encode()
    return answer if len(answer) <= MAX_MESSAGE else b'{"error": "failed"}'


def run(task: str, file: int, out: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a task named as ``module:function``; ``{"ok": …}`` or ``{"error": …}``, for JSON.

    The error is "memory" or "failed", which is a stranger's exception: tasks put into words what
    they expect to go wrong.
    """
    module, _, name = task.partition(":")
    try:
        with os.fdopen(file, "rb") as source, os.fdopen(out, "r+b", buffering=0) as target:
            found = getattr(importlib.import_module(module), name)(source, target, **arguments)
        return {"ok": found}
    except MemoryError:
        return {"error": "memory"}
    except Exception:  # a decoder can raise anything over broken bytes
        return {"error": "failed"}


def be_done_within(seconds: float) -> None:
    """For a task that has seen how large its file is: have the system end it so soon.

    An earlier end stays. Outside a sandbox this does nothing.
    """
    for say_end in _say_ends:
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        if not left or seconds < left:
            say_end(time.monotonic() + seconds)  # first, so that nobody takes the end for a crash
            signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit(job: dict[str, Any]) -> None:
    """Have the system refuse this process more than its memory, and let others go first."""
    memory, output = job["memory_bytes"], job["output_bytes"]
    with suppress(OSError):
        os.nice(NICENESS)
    for kind, limit in (
        (resource.RLIMIT_AS, _mapped_bytes() + memory),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # a lower limit holds already
            resource.setrlimit(kind, (limit, limit))


def _mapped_bytes() -> int:
    """What this process has mapped so far, mostly libraries; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 0
    return pages * resource.getpagesize()


def main() -> None:
    """Import what jobs need, then serve the socket whose number is the first argument."""
    descriptor, *modules = sys.argv[1:]
    with socket.socket(fileno=int(descriptor)) as control:
        for module in modules:
            importlib.import_module(module)
        serve(control)


if __name__ == "__main__":
    # Under its own name, by which tasks import it.
    importlib.import_module("sima_core.sandbox.child").main()
