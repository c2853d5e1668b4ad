"""Pictures through models: ``heatmap``, ``compare`` and ``models``."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sima_core.cli.options import (
    BUNDLED,
    NOTHING_DONE,
    OK,
    SOME_FAILED,
    Folder,
    Layer,
    MapKind,
    MapName,
    ModelOptions,
    PngFile,
    Resolution,
    computes,
    make_folder,
    note_untrained,
    one_of,
    require_png,
)
from sima_core.defaults import LAYER, RESOLUTION
from sima_core.errors import SimaLensError
from sima_core.files import writing
from sima_core.numbers import LAYERS, Seconds, option
from sima_core.words import SENTENCE, plain


@computes
def heatmap(
    images: list[Path],
    /,
    *,
    out: Folder,
    model: ModelOptions = BUNDLED,
    layer: Layer = LAYER,
    resolution: Resolution = RESOLUTION,
    map: Annotated[MapName | None, one_of(MapName)] = None,
) -> int:
    """Maps, overlays and a description for each picture.

    Args:
        map: another one than the norms of Q̂ and K̂
    """
    from tqdm import tqdm

    from sima_core.lens.export import ends_of, write
    from sima_core.lens.maps import listening, require_map
    from sima_core.lens.pictures import load_image, warm

    warm()  # while the model is read
    lens = model.load()
    number = lens.layer(layer).number
    lens.input_size(1, 1, resolution)  # raises for all pictures what would be raised for each
    if map is not None:
        require_map(map, lens.layer(number), lens.map_names(number))
    make_folder(out)
    note_untrained(lens, model)

    failed = 0
    jobs = zip(images, unique_stems(images, out, ends_of(map)), strict=True)
    for path, stem in tqdm(jobs, total=len(images), unit="image", disable=len(images) < 2):
        try:
            image = load_image(path)
            pixels = lens.preprocess(image, resolution)
            names = [map] if map else []
            with listening(lens.model, pixels, [lens.layer(number)], names) as heard:
                analysis = lens.analyze(image, resolution, [number], pixels=pixels)
            named = (map, heard()[number].of(map)) if map else None
            with writing("its results"):
                write(analysis, out, stem, path.name, number, named=named)
        except SimaLensError as error:
            failed += 1
            tqdm.write(f"{plain(path)}: {plain(error, SENTENCE)}", file=sys.stderr)
    print(f"maps of {len(images) - failed} of {len(images)} image(s) written to {plain(out)}")
    if failed == len(images):
        return NOTHING_DONE
    return SOME_FAILED if failed else OK


def unique_stems(
    images: Sequence[Path], out: Path, ends: Sequence[str] | None = None
) -> Iterator[str]:
    """A stem for each image's output files, such that none meets another's or an input.

    Args:
        ends: of the files' names behind the stem; None for those of the paper's two maps.

    The first ``cat`` stays ``cat``, the next is ``cat-2``; what is too long is cut.
    """
    from sima_core.lens.export import ENDS, fitting, output_names

    ends = ENDS if ends is None else ends
    taken = set(map(_place, images))
    tried: Counter[str] = Counter()  # so that thousands of one name do not each begin at 1
    for image in images:
        name = image.stem.casefold()
        while True:
            tried[name] += 1
            stem = fitting(image.stem, f"-{tried[name]}" if tried[name] > 1 else "", ends)
            paths = {_place(out / name) for name in output_names(stem, ends)}
            if paths.isdisjoint(taken):
                break
        taken |= paths
        yield stem


def _place(file: Path) -> str:
    """Where a file lies, links followed as far as they lead, as case-blind disks see it."""
    try:
        return os.path.realpath(file).casefold()
    except (OSError, ValueError):  # no file has such a name, as will be said of it
        return str(file).casefold()


@computes
def compare(
    image: Path,
    /,
    *,
    models: Annotated[
        str,
        Parameter(
            metavar="A,B,…",
            help="two to four: architectures (see models), bundled, files or hf-hub:owner/name; "
            "each may name its layer and head: bundled@6,bundled@12.2",
        ),
    ],
    out: PngFile,
    layer: Annotated[int, option(LAYERS), Parameter(help="where a model names none")] = LAYER,
    resolution: Resolution = RESOLUTION,
    map: Annotated[MapKind, one_of(MapKind)] = "norms",
    seconds: Seconds = 3.0,
) -> int:
    """A figure, and a line on each.

    Args:
        seconds: time budget of the timing
    """
    require_png("--out", out)

    import torch

    from sima_core import comparison
    from sima_core.bench import calibration
    from sima_core.lens.pictures import load_image, warm
    from sima_core.machine import Machine

    warm()  # while the models are read
    calibration.apply()
    choices = [comparison.Choice.parse(text, layer) for text in models.split(",")]
    panels, times = comparison.compare(choices, load_image(image), resolution, map, seconds)
    with writing("the figure"):
        comparison.plot(panels, times, out)
    print(Machine.here(torch.empty(0)))
    for panel, timed in zip(panels, times, strict=True):
        print(f"{plain(panel.title):<48}{plain(panel.weights):<34}{timed}")
    return OK


@computes
def models() -> int:
    """Every architecture with its size and cost at 224 × 224."""
    from tqdm import tqdm

    from sima_core.models.architectures import ARCHITECTURES, architectures

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
