"""Whoever imports `sima_core` finds its architectures in timm, without waiting for timm.

``import sima_core; timm.create_model("sima_small_12_p16")`` works: a finder waits until timm or
torchvision is imported and then imports `sima_core.models`, which repairs a mismatched torchvision
(`models/torchvision_compat.py`) and registers the architectures.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_AWAITED = ("timm", "torchvision")


class _Finder(importlib.abc.MetaPathFinder):
    """Imports `sima_core.models` before timm and torchvision; finds nothing itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in _AWAITED and self in sys.meta_path:
            sys.meta_path.remove(self)
            if "sima_core.models" in sys.modules:  # it is on its way, and asks for both itself
                return None
            # It imports both itself, so the import that is under way finds all of it done.
            importlib.import_module("sima_core.models")
            return importlib.machinery.ModuleSpec(name, _Done())
        return None


class _Done(importlib.abc.Loader):
    """A loader for a module that is loaded already; leaves it as it is."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = sys.modules[spec.name]
        self._own_spec = module.__spec__  # which the import system is about to overwrite
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec


def install() -> None:
    """Register the architectures with timm: now if it is there, else once it is imported."""
    if any(name in sys.modules for name in _AWAITED):
        importlib.import_module("sima_core.models")
    else:
        sys.meta_path.insert(0, _Finder())
