"""Threads, the torchvision repair, the model cache."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sima_core.machine import Machine, available_memory, cpu_quota

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 99), ("?", 99)],
)
def test_cgroup_v2_quota(tmp_path, cpu_max, expected):
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert cpu_quota(tmp_path) == min(expected, ALLOWED)


@pytest.mark.parametrize(("quota", "expected"), [("100000", 1), ("-1", 99)])
def test_cgroup_v1_quota(tmp_path, quota, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cpu_quota(tmp_path) == min(expected, ALLOWED)


def test_no_cgroup(tmp_path):
    assert cpu_quota(tmp_path) == ALLOWED


V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(("limit", "used", "cached"), [V1, V2])
def test_the_containers_memory_counts_and_its_caches_count_as_free(tmp_path, limit, used, cached):
    folder = (tmp_path / limit).parent
    folder.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("8000000\n")
    (tmp_path / used).write_text("7500000\n")
    (folder / "memory.stat").write_text(f"anon 1000000\n{cached} 6000000\n")
    assert available_memory(tmp_path) == 6_500_000
    (tmp_path / limit).write_text("1000000\n")  # lowered below what is used
    assert available_memory(tmp_path) == 0


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_without_a_limit_the_machines_memory_counts(tmp_path, limit):
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("5")
    (tmp_path / "memory.stat").write_text("inactive_file 0")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < available_memory(tmp_path) < total


def test_a_machine_is_named_by_its_processor():
    listed = Path("/proc/cpuinfo")
    told = listed.read_text() if listed.exists() else ""
    if "model name" not in told:
        pytest.skip("this system does not tell its processor's name")
    name = told.partition("model name")[2].partition(":")[2].splitlines()[0].strip()
    assert str(Machine.here(torch.zeros(1))).startswith(f"{name}, ")


KEPT_AND_GIVEN_BACK = """
import os
from pathlib import Path
from sima_core.machine import give_back_freed_memory, keep_freed_memory

def mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

keep_freed_memory()
pieces = [b"x" * 2**20 for _ in range(200)]
last = pieces.pop()
pieces.clear()
kept = mib()
give_back_freed_memory()
print(kept - mib())
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="only glibc is asked")
def test_freed_memory_that_is_kept_can_be_given_back():
    code = [sys.executable, "-c", KEPT_AND_GIVEN_BACK]
    assert float(subprocess.run(code, check=True, capture_output=True).stdout) > 150
