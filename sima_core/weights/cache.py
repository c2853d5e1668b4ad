"""A capped store for models that come and go while the process runs."""

import secrets
import threading
from collections import OrderedDict

from torch import nn

from sima_core.errors import InputError, SimaLensError


class ModelGoneError(SimaLensError, LookupError):
    """The model was dropped to make room for others; load it again."""


class ModelCache:
    """Models by key, at most `max_models` of `max_bytes` in all; the least recently used go first.

    Safe to use from several threads. Raises `InputError` where one model alone is too large.
    """

    def __init__(self, max_models: int = 4, max_bytes: int = 2 * 2**30) -> None:
        self.max_models = max_models
        self.max_bytes = max_bytes
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, model: nn.Module) -> str:
        """Keep `model`; returns the key that gets it back."""
        if num_bytes(model) > self.max_bytes:
            raise InputError(
                f"this model takes {num_bytes(model) >> 20} MiB of memory; "
                f"at most {self.max_bytes >> 20} MiB are allowed"
            )
        key = secrets.token_hex(16)
        with self._lock:
            self._models[key] = model
            while len(self._models) > self.max_models or self._total() > self.max_bytes:
                self._models.popitem(last=False)
        return key

    def get(self, key: str) -> nn.Module:
        """The model kept under `key`, which now counts as used.

        Raises:
            ModelGoneError: it was dropped.
        """
        with self._lock:
            if key not in self._models:
                raise ModelGoneError(
                    "Your checkpoint was unloaded to make room for other visitors' models: "
                    "load it again."
                )
            self._models.move_to_end(key)
            return self._models[key]

    def drop(self, key: str | None) -> None:
        """Forget the model under `key`, if it is still there."""
        with self._lock:
            self._models.pop(key or "", None)

    def __len__(self) -> int:
        return len(self._models)

    def _total(self) -> int:
        return sum(map(num_bytes, self._models.values()))


def num_bytes(model: nn.Module) -> int:
    """The memory that a model's parameters and buffers take, in bytes."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())
