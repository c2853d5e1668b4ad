"""The compiled kernel that is kept: whole and ours, or made anew, or done without."""

import ctypes
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sima_core.attention import kernel
from sima_core.attention.operation import sima_attention
from tests.attention.test_operation import written_out

#: Not where the kernel cannot be had: then a kernel that never works would go unnoticed.
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("cc") or shutil.which("gcc")),
    reason="no C compiler on this machine",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, and no kernel loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel._function.cache_clear()
    yield tmp_path / "sima-lens"
    kernel._function.cache_clear()


def works() -> bool:
    """Whether there is a kernel; what is computed is right in any case."""
    kernel._function.cache_clear()
    torch.manual_seed(0)
    qkv = torch.randn(1, 50, 3 * 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            sima_attention(qkv, 2).double(), written_out(qkv, 2), rtol=1e-4, atol=1e-6
        )
    return kernel.available()


def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where every compilation from now on is noted."""
    compilations: list[str] = []
    build = kernel._build
    monkeypatch.setattr(kernel, "_build", lambda c: compilations.append(c) or build(c))
    return compilations


def test_a_kernel_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compilations = built(monkeypatch)
    assert works()
    assert works()
    assert len(compilations) == 1
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.97, 0.999])
def test_half_a_kernel_is_made_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    """It ended the process with SIGBUS when it was called."""
    assert works()
    [library] = cache.iterdir()
    whole = library.read_bytes()
    half = whole[: int(len(whole) * part)]
    compilations = built(monkeypatch)
    for damaged in (half, half + bytes(len(whole) - len(half))):  # cut off, or never written
        library.unlink()  # the one in use stays whole
        library.write_bytes(damaged)
        assert works()
        assert library.read_bytes() == whole
    assert len(compilations) == 2


def test_what_others_could_write_is_not_loaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert works()
    [library] = cache.iterdir()
    compilations = built(monkeypatch)
    library.chmod(0o666)
    assert works()
    assert not library.stat().st_mode & 0o002
    assert len(compilations) == 1
    elsewhere = cache.parent / "another.so"
    library.rename(elsewhere)
    library.symlink_to(elsewhere)
    assert works()
    cache.chmod(0o777)
    assert not works()
    cache.chmod(0o755)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert not works()


def _no_library(_: object, **__: object) -> None:
    raise OSError("cannot be loaded")


@pytest.mark.parametrize(
    "compiler",
    [
        "#!/bin/sh\nexit 1\n",
        "#!/bin/sh\nexit 0\n",  # leaves nothing
        '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo nothing > "$2"\n',
        "no program",
    ],
)
def test_with_a_broken_compiler_torch_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    program = tmp_path / "bin" / "cc"
    program.parent.mkdir()
    program.write_text(compiler)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert not works()


def test_where_the_kernel_cannot_be_loaded_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    assert not works()


def test_a_library_without_the_function_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    assert not works()


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert not works()


@pytest.mark.parametrize("kind", ["file", "folder in its place"])
def test_where_no_kernel_can_be_kept_torch_does_it(cache: Path, kind: str) -> None:
    if kind == "file":
        cache.write_text("")
    else:
        assert works()
        [library] = cache.iterdir()
        library.unlink()
        library.mkdir()
    assert not works()


def test_two_that_compile_at_once_do_not_disturb_each_other(cache: Path) -> None:
    compiled: list[Path] = []
    threads = [
        threading.Thread(target=lambda: compiled.append(kernel._compiled("cc"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(compiled) == 3
    assert list(cache.iterdir()) == [compiled[0]]
    assert works()
