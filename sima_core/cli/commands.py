"""The command line: ``python -m sima_core COMMAND …``; each command is one function here."""

import argparse
import dataclasses
import json
import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn, get_args

import torch
from tqdm import tqdm

from sima_core.bench import calibration
from sima_core.bench.orders import ORDERS, compare_orders
from sima_core.bench.sweeps import (
    DTYPES,
    SWEEP_SIZES,
    SweepPoint,
    plot_sweep,
    require_device,
    sweep,
)
from sima_core.bench.whole_models import time_models
from sima_core.coco.download import BASE_URL, download
from sima_core.coco.root import (
    NO_COCO,
    SPLITS,
    CocoError,
    default_root,
    find_root,
    named_root,
)
from sima_core.coco.split import CocoSplit
from sima_core.comparison import Choice, MapKind, compare
from sima_core.comparison import plot as draw_comparison
from sima_core.environment import COCO_ROOT
from sima_core.experiments.targets import measure_targets
from sima_core.experiments.twins import TWINS, compare_twins, twins_table
from sima_core.lens.export import output_names, write
from sima_core.lens.layers import attention_layers, layer_numbers, patch_size
from sima_core.lens.lens import Lens, analyze
from sima_core.lens.pictures import input_size, load_image, preprocess
from sima_core.machine import Machine, keep_freed_memory, use_available_cpus, versions
from sima_core.models.architectures import ARCHITECTURES, architectures
from sima_core.scoring.evaluation import evaluate
from sima_core.scoring.results import PictureResult
from sima_core.scoring.summary import Summary, plot, skipped_in_words
from sima_core.training.accuracy import held_out_accuracy
from sima_core.training.data import TrainingDataError, read_training_data, relabelled
from sima_core.training.recipe import Phase, Settings, TrainingError
from sima_core.training.train import require_startable, train
from sima_core.weights.formats import CheckpointError
from sima_core.weights.loading import DEFAULT_CHECKPOINT, load_model
from sima_core.weights.provenance import provenance

#: Exit statuses.
OK, SOME_FAILED, BAD_USAGE = 0, 1, 2


class UsageError(Exception):
    """What was asked for cannot be done; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 if some inputs failed, 2 for bad usage."""
    try:
        options = _parser().parse_args(arguments)
        options.arguments = sys.argv[1:] if arguments is None else list(arguments)
        use_available_cpus()
        keep_freed_memory()
        status: int = options.run(options)
        return status
    except (UsageError, CheckpointError, CocoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sima_core", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    heatmap = commands.add_parser("heatmap", help="write the Q̂ and K̂ heatmaps of pictures")
    heatmap.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    heatmap.add_argument("--out", type=Path, required=True, metavar="DIR", help="made if absent")
    add_model_options(heatmap)
    heatmap.add_argument("--layer", type=int, default=12, help="from 1; negative from the end")
    heatmap.add_argument(
        "--resolution", type=int, default=224, help="shorter side of the input in pixels"
    )
    heatmap.set_defaults(run=run_heatmap)

    latency = commands.add_parser("latency", help="time both orders of the product, side by side")
    latency.add_argument("image", nargs="?", type=Path, metavar="IMAGE")
    latency.add_argument(
        "--sweep", choices=sorted(SWEEP_SIZES), help="SimA, MSA and XCA over sizes"
    )
    latency.add_argument("--targets", action="store_true", help="measure every speed target")
    add_model_options(latency)
    latency.add_argument("--layer", type=int, default=12, help="from 1; negative from the end")
    latency.add_argument("--resolution", type=int, default=224, help="shorter side in pixels")
    latency.add_argument("--seconds", type=float, default=6.0, help="time budget (of a point)")
    latency.add_argument("--threads", type=int, help="default: the processors that may be used")
    latency.add_argument("--device", help="cpu or cuda; default: cpu, and sweeps on both")
    latency.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    latency.add_argument("--json", action="store_true", help="for machines, on standard output")
    latency.add_argument("--plot", type=Path, metavar="FILE.png", help="for sweeps")
    latency.set_defaults(run=run_latency)

    comparing = commands.add_parser("compare", help="models, layers or heads on one picture")
    comparing.add_argument("image", type=Path, metavar="IMAGE")
    comparing.add_argument(
        "--models",
        required=True,
        metavar="A,B,…",
        help="two to four: architectures (see models), bundled, files or hf-hub:owner/name; each "
        "may name its layer and head: bundled@6,bundled@12.2",
    )
    comparing.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    comparing.add_argument("--layer", type=int, default=12, help="where a model names none")
    comparing.add_argument("--resolution", type=int, default=224, help="shorter side in pixels")
    comparing.add_argument("--map", choices=get_args(MapKind), default="norms")
    comparing.add_argument("--seconds", type=float, default=3.0, help="time budget of the timing")
    comparing.set_defaults(run=run_compare)

    coco = commands.add_parser("coco", help="fetch pictures and annotations of COCO 2017")
    coco_commands = coco.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    fetch = coco_commands.add_parser(
        "download",
        help="fetch a split's pictures and their annotations",
        description="Fetch pictures of COCO 2017 and the list of a split's objects from COCO's "
        "host. Without --images and --ids: the whole split, or with --annotations the list alone. "
        "What is there already is kept; run it again after an interruption.",
    )
    add_coco_option(fetch)
    fetch.add_argument("--split", choices=SPLITS, default="val2017")
    which = fetch.add_mutually_exclusive_group()
    which.add_argument("--images", type=int, metavar="N", help="the first N pictures by id")
    which.add_argument("--ids", type=int, nargs="+", metavar="ID", help="these pictures")
    fetch.add_argument("--annotations", action="store_true", help="the list of objects")
    fetch.add_argument("--base-url", default=BASE_URL, metavar="URL", help="another host")
    fetch.set_defaults(run=run_download)

    scoring = commands.add_parser("evaluate", help="score heatmaps against COCO's object masks")
    add_coco_option(scoring)
    scoring.add_argument("--split", choices=SPLITS[:2], default="val2017")
    add_model_options(scoring)
    scoring.add_argument("--layers", default="12", help="such as 12, 1,6,12 or all")
    scoring.add_argument("--resolution", type=int, default=224, help="shorter side in pixels")
    scoring.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    scoring.add_argument("--faithfulness", action="store_true", help="insertion and deletion too")
    scoring.add_argument("--json", type=Path, metavar="FILE")
    scoring.add_argument("--plot", type=Path, metavar="FILE.png")
    scoring.set_defaults(run=run_evaluate)

    training = commands.add_parser("train", help="train an architecture on labelled pictures")
    add_data_argument(training)
    training.add_argument("--model", required=True, metavar="NAME", help="see models")
    training.add_argument("--out", type=Path, required=True, metavar="DIR", help="made if absent")
    length = training.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, default=Settings.epochs, metavar="N")
    length.add_argument(
        "--minutes", type=float, metavar="M", help="as many epochs as take about so long here"
    )
    training.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    training.add_argument("--seed", type=int, default=Settings.seed, metavar="S")
    training.add_argument(
        "--init", type=Path, metavar="FILE", help="weights to start from, of the same architecture"
    )
    training.add_argument("--batch-size", type=int, default=Settings.batch_size, metavar="B")
    training.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    training.add_argument("--optimizer", default=Settings.optimizer, help="a name of timm's")
    training.add_argument(
        "--resolutions", metavar="PX,…", help="train at these sizes alone, such as 96 or 96,128"
    )
    for share, default, of in (
        ("--mix", Settings.mix_probability, "steps that mix pictures in pairs (mixup, cutmix)"),
        ("--coarser", Settings.coarser_probability, "pictures that are made coarser at random"),
        ("--compressed", Settings.compressed_probability, "pictures compressed at random"),
    ):
        training.add_argument(
            share, type=float, default=default, metavar="SHARE", help=f"of the {of}, 0 to 1"
        )
    training.add_argument(
        "--sharpest",
        type=int,
        default=Settings.sharpest_side,
        metavar="PX",
        help="no picture keeps more pixels along its shorter side",
    )
    training.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: a GPU where there is one"
    )
    training.add_argument("--no-compile", action="store_true", help="without torch.compile")
    training.set_defaults(run=run_train)

    measuring = commands.add_parser(
        "accuracy", help="how often held-out pictures are named rightly"
    )
    add_data_argument(measuring)
    add_model_options(measuring)
    measuring.add_argument("--resolutions", default="160,224,320", metavar="PX,…")
    measuring.set_defaults(run=run_accuracy)

    comparison = commands.add_parser(
        "twins", help="train SimA and its rivals under one recipe, and compare them"
    )
    add_data_argument(comparison)
    add_coco_option(comparison)
    comparison.add_argument("--out", type=Path, required=True, metavar="DIR")
    comparison.add_argument("--models", default=",".join(TWINS), metavar="A,B,…")
    comparison.add_argument("--epochs", type=float, default=5.0, metavar="N", help="for each")
    comparison.add_argument("--seeds", default="0,1", metavar="S,…")
    comparison.add_argument("--resolution", type=int, default=96, metavar="PX", help="of training")
    comparison.add_argument("--json", type=Path, metavar="FILE")
    comparison.set_defaults(run=run_twins)

    models = commands.add_parser("models", help="list the architectures")
    models.set_defaults(run=run_models)
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a model, the same for every command."""
    parser.add_argument(
        "--checkpoint",
        default=DEFAULT_CHECKPOINT,
        metavar="FILE",
        help="a file, hf-hub:owner/name, or an architecture (untrained); default: the bundled one",
    )
    parser.add_argument("--architecture", metavar="NAME", help="if the file does not say")


def add_coco_option(parser: argparse.ArgumentParser) -> None:
    """The option that names a COCO root."""
    parser.add_argument(
        "--coco",
        type=Path,
        metavar="ROOT",
        help=f"a COCO folder; default: that of {COCO_ROOT.name}, else the cache's",
    )


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """The pictures to learn from."""
    parser.add_argument(
        "data",
        nargs="+",
        type=Path,
        metavar="DATA",
        help="folders or tar files of <class>/<picture>; what is held out lies in a folder val, or "
        "in a source whose name ends in -val",
    )


def run_heatmap(options: argparse.Namespace) -> int:
    """The `heatmap` command: maps, overlays and a description for each picture."""
    model = load_model(options.checkpoint, options.architecture)
    try:
        [layer] = layer_numbers(options.layer, len(attention_layers(model)))
        input_size(1, 1, options.resolution, patch_size(model))
    except ValueError as error:
        raise UsageError(str(error)) from None
    out: Path = options.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {out}: {error.strerror}") from None
    if not provenance(model).trained:
        print(f"note: {options.checkpoint} has untrained weights", file=sys.stderr)

    images: list[Path] = options.images
    failed = 0
    jobs = zip(images, unique_stems(images, out), strict=True)
    for path, stem in tqdm(jobs, total=len(images), unit="image", disable=len(images) < 2):
        try:
            analysis = analyze(model, load_image(path), options.resolution, [layer])
            write(analysis, out, stem, path.name, layer)
        except ValueError as error:  # an ImageError, or a map that is not finite
            reason = str(error)
        except OSError as error:
            reason = f"its results cannot be written: {error.strerror or error}"
        else:
            continue
        failed += 1
        tqdm.write(f"{path}: {reason}", file=sys.stderr)
    done = len(images) - failed
    print(f"maps of {done} of {len(images)} image(s) written to {out}")
    return SOME_FAILED if failed else OK


def unique_stems(images: Sequence[Path], out: Path) -> Iterator[str]:
    """A stem for each image's output files, such that none meets another's or an input.

    The first ``cat`` stays ``cat``, the next is ``cat-2``.
    """
    taken = {str(image.resolve()).casefold() for image in images}  # as case-blind disks see it
    for image in images:
        stem, number = image.stem, 1
        while True:
            paths = {str((out / name).resolve()).casefold() for name in output_names(stem)}
            if paths.isdisjoint(taken):
                break
            number += 1
            stem = f"{image.stem}-{number}"
        taken |= paths
        yield stem


def run_latency(options: argparse.Namespace) -> int:
    """The `latency` command: one picture's orders, a sweep, or the targets."""
    if bool(options.image) + bool(options.sweep) + options.targets != 1:
        raise UsageError("name one picture, or --sweep, or --targets")
    if options.seconds <= 0 or (options.threads is not None and options.threads < 1):
        raise UsageError("--seconds and --threads must be more than 0")
    if options.plot and not options.sweep:
        raise UsageError("--plot draws a sweep: name --sweep tokens or --sweep dim with it")
    if options.targets and (options.json or options.device or options.dtype != "float32"):
        raise UsageError("--targets takes none of --json, --device and --dtype")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.device:
            require_device(options.device)
        if options.sweep:
            return _sweep(options)
        calibration.apply()
        return _targets() if options.targets else _orders(options)
    except ValueError as error:  # no such layer, device, picture; not enough memory
        raise UsageError(str(error)) from None


def _orders(options: argparse.Namespace) -> int:
    device, dtype = options.device or "cpu", DTYPES[options.dtype]
    model = load_model(options.checkpoint, options.architecture).to(device, dtype)
    image = load_image(options.image)
    pixels = preprocess(image, options.resolution, patch_size(model)).to(device, dtype)
    if not Lens(model).has_two_orders:
        [timed] = time_models([model], [pixels], options.seconds)
        if options.json:
            print(
                json.dumps({**timed.as_dict(), "machine": asdict(Machine.here(pixels))}, indent=2)
            )
            return OK
        print(f"{provenance(model).architecture}: {timed}; {Machine.here(pixels)}")
        print("only SimA's product can be taken in either order: see the models named sima_")
        return OK
    with tqdm(total=round(options.seconds, 1), unit="s", leave=False, disable=None) as progress:
        start = time.perf_counter()
        found = None
        for found in compare_orders(model, pixels, options.layer, options.seconds):  # noqa: B007
            progress.n = min(round(time.perf_counter() - start, 1), progress.total)
            progress.refresh()
    assert found is not None  # at least three rounds were measured
    if options.json:
        print(json.dumps(found.as_dict(), indent=2))
        return OK
    print(f"layer {found.layer}: {found.num_tokens} tokens, {found.num_heads} heads × ", end="")
    print(f"{found.head_dim} channels; {found.machine}")
    print(f"{'':<12}{'(QK)V first':>16}{'Q(KV) first':>16}{'ratio':>9}   quartiles")
    for level, timings in found.levels.items():
        ratio = found.measured_ratio(level)
        row = "".join(f"{1e3 * timings.seconds(o):>13.3f} ms" for o in ORDERS)
        print(f"{level:<12}{row}{ratio.median:>8.2f}×   {ratio.p25:.2f} to {ratio.p75:.2f}")
        if timings.unsteady:
            print(f"{'':<12}warning: wide spread; close other programs and measure again")
    kinds = {order: found.intermediate_bytes(order) / 1024 for order in ORDERS}
    print(f"predicted by multiplications (N / head_dim): {found.predicted_ratio:.2f}×")
    print(
        f"intermediate: {kinds['qk_first']:.0f} KiB (N²) against {kinds['kv_first']:.0f} KiB (d²)"
    )
    print(f"largest relative difference of the outputs: {found.relative_difference:.1e}")
    print(found.reason)
    return OK


def _sweep(options: argparse.Namespace) -> int:
    if options.plot:
        require_png("--plot", options.plot)
    devices = [options.device] if options.device else ["cpu"]
    if not options.device and torch.cuda.is_available():
        devices.append("cuda")
    results: dict[str, list[SweepPoint]] = {}
    for device in devices:
        measured = sweep(
            options.sweep, options.seconds / 3, device=device, dtype=DTYPES[options.dtype]
        )
        sizes = SWEEP_SIZES[options.sweep]
        results[device] = list(tqdm(measured, total=len(sizes), unit="size", leave=False))
    if options.plot:
        plot_sweep(results, options.sweep, options.plot)
    if options.json:
        found = {device: [p.as_dict() for p in points] for device, points in results.items()}
        print(json.dumps({"sweep": options.sweep, "devices": found}, indent=2))
        return OK
    for device, points in results.items():
        machine = Machine.here(torch.empty(0, device=device, dtype=DTYPES[options.dtype]))
        print(f"{machine}; batch 1, {points[0].num_heads} heads; milliseconds, median")
        print(
            f"{'N':>6}{'d':>6}" + "".join(f"{name:>20}" for name in points[0].timings.measurements)
        )
        for point in points:
            times = (1e3 * m.median for m in point.timings.measurements.values())
            row = "".join(f"{t:>20.3f}" for t in times)
            print(f"{point.num_tokens:>6}{point.head_dim:>6}{row}")
    return OK


def _targets() -> int:
    all_met = True
    print(Machine.here(torch.empty(0)))
    for target in measure_targets():
        all_met &= target.met
        met = "met" if target.met else "NOT MET"
        print(f"{target.name:<78}{target.asked:>11}   {target.measured:<32}{met}", flush=True)
    return OK if all_met else SOME_FAILED


def run_compare(options: argparse.Namespace) -> int:
    """The `compare` command: a figure, and a line on each."""
    out: Path = options.out
    require_png("--out", out)
    calibration.apply()
    try:
        choices = [Choice.parse(text, options.layer) for text in options.models.split(",")]
        panels, times = compare(
            choices, load_image(options.image), options.resolution, options.map, options.seconds
        )
        draw_comparison(panels, times, out)
    except OSError as error:
        raise UsageError(f"the figure cannot be written: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    print(Machine.here(torch.empty(0)))
    for panel, timed in zip(panels, times, strict=True):
        print(f"{panel.title:<48}{panel.weights:<34}{timed}")
    return OK


def run_download(options: argparse.Namespace) -> int:
    """The `coco download` command."""
    if options.images is not None and options.images < 1:
        raise UsageError("--images must be at least 1")
    root = download_root(options.coco)
    report = download(
        root, options.split, options.ids, options.images, options.annotations, options.base_url
    )
    for name, reason in report.failed.items():
        print(f"{name!r}: {reason}", file=sys.stderr)  # a name from a list may be anything
    failed = f", {len(report.failed)} failed" if report.failed else ""
    print(f"{report.fetched} picture(s) fetched, {report.present} already there{failed}: {root}")
    return SOME_FAILED if report.failed else OK


def download_root(named: Path | None) -> Path:
    """Where downloads go: the root as `find_root` takes it, which need not exist yet."""
    return named_root(named) or default_root()


def run_evaluate(options: argparse.Namespace) -> int:
    """The `evaluate` command: a split's scores as a table, JSON and a plot."""
    root = find_root(options.coco)
    if root is None:
        raise UsageError(NO_COCO)
    if options.json:
        require_writable(options.json)
    if options.plot:
        require_png("--plot", options.plot)
    if options.limit is not None and options.limit < 1:
        raise UsageError("--limit must be at least 1")
    model = load_model(options.checkpoint, options.architecture)
    try:
        layers = _layers(options.layers, len(attention_layers(model)))
        input_size(1, 1, options.resolution, patch_size(model))
    except ValueError as error:
        raise UsageError(str(error)) from None
    split = CocoSplit(root, options.split)
    scored = evaluate(split, model, layers, options.resolution, options.limit, options.faithfulness)
    total = min(len(split.ids), options.limit or len(split.ids))
    try:
        summary = Summary.of(
            naming_problems(tqdm(scored, total=total, unit="picture", leave=False)), layers
        )
    except ValueError as error:
        raise UsageError(str(error)) from None

    origin = provenance(model)
    title = f"{origin.source}, layer {summary.layer}, {summary.images} pictures of {split.split}"
    print(f"{title} at {options.resolution} px; left out: {skipped_in_words(summary.skipped)}")
    print("means over pictures, 95 % bootstrap intervals")
    print(summary.table())
    if len(layers) > 1:
        print("\nby layer")
        print(summary.layers_table())
    if options.faithfulness:
        print("\ninsertion (higher is better) and deletion (lower is better): area under the curve")
        print(summary.faithfulness_table())
    print(f"scoring took {summary.scoring_ratio:.2f} of the time of the two models' forward passes")
    about = {
        "command": "python -m sima_core " + shlex.join(options.arguments),
        "checkpoint_sha256": origin.sha256,
        "checkpoint": origin.source,
        "architecture": origin.architecture,
        "split": split.split,
        "resolution": options.resolution,
        **summary.as_dict(),
        "versions": versions(),
    }
    try:
        if options.json:
            options.json.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        if options.plot:
            plot(summary, title, options.plot)
    except OSError as error:
        raise UsageError(f"the results cannot be written: {error.strerror or error}") from None
    return OK


def naming_problems(results: Iterable[PictureResult], most: int = 10) -> Iterator[PictureResult]:
    """The same results; says of the first `most` pictures that cannot be read why, and counts on.

    A root with a few pictures may list thousands.
    """
    problems = 0
    for result in results:
        if result.problem:
            problems += 1
            if problems <= most:
                tqdm.write(result.problem, file=sys.stderr)
        yield result
    if problems > most:
        print(f"… and {problems - most:,} more pictures cannot be read", file=sys.stderr)


def require_png(option: str, file: Path) -> None:
    """Refuse a figure's file that could not be written later, before any work.

    Raises:
        UsageError: it has another suffix, or as `require_writable`.
    """
    if file.suffix.lower() != ".png":
        raise UsageError(f"{option} must name a .png file")
    require_writable(file)


def require_writable(file: Path) -> None:
    """Refuse a file that could not be written later, before any work.

    Raises:
        UsageError: it is a folder, in none, or may not be written.
    """
    try:
        existed = file.exists()
        with file.open("ab"):
            pass
        if not existed:
            file.unlink()
    except OSError as error:
        raise UsageError(f"{file.name} cannot be written: {error.strerror or error}") from None


def _layers(text: str, depth: int) -> list[int]:
    if text.strip() == "all":
        return layer_numbers("all", depth)
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--layers takes 12, 1,6,12 or all; got {text!r}") from None
    return list(dict.fromkeys(layer_numbers(numbers, depth)))


def run_train(options: argparse.Namespace) -> int:
    """The `train` command: weights, card, log and plot."""
    if options.minutes is not None and not 0 < options.minutes < math.inf:
        raise UsageError("--minutes must be more than 0")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        settings = Settings(
            options.model,
            seed=options.seed,
            epochs=options.epochs,
            batch_size=options.batch_size,
            optimizer=options.optimizer,
            learning_rate=options.learning_rate,
            mix_probability=options.mix,
            coarser_probability=options.coarser,
            compressed_probability=options.compressed,
            sharpest_side=options.sharpest,
        )
        if options.resolutions:
            only = Phase(1.0, _resolutions(options.resolutions))
            settings = dataclasses.replace(settings, phases=(only,))
        require_startable(settings, options.out, options.init, options.resume, device)
        data = read_training_data(options.data)
        print(data.summary(), flush=True)
        trained = train(
            data,
            settings,
            options.out,
            initial=options.init,
            minutes=options.minutes,
            resume=options.resume,
            device=device,
            compiled=not options.no_compile,
        )
    except (TrainingDataError, TrainingError) as error:
        raise UsageError(str(error)) from None
    assert trained is not None  # only a limited piece of a run gives None
    print(f"{trained.settings.epochs:g} epochs in {trained.seconds / 60:.0f} min")
    for side, accuracy in trained.accuracy.items():
        print(f"held out, at {side} px: {accuracy}")
    print(f"written: {trained.weights.name}, {trained.card.name}, log.jsonl, log.png")
    return OK


def run_accuracy(options: argparse.Namespace) -> int:
    """The `accuracy` command: a line a resolution."""
    resolutions = _resolutions(options.resolutions)
    model = load_model(options.checkpoint, options.architecture)
    try:
        data = read_training_data(options.data)
        held_out = relabelled(data.held_out, data.class_ids, provenance(model).class_ids)
    except TrainingDataError as error:
        raise UsageError(str(error)) from None
    print(data.summary())
    for side in resolutions:
        print(f"at {side} px: {held_out_accuracy(model, held_out, side)}", flush=True)
    return OK


def _resolutions(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--resolutions takes sizes in pixels, such as 96,128: {text!r}") from None
    if any(side < 32 or side % 32 for side in found):
        raise UsageError("--resolutions must be multiples of 32 px")
    return found


def run_twins(options: argparse.Namespace) -> int:
    """The `twins` command: trains what is not trained yet, then prints the table."""
    models = options.models.split(",")
    if unknown := [name for name in models if name not in ARCHITECTURES]:
        raise UsageError(f"there is no architecture {unknown[0]!r}: see models")
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise UsageError(f"--seeds takes whole numbers, such as 0,1: {options.seeds!r}") from None
    [resolution] = _resolutions(str(options.resolution))
    if options.json:
        require_writable(options.json)
    root = find_root(options.coco)
    if root is None:
        raise UsageError(NO_COCO)
    try:
        data = read_training_data(options.data)
        print(data.summary(), flush=True)
        calibration.apply()
        twins = compare_twins(
            data,
            options.out,
            CocoSplit(root, "val2017"),
            models,
            seeds,
            options.epochs,
            resolution,
        )
    except (TrainingDataError, TrainingError) as error:
        raise UsageError(str(error)) from None
    print(Machine.here(torch.empty(0)))
    print(twins_table(twins))
    if options.json:
        options.json.write_text(
            json.dumps([twin.as_dict() for twin in twins], indent=1) + "\n", "utf-8"
        )
    return OK


def run_models(options: argparse.Namespace) -> int:
    """The `models` command: every architecture with its size and cost at 224 × 224."""
    width = max(map(len, ARCHITECTURES)) + 2
    columns = f"{'family':<8}{'attention':<13}{'heads':>7}{'parameters':>12}{'GMACs':>8}"
    print(f"{'name':<{width}}{columns}")
    progress = tqdm(architectures(), total=len(ARCHITECTURES), leave=False, unit="model")
    for found in progress:
        heads = found.num_heads
        shown = heads if isinstance(heads, int) else "/".join(map(str, heads))
        row = (
            f"{found.name:<{width}}{found.family:<8}{found.attention:<13}{shown:>7}"
            f"{found.parameters / 1e6:>10.2f} M{found.macs / 1e9:>8.2f}"
        )
        tqdm.write(row, file=sys.stdout)
    return OK
