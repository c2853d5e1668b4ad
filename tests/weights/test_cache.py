"""The store for visitors' models."""

import pytest
import torch

from sima_core.weights.cache import ModelCache, ModelGoneError, num_bytes


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
