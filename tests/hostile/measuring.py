"""Run something in a forked process with caps, and say how it ended, how long it took, how large.

Memory is that of the process with all its descendants: proportional shares (PSS), looked at every
few hundredths of a second, and the system's own high-water mark of the process.
"""

import ctypes
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

MIB = 2**20
#: Seconds between two looks at the memory.
LOOK_SECONDS = 0.03
#: Seconds that descendants have to end after the process has.
LINGER_SECONDS = 3.0
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    #: The exit status; minus a signal's number where one ended it; None where time ran out.
    status: int | None
    seconds: float
    #: Of the processors, as far as the system counted it: little of it means that others were busy.
    cpu: float
    #: The most that it held, with all its descendants, in MiB.
    peak: float
    stdout: str
    stderr: str
    #: Descendants that were still there seconds after its end, and were killed.
    lingering: int


def run_forked(
    function: Callable[[], int | None], folder: Path, seconds: float, memory: int
) -> Ended:
    """Call a function in a forked process; its standard output and error go to files in `folder`.

    The calling process must have no other threads, and have computed nothing with torch: its
    threads do not come along.

    Args:
        seconds: after which the process and its descendants are killed.
        memory: bytes of address space beyond those of this process (a cap, not a measurement).
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans come to this process
    before = set(descendants(os.getpid()))
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(function, folder, memory)
    peak, cpu, status = 0.0, 0.0, None
    try:
        while time.monotonic() - started < seconds:
            pid, wait_status, used = os.wait4(child, os.WNOHANG)
            if pid:
                status = os.waitstatus_to_exitcode(wait_status)
                peak = max(peak, used.ru_maxrss / 1024)
                cpu = max(cpu, used.ru_utime + used.ru_stime)
                break
            looking = time.monotonic()
            peak, cpu = max(peak, tree_mib(child)), max(cpu, _tree_cpu(child))
            # A look at a large process takes long: it shall not become a burden itself.
            time.sleep(max(LOOK_SECONDS, 5 * (time.monotonic() - looking)))
        took = time.monotonic() - started
    finally:  # whatever interrupts this, nothing is left running
        lingering = _end_others(before, patient=status is not None)
    texts = [(folder / name).read_bytes().decode(errors="replace") for name in ("out", "err")]
    return Ended(status, took, cpu, peak, *texts, lingering)


def _become(function: Callable[[], int | None], folder: Path, memory: int) -> NoReturn:
    """The forked process: streams to files, the cap on memory, and the end with a status."""
    status = 1
    try:
        os.setsid()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for target, name in enumerate(("/dev/null", folder / "out", folder / "err")):
            os.dup2(os.open(name, flags if target else os.O_RDONLY, 0o600), target)
        sys.stdout = _stream(1, "strict")
        sys.stderr = _stream(2, "backslashreplace")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (_mapped() + memory, hard))
        status = function() or 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
    except BaseException:  # as the interpreter ends with what nobody caught
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 0xFF)


def _stream(descriptor: int, errors: str) -> TextIO:
    """A stream as the interpreter opens it at its start."""
    return open(descriptor, "w", encoding="utf-8", errors=errors, closefd=False)


def _mapped() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _end_others(before: set[int], patient: bool) -> int:
    """Wait for descendants to end, or kill them; how many had to be killed in spite of patience."""
    until = time.monotonic() + (LINGER_SECONDS if patient else 0)
    while (left := _alive(before)) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
    killed = len(left)
    for _ in range(200):  # until the killed are gone, who may have had children meanwhile
        if not left:
            break
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
        left = _alive(before)
    return killed if patient else 0


def _alive(before: set[int]) -> list[int]:
    """Descendants that were not there before; those that have ended are taken leave of."""
    found = []
    for pid in set(descendants(os.getpid())) - before:
        with suppress(ChildProcessError):  # another's child
            if os.waitpid(pid, os.WNOHANG)[0]:
                continue
        found.append(pid)
    return found


def descendants(pid: int) -> list[int]:
    """The process's children, and theirs, without itself."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def tree_mib(pid: int) -> float:
    """What a process and its descendants hold now, each page counted once, in MiB."""
    return sum(_pss_kib(one) for one in (pid, *descendants(pid))) / 1024


def _tree_cpu(pid: int) -> float:
    """Seconds of the processors that a process and its descendants have had."""
    ticks = 0
    for one in (pid, *descendants(pid)):
        with suppress(OSError, ValueError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _pss_kib(pid: int) -> int:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
