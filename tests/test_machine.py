"""Threads, the torchvision repair, the model cache."""

import os
import subprocess
import sys

import pytest
import torch

from sima_core.machine import available_memory, cpu_quota
from sima_core.weights.cache import ModelCache, ModelGoneError, num_bytes

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


def in_fresh_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_torchvision_is_importable_after_sima_core():
    assert in_fresh_python("import sima_core, torchvision, timm; print('fine')") == "fine"


def test_a_working_torchvision_is_left_alone(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("mark = 'real'")
    code = (
        "import sys, importlib.util as u; sys.path.insert(0, {path!r});"
        "s = u.spec_from_file_location('compat', 'sima_core/models/torchvision_compat.py');"
        "m = u.module_from_spec(s); s.loader.exec_module(m); m.ensure_torchvision_imports();"
        "import torchvision; print(torchvision.mark, m.declared)"
    )
    assert in_fresh_python(code.format(path=str(tmp_path))) == "real None"


def small_model() -> torch.nn.Module:
    return torch.nn.Linear(10, 10, bias=False)  # 400 bytes


def test_cache_drops_the_least_recently_used():
    cache = ModelCache(num_bytes, max_models=2, max_bytes=10_000)
    first, second = cache.add(small_model()), cache.add(small_model())
    cache.get(first)
    third = cache.add(small_model())
    assert cache.get(first) is not cache.get(third)
    with pytest.raises(ModelGoneError, match="load it again"):
        cache.get(second)


def test_cache_is_capped_in_memory():
    cache = ModelCache(num_bytes, max_models=10, max_bytes=1000)
    assert num_bytes(small_model()) == 400
    for _ in range(5):
        cache.add(small_model())
    assert len(cache) == 2
    with pytest.raises(ValueError, match="at most"):
        cache.add(torch.nn.Linear(100, 100))


def test_cache_forgets_on_request():
    cache = ModelCache(num_bytes)
    key = cache.add(small_model())
    cache.drop(key)
    cache.drop(key)
    cache.drop(None)
    assert len(cache) == 0
