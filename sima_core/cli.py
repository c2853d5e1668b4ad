"""The command line: ``python -m sima_core COMMAND …``; each command is one function here."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from .analysis import analyze
from .capture import attention_layers, layer_numbers, patch_size
from .checkpoints import DEFAULT_CHECKPOINT, CheckpointError, load_model, provenance
from .export import output_names, write
from .images import input_size, load_image
from .models import ARCHITECTURES, architectures
from .runtime import use_available_cpus

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
        use_available_cpus()
        status: int = options.run(options)
        return status
    except (UsageError, CheckpointError) as error:
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


def run_models(options: argparse.Namespace) -> int:
    """The `models` command: every architecture with its size and cost at 224 × 224."""
    print(f"{'name':<20}{'family':<8}{'attention':<11}{'heads':>5}{'parameters':>12}{'GMACs':>8}")
    progress = tqdm(architectures(), total=len(ARCHITECTURES), leave=False, unit="model")
    for found in progress:
        row = (
            f"{found.name:<20}{found.family:<8}{found.attention:<11}{found.num_heads:>5}"
            f"{found.parameters / 1e6:>10.2f} M{found.macs / 1e9:>8.2f}"
        )
        tqdm.write(row, file=sys.stdout)
    return OK
