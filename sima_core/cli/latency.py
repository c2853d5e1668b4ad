"""Times: ``latency`` of one picture's two orders, of a sweep, or of every speed target."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from sima_core.cli.options import (
    BUNDLED,
    OK,
    SOME_FAILED,
    Dtype,
    Layer,
    ModelOptions,
    PngFile,
    Resolution,
    SweepOver,
    computes,
    json_text,
    require_png,
)
from sima_core.defaults import LAYER, RESOLUTION
from sima_core.errors import InputError
from sima_core.numbers import Seconds, Whole, option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sima_core.bench.orders import OrderComparison
    from sima_core.bench.sweeps import SweepPoint
    from sima_core.lens.lens import Lens


#: Threads that are worth a try for each processor; many more only wait for each other, for ever.
_THREADS_A_PROCESSOR = 4


@Parameter(name="*")
@dataclass(frozen=True)
class Bench:
    """How something is timed, and how the times are told."""

    seconds: Annotated[Seconds, Parameter(help="time budget (of a point)")] = 6.0
    threads: Annotated[
        Annotated[int, option(Whole(1, 256))] | None,
        Parameter(help="default: the processors that may be used"),
    ] = None
    device: Annotated[
        str | None, Parameter(help="cpu or cuda; default: cpu, and sweeps on both")
    ] = None
    dtype: Dtype = "float32"
    json: Annotated[bool, Parameter(help="for machines, on standard output")] = False

    def set_up(self) -> None:
        """Set torch's threads.

        Raises:
            InputError: this machine lacks the device, or processors for so many threads.
        """
        import torch

        from sima_core.bench.sweeps import require_device
        from sima_core.machine import cpu_quota

        most = _THREADS_A_PROCESSOR * cpu_quota()
        if self.threads and self.threads > most:
            raise InputError(f"--threads takes at most {most} here, four for each processor")
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.device:
            require_device(self.device)


@computes
def latency(
    image: Path | None = None,
    /,
    *,
    sweep: SweepOver | None = None,
    targets: bool = False,
    model: ModelOptions = BUNDLED,
    layer: Layer = LAYER,
    resolution: Resolution = RESOLUTION,
    bench: Bench = Bench(),
    plot: PngFile | None = None,
) -> int:
    """Find out which of the three was meant, and measure it.

    Args:
        sweep: SimA, MSA and XCA over sizes
        targets: measure every speed target
        plot: for sweeps
    """
    if (image is not None) + (sweep is not None) + targets != 1:
        raise InputError("name one picture, or --sweep, or --targets")
    if plot and not sweep:
        raise InputError("--plot draws a sweep: name --sweep tokens or --sweep dim with it")
    if image is None and (model != BUNDLED or (layer, resolution) != (LAYER, RESOLUTION)):
        raise InputError(
            "--checkpoint, --architecture, --layer and --resolution are about a picture: name one, "
            "and neither --sweep nor --targets"
        )
    if targets and bench != Bench(threads=bench.threads):
        raise InputError("--targets takes none of --seconds, --json, --device and --dtype")
    bench.set_up()
    if sweep:
        return _sweep(sweep, bench, plot)
    if image:
        return _picture(image, model, layer, resolution, bench)
    return _targets()


def _picture(image: Path, model: ModelOptions, layer: int, resolution: int, bench: Bench) -> int:
    """One picture: both orders where the model has both, else the model as it is."""
    from sima_core.bench import calibration
    from sima_core.bench.sweeps import DTYPES
    from sima_core.lens.pictures import load_image, warm

    warm()  # while the model is read
    calibration.apply()
    device, dtype = bench.device or "cpu", DTYPES[bench.dtype]
    lens = model.load()
    lens.model.to(device, dtype)
    pixels = lens.preprocess(load_image(image), resolution).to(device, dtype)
    if not lens.has_two_orders:
        _whole_model(lens, pixels, bench)
        return OK
    found = _both_orders(lens, pixels, layer, bench.seconds)
    if bench.json:
        print(json_text(found.as_dict()))
    else:
        _print_orders(found)
    return OK


def _whole_model(lens: "Lens", pixels: "Tensor", bench: Bench) -> None:
    from sima_core.bench.whole_models import time_models
    from sima_core.machine import Machine

    [timed] = time_models([lens.model], [pixels], bench.seconds)
    machine = Machine.here(pixels)
    if bench.json:
        print(json_text({**timed.as_dict(), "machine": asdict(machine)}))
        return
    print(f"{lens.name}: {timed}; {machine}")
    print("only SimA's product can be taken in either order: see the models named sima_")


def _both_orders(lens: "Lens", pixels: "Tensor", layer: int, seconds: float) -> "OrderComparison":
    from tqdm import tqdm

    from sima_core.bench.orders import compare_orders

    with tqdm(total=round(seconds, 1), unit="s", leave=False, disable=None) as progress:
        start = time.perf_counter()
        found = None
        for found in compare_orders(lens, pixels, layer, seconds):  # noqa: B007
            progress.n = min(round(time.perf_counter() - start, 1), progress.total)
            progress.refresh()
    assert found is not None  # at least three rounds were measured
    return found


def _print_orders(found: "OrderComparison") -> None:
    from sima_core.bench.orders import ORDERS

    print(f"layer {found.layer}: {found.num_tokens} tokens, {found.num_heads} heads × ", end="")
    print(f"{found.head_dim} channels; {found.machine}")
    print(f"{'':<12}{'(QK)V first':>16}{'Q(KV) first':>16}{'ratio':>9}   quartiles")
    for level, timings in found.levels.items():
        ratio = found.measured_ratio(level)
        row = "".join(f"{1e3 * timings.seconds(o):>13.3f} ms" for o in ORDERS)
        print(f"{level:<12}{row}{ratio.median:>8.2f}×   {ratio.p25:.2f} to {ratio.p75:.2f}")
        if timings.unsteady:
            print(f"{'':<12}warning: wide spread; close other programs and measure again")
    qk_first, kv_first = (found.intermediate_bytes(order) / 1024 for order in ORDERS)
    print(f"predicted by multiplications (N / head_dim): {found.predicted_ratio:.2f}×")
    print(f"intermediate: {qk_first:.0f} KiB (N²) against {kv_first:.0f} KiB (d²)")
    print(f"largest relative difference of the outputs: {found.relative_difference:.1e}")
    print(found.reason)


def _sweep(over: SweepOver, bench: Bench, plot: Path | None) -> int:
    """SimA, softmax attention and XCA over tokens or channels, on every device that was meant."""
    if plot:
        require_png("--plot", plot)

    import torch
    from tqdm import tqdm

    from sima_core.bench.sweeps import DTYPES, SWEEP_SIZES, plot_sweep, sweep

    devices = [bench.device] if bench.device else ["cpu"]
    if not bench.device and torch.cuda.is_available():
        devices.append("cuda")
    results: dict[str, list[SweepPoint]] = {}
    for device in devices:
        measured = sweep(over, bench.seconds / 3, device=device, dtype=DTYPES[bench.dtype])
        sizes = SWEEP_SIZES[over]
        results[device] = list(tqdm(measured, total=len(sizes), unit="size", leave=False))
    if plot:
        plot_sweep(results, over, plot)
    if bench.json:
        found = {device: [p.as_dict() for p in points] for device, points in results.items()}
        print(json_text({"sweep": over, "devices": found}))
    else:
        _print_sweep(results, DTYPES[bench.dtype])
    return OK


def _print_sweep(results: "Mapping[str, Sequence[SweepPoint]]", dtype: "torch.dtype") -> None:
    import torch

    from sima_core.machine import Machine

    for device, points in results.items():
        machine = Machine.here(torch.empty(0, device=device, dtype=dtype))
        print(f"{machine}; batch 1, {points[0].num_heads} heads; milliseconds, median")
        names = points[0].timings.measurements
        print(f"{'N':>6}{'d':>6}" + "".join(f"{name:>20}" for name in names))
        for point in points:
            times = (1e3 * m.median for m in point.timings.measurements.values())
            row = "".join(f"{t:>20.3f}" for t in times)
            print(f"{point.num_tokens:>6}{point.head_dim:>6}{row}")


def _targets() -> int:
    """Every speed target of this project."""
    import torch

    from sima_core.bench import calibration
    from sima_core.experiments.targets import measure_targets
    from sima_core.machine import Machine

    calibration.apply()
    all_met = True
    print(Machine.here(torch.empty(0)))
    for target in measure_targets():
        all_met &= target.met
        met = "met" if target.met else "NOT MET"
        print(f"{target.name:<78}{target.asked:>11}   {target.measured:<32}{met}", flush=True)
    return OK if all_met else SOME_FAILED
