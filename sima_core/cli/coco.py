"""COCO 2017: ``coco download`` and ``evaluate``."""

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter
from cyclopts.validators import mutually_exclusive

from sima_core.cli.options import (
    BUNDLED,
    FOUND_COCO,
    NOTHING_DONE,
    OK,
    SOME_FAILED,
    CocoOptions,
    Ids,
    JsonFile,
    ModelOptions,
    PngFile,
    Resolution,
    computes,
    json_text,
    require_png,
    require_writable,
)
from sima_core.coco.root import AnnotatedSplit, Split
from sima_core.defaults import LAYER, RESOLUTION
from sima_core.errors import InputError
from sima_core.files import write_text, writing
from sima_core.numbers import LAYERS, MOST_NUMBERS, Count
from sima_core.words import SENTENCE, plain, printable

if TYPE_CHECKING:
    from sima_core.lens.lens import Lens
    from sima_core.scoring.results import PictureResult
    from sima_core.scoring.summary import Summary

#: The group of commands ``coco``.
coco = App(name="coco", version_flags=())
_WHICH = Group("", validator=mutually_exclusive)


@coco.command(
    help="fetch a split's pictures and their annotations\n\n"
    "Fetch pictures of COCO 2017 and the list of a split's objects from COCO's host. Without "
    "--images and --ids: the whole split, or with --annotations the list alone. What is there "
    "already is kept; run it again after an interruption."
)
def download(
    *,
    place: CocoOptions = FOUND_COCO,
    split: Split = "val2017",
    images: Annotated[Count | None, Parameter(metavar="N", group=_WHICH)] = None,
    ids: Annotated[Ids | None, Parameter(metavar="ID", group=_WHICH)] = None,
    annotations: bool = False,
    base_url: Annotated[str | None, Parameter(metavar="URL")] = None,
) -> int:
    """Fetch what is missing, and say how much that was.

    Args:
        images: the first N pictures by id
        ids: these pictures
        annotations: the list of objects
        base_url: another host
    """
    from sima_core.coco import download as fetching

    root = place.root_of_downloads()
    report = fetching.download(root, split, ids, images, annotations, base_url or fetching.BASE_URL)
    for name, why in report.failed.items():
        print(f"{plain(name)!r}: {plain(why, SENTENCE)}", file=sys.stderr)
    failed = f", {len(report.failed)} failed" if report.failed else ""
    done = f"{report.fetched} picture(s) fetched, {report.present} already there{failed}"
    print(f"{done}: {plain(root)}")
    if not report.failed:
        return OK
    return SOME_FAILED if report.fetched + report.present else NOTHING_DONE


@Parameter(name="*")
@dataclass(frozen=True)
class Results:
    """Where scores go, beside standard output."""

    json: JsonFile | None = None
    plot: PngFile | None = None

    def require_writable(self) -> None:
        """Refuse, before any work, files that could not be written later.

        Raises:
            InputError: as `require_writable` and `require_png`.
        """
        if self.json:
            require_writable(self.json)
        if self.plot:
            require_png("--plot", self.plot)

    def write(self, about: dict[str, Any], found: "Summary", title: str) -> None:
        """Write those that were asked for.

        Raises:
            DiskError: they cannot be written.
        """
        from sima_core.scoring.summary import plot

        with writing("the results"):
            if self.json:
                write_text(self.json, json_text(about, 1) + "\n")
            if self.plot:
                plot(found, title, self.plot)


@computes
def evaluate(
    *,
    place: CocoOptions = FOUND_COCO,
    split: AnnotatedSplit = "val2017",
    model: ModelOptions = BUNDLED,
    layers: str = str(LAYER),
    maps: str = "query,key",
    resolution: Resolution = RESOLUTION,
    limit: Annotated[Count | None, Parameter(metavar="N")] = None,
    faithfulness: bool = False,
    sanity: bool = False,
    results: Results = Results(),
    arguments: Annotated[list[str], Parameter(parse=False)],
) -> int:
    """A split's scores as a table, JSON and a plot.

    Args:
        layers: such as 12, 1,6,12 or all
        maps: such as query,key,sent, or all that the model has
        limit: only the first N pictures
        faithfulness: insertion and deletion too
        sanity: when not to believe the maps: random layers, mirror, centre, outliers
        arguments: how the command was called, for the JSON file.
    """
    root = place.root()
    results.require_writable()

    from sima_core.coco.split import CocoSplit
    from sima_core.machine import versions
    from sima_core.scoring.evaluation import evaluate as score
    from sima_core.scoring.summary import Summary, skipped_in_words

    lens = model.load()
    numbers = _layer_numbers(layers, lens)
    lens.input_size(1, 1, resolution)  # raises what would be raised for every picture
    pictures = CocoSplit(root, split)
    scored = score(
        pictures,
        lens,
        numbers,
        resolution,
        limit,
        faithfulness,
        sane=sanity,
        maps=_map_names(maps),
    )
    total = min(len(pictures.ids), limit or len(pictures.ids))
    found = Summary.of(naming_problems(scored, total), numbers)

    about = _about(lens, arguments)
    title = f"{about['checkpoint']}, layer {found.layer}, {found.images} pictures of {split}"
    print(f"{title} at {resolution} px; left out: {skipped_in_words(found.skipped)}")
    _print_tables(found)
    place_and_size = {"split": split, "resolution": resolution}
    written = {**about, **place_and_size, **found.as_dict(), "versions": versions()}
    results.write(written, found, title)
    return OK


def _about(lens: "Lens", arguments: Sequence[str]) -> dict[str, str | None]:
    """What was scored, and by which command, for the JSON file."""
    origin = lens.provenance
    assert origin is not None  # that of what was loaded
    return {
        "command": "python -m sima_core " + printable(shlex.join(arguments)),
        "checkpoint_sha256": origin.sha256,
        "checkpoint": origin.source,
        "architecture": origin.architecture,
    }


def _layer_numbers(text: str, lens: "Lens") -> list[int]:
    if text.strip() == "all":
        return lens.layer_numbers("all")
    try:
        numbers = LAYERS.read_list(text)
    except InputError:
        raise InputError(f"--layers takes 12, 1,6,12 or all; got {plain(text)!r}") from None
    return list(dict.fromkeys(lens.layer_numbers(numbers)))


def _map_names(text: str) -> list[str] | Literal["all"]:
    """The names in a text such as ``query,sent``; whether there are such maps is said later."""
    if text.strip() == "all":
        return "all"
    return list(dict.fromkeys(name.strip() for name in text.split(",", MOST_NUMBERS)))


def naming_problems(
    results: "Iterable[PictureResult]", total: int, most: int = 10
) -> "Iterator[PictureResult]":
    """The same results under a progress bar; says why pictures cannot be read.

    Only of the first `most`, and counts on: a root with a few pictures may list thousands.
    """
    from tqdm import tqdm

    problems = 0
    for result in tqdm(results, total=total, unit="picture", leave=False):
        if result.problem:
            problems += 1
            if problems <= most:
                tqdm.write(plain(result.problem, SENTENCE), file=sys.stderr)
        yield result
    if problems > most:
        print(f"… and {problems - most:,} more pictures cannot be read", file=sys.stderr)


def _print_tables(found: "Summary") -> None:
    print("means over pictures, 95 % bootstrap intervals")
    print(found.table())
    if len(found.layers) > 1:
        print("\nby layer")
        print(found.layers_table())
    if found.faithfulness:
        print("\ninsertion (higher is better) and deletion (lower is better): area under the curve")
        print(found.faithfulness_table())
    if found.sanity:
        print(f"\nwhen not to believe a map of layer {found.layer}: rank correlations, and the")
        print("largest value over the median; medians over pictures, 10 % to 90 % of them")
        print(found.sanity_table())
    print(f"scoring took {found.scoring_ratio:.2f} of the time of the two models' forward passes")
