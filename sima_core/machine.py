"""What this process runs on: its processors, memory and versions; times mean nothing without."""

import ctypes
import functools
import math
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from sima_core import __version__
from sima_core.errors import InputError

_CGROUP = Path("/sys/fs/cgroup")


def cpu_quota(cgroup: Path = _CGROUP) -> int:
    """Whole processors that this process may use; at least 1.

    The smaller of its affinity and its container's CPU quota (cgroup v2 or v1), rounded up:
    `os.cpu_count` counts the host's, and more threads than that only wait for each other.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        if (limit := cgroup / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        if quota != "max" and int(quota) > 0:  # v1 writes -1 for "no limit"
            count = min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no cgroup, or one of an unknown form: the affinity stands
    return max(count, 1)


def available_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes of memory that are free for this process: the machine's, or its container's if less.

    What caches of files would yield counts as free. Where the system does not tell, 4 GiB are
    assumed.
    """
    free = 4 * 2**30
    with suppress(OSError, ValueError, KeyError):
        free = 1024 * int(_table(Path("/proc/meminfo"))["MemAvailable:"])
    for limit, used, statistics, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        with suppress(OSError, ValueError, KeyError):  # no container, no limit, or another version
            allowed = int((cgroup / limit).read_text())
            taken = int((cgroup / used).read_text()) - int(_table(cgroup / statistics)[cached])
            free = min(free, allowed - taken)
    return max(free, 0)


def _table(file: Path) -> dict[str, str]:
    """The lines of a file of names and numbers, as Linux writes them."""
    rows = (line.split() for line in file.read_text().splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1}


def use_available_cpus() -> int:
    """Set torch's threads to `cpu_quota`; returns their number."""
    threads = cpu_quota()
    torch.set_num_threads(threads)
    return threads


def keep_freed_memory() -> None:
    """Let the C library keep up to 256 MiB that was freed instead of handing it back at once.

    Tensors of some megabytes come and go with every forward pass; mapping their pages anew each
    time can double the time of attention over thousands of tokens. Threads share two pools, or
    each of a server's would keep so much. Only glibc is asked.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return  # another C library
    mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its highest
    mallopt(-1, 256 * 2**20)  # M_TRIM_THRESHOLD
    mallopt(-8, 2)  # M_ARENA_MAX


def give_back_freed_memory() -> None:
    """Hand back to the system what the C library keeps of freed memory, in the midst of it too.

    `keep_freed_memory` lets much of it stay, and what is freed between two pieces still used is
    never handed back by itself: a server's memory would grow for days. Takes milliseconds, and the
    next pass maps its pages anew. Only glibc is asked.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def versions() -> dict[str, str]:
    """The versions that a result depends on, by package."""
    packages = {name: version(name) for name in ("torch", "timm", "numpy", "pillow")}
    return {"sima_lens": __version__, "python": platform.python_version(), **packages}


@dataclass(frozen=True)
class Machine:
    """Where something was measured; times mean nothing without it."""

    processor: str
    threads: int
    device: str
    dtype: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls, like: Tensor) -> "Machine":
        """This machine, computing with the device and type of `like`."""
        name = like.device.type
        if name == "cuda":
            name = torch.cuda.get_device_name(like.device)
        return cls(
            _processor_name(), torch.get_num_threads(), name, str(like.dtype)[6:], versions()
        )

    def __str__(self) -> str:
        on = self.processor if self.device == "cpu" else self.device
        return (
            f"{on}, {self.threads} threads, {self.dtype}, torch {self.versions['torch']}, "
            f"SimA Lens {self.versions['sima_lens']}"
        )


@functools.cache
def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def require_memory(num_bytes: int) -> None:
    """Refuse work that would not fit into this machine's memory.

    Raises:
        InputError: more than half of the memory that is free now is needed.
    """
    free = available_memory()
    if num_bytes > free / 2:
        raise InputError(
            f"this needs about {num_bytes / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB "
            "are free: choose a lower resolution or fewer tokens"
        )
