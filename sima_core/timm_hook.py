"""Whoever imports `sima_core` finds its architectures in timm, without waiting for timm.

``import sima_core; timm.create_model("sima_small_12_p16")`` works: when timm is imported, by
whomever, `sima_core.models` registers them in its wake; and a mismatched torchvision, on which timm
rests, is repaired when it is imported (`torchvision_compat.py`).
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Executes a module by its loader, with what belongs before or after it.
_Execute = Callable[[Loader, ModuleType], None]


def _execute_torchvision(loader: Loader, module: ModuleType) -> None:
    from sima_core.torchvision_compat import declare_operators

    try:
        loader.exec_module(module)
    except RuntimeError as error:
        declare_operators(error)
        loader.exec_module(module)


def _execute_timm(loader: Loader, module: ModuleType) -> None:
    loader.exec_module(module)
    importlib.import_module("sima_core.models")


class _Finder(MetaPathFinder):
    """Finds both packages as they would be found without it, and puts a `_Loader` before theirs."""

    def __init__(self) -> None:
        self._awaited: dict[str, _Execute] = {
            "torchvision": _execute_torchvision,
            "timm": _execute_timm,
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        execute = self._awaited.pop(name, None)  # once, so that the others are asked below
        spec = importlib.util.find_spec(name) if execute else None
        if spec and spec.loader and execute:
            spec.loader = _Loader(spec.loader, execute)
        return spec


class _Loader(Loader):
    """Stands in for a module's own loader while the module is executed."""

    def __init__(self, own: Loader, execute: _Execute) -> None:
        self._own, self._execute = own, execute

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None  # the import system has just set it
        module.__loader__ = module.__spec__.loader = self._own
        self._execute(self._own, module)


def install() -> None:
    """Register the architectures with timm: now if it is there, else once it is imported."""
    if "timm" in sys.modules:
        importlib.import_module("sima_core.models")
    else:
        sys.meta_path.insert(0, _Finder())
