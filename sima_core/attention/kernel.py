"""A small compiled kernel for SimA's ℓ1-norms, where there is a C compiler; optional.

The norms are one pass over Q and K. PyTorch's own operations take about three such passes, which
costs 40 to 80 % of the two matrix products; the loop in `norms.c` takes one. It is compiled once,
in a second, into the user's cache folder. Without a compiler everything works, only slower.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sima_core import environment
from sima_core.files import cache_folder, open_regular, replacing

_SOURCE = Path(__file__).with_name("norms.c")
# No -ffast-math: NaN and infinity must come through.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-std=c11")

#: Bytes of the largest library; it has some 20 KB.
_MAX_BYTES = 10 * 2**20

_Function = Callable[..., int]


def is_plain_inference(qkv: Tensor) -> bool:
    """Whether operations on this tensor are neither recorded, traced, transformed nor compiled.

    Autograd in both modes, `torch.func` and torch's compilers and tracers must see PyTorch's own
    operations, out of place and the same for every size. What is not contiguous takes their way
    too.
    """
    return (
        not torch.compiler.is_compiling()
        and type(qkv) is Tensor
        and qkv.is_contiguous()
        and not (qkv.requires_grad and torch.is_grad_enabled())
        and torch._C._get_tracing_state() is None
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )


def available() -> bool:
    """Whether the kernel could be compiled here."""
    return _function() is not None


def supports(qkv: Tensor, matrix: Tensor) -> bool:
    """Whether `divide_by_norms` can take these: float32 on the processor, and a compiler.

    Of the two, `matrix` may differ: under autocast a product has another type than its factors.
    """
    return (
        qkv.dtype is matrix.dtype is torch.float32
        and qkv.is_cpu
        and matrix.is_contiguous()
        and _function() is not None
    )


def divide_by_norms(qkv: Tensor, matrix: Tensor, floor: float) -> Tensor:
    """Divide `matrix` in place by the products of each channel's two ℓ1-norms over the tokens.

    Args:
        qkv: contiguous (B, N, 3·C) for which `is_plain_inference` and `supports` hold.
        matrix: contiguous (B·H, d, cols), float32, with H·d = C; its rows are the channels.
        floor: the least norm.

    Raises:
        MemoryError: not even a few kilobytes are left.
    """
    function = _function()
    assert function is not None
    batch, num_tokens, width = qkv.shape
    addresses = qkv.data_ptr(), matrix.data_ptr()
    if function(*addresses, batch, num_tokens, width // 3, matrix.shape[-1], floor):
        raise MemoryError("no memory is left for the norms")
    return matrix


@functools.cache
def _function() -> _Function | None:
    """The compiled function; None where it cannot be had."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or not compiler or environment.KERNELS.get() == "0":
        return None
    try:
        function = ctypes.CDLL(str(_compiled(compiler))).divide_by_norms
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None  # an odd compiler, a full disk: PyTorch's operations do as well
    size, address = ctypes.c_size_t, ctypes.c_void_p
    function.argtypes = [address, address, size, size, size, size, ctypes.c_float]
    function.restype = ctypes.c_int
    found: _Function = function
    return found


def _compiled(compiler: str) -> Path:
    """The path of the shared library, compiled now if it never was, or is damaged.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be had.
    """
    _share_openmp()
    source = _SOURCE.read_bytes()
    key = hashlib.sha256(source + repr((_FLAGS, platform.processor(), cpu_flags())).encode())
    library = cache_folder() / f"norms-{key.hexdigest()[:16]}.so"
    if not (_is_ours(library) and _is_whole(library)):
        built = _build(compiler)
        if not _is_ours(library):
            library.unlink(missing_ok=True)  # or its permissions would be kept
        with replacing(library) as file:
            file.write(built + hashlib.sha256(built).digest())
        if not (_is_ours(library) and _is_whole(library)):
            raise OSError
    return library


def _build(compiler: str) -> bytes:
    """The shared library's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "norms.o"), Path(folder, "norms.so")
        # Linked without -fopenmp, so that it shares the threads of torch's own OpenMP.
        for arguments in (
            (*_FLAGS, "-c", str(_SOURCE), "-o", str(built[0])),
            ("-shared", str(built[0]), "-o", str(built[1])),
        ):
            subprocess.run([compiler, *arguments], check=True, timeout=60, capture_output=True)
        return built[1].read_bytes()


def _is_ours(library: Path) -> bool:
    """Whether the library is there, and nobody else can have written or replaced it."""
    try:
        found = (library.lstat(), library.parent.stat())
    except OSError:
        return False
    return all(f.st_uid == os.geteuid() and not f.st_mode & stat.S_IWOTH for f in found)


def _is_whole(library: Path) -> bool:
    """Whether the digest at the library's end is that of all before: half a library, once loaded,
    would end this process when it is called. What loads libraries does not mind such an end.
    """
    try:
        with open_regular(library) as file:
            content = file.read(_MAX_BYTES)
    except OSError:
        return False
    end = len(content) - hashlib.sha256().digest_size
    return end > 0 and hashlib.sha256(content[:end]).digest() == content[end:]


def _share_openmp() -> None:
    """Make the OpenMP library that torch brings visible to the kernel."""
    own = sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    ctypes.CDLL(str(own[0]) if own else "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)


def cpu_flags() -> str:
    """The processor's instruction sets as Linux lists them; what -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
