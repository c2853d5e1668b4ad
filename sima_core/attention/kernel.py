"""A small compiled kernel for SimA's ℓ1-norms, where there is a C compiler; optional.

The norms are one pass over Q and K. PyTorch's own operations take about three such passes, which
costs 40 to 80 % of the two matrix products; the loop in `norms.c` takes one. It is compiled once,
in a second, into the user's cache folder. Without a compiler everything works, only slower.
"""

import ctypes
import functools
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sima_core import environment
from sima_core.files import cache_folder, replacing

_SOURCE = Path(__file__).with_name("norms.c")
# No -ffast-math: NaN and infinity must come through.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-std=c11")

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
        library = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None  # an odd compiler, a full disk: PyTorch's operations do as well
    function = library.divide_by_norms
    size, address = ctypes.c_size_t, ctypes.c_void_p
    function.argtypes = [address, address, size, size, size, size, ctypes.c_float]
    function.restype = ctypes.c_int
    found: _Function = function
    return found


def _compiled(compiler: str) -> Path:
    """The path of the shared library, compiled now if it never was."""
    _share_openmp()
    source = _SOURCE.read_bytes()
    key = hashlib.sha256(source + repr((_FLAGS, platform.processor(), cpu_flags())).encode())
    library = cache_folder() / f"norms-{key.hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder, "norms.o"), Path(folder, "norms.so")
            # Linked without -fopenmp, so that it shares the threads of torch's own OpenMP.
            for arguments in (
                (*_FLAGS, "-c", str(_SOURCE), "-o", str(built[0])),
                ("-shared", str(built[0]), "-o", str(built[1])),
            ):
                subprocess.run([compiler, *arguments], check=True, timeout=60, capture_output=True)
            with replacing(library) as whole:
                whole.write(built[1].read_bytes())
    return library


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
