"""What attention does with every token: ``flow`` and ``knockout``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter

from sima_core.cli.options import (
    BUNDLED,
    OK,
    Folder,
    ModelOptions,
    Resolution,
    computes,
    json_text,
    make_folder,
    note_untrained,
)
from sima_core.cli.pictures import unique_stems
from sima_core.defaults import OPACITY, RESOLUTION
from sima_core.files import writing
from sima_core.lens.tokens import Area, grid_of, read_areas, read_token, tokens_in
from sima_core.numbers import LAYERS, Share, Whole, option
from sima_core.words import in_powers, plain

if TYPE_CHECKING:
    from sima_core.lens.flow import Token
    from sima_core.lens.token_flow import TokenFlow


def _one(_: Any, tokens: Sequence[cyclopts.Token]) -> "Token":
    return read_token(tokens[-1].value)


def _several(_: Any, tokens: Sequence[cyclopts.Token]) -> tuple[Area, ...]:
    return read_areas(tokens[-1].value)


_Layer = Annotated[int | None, option(LAYERS), Parameter(metavar="N")]


@computes
def flow(
    image: Path,
    /,
    *,
    token: Annotated[
        Any,
        Parameter(converter=_one, metavar="ROW,COL", help="from 1,1, or class: the class token"),
    ],
    out: Folder,
    model: ModelOptions = BUNDLED,
    layer: _Layer = None,
    head: Annotated[int | None, option(Whole(1, 999)), Parameter(metavar="N")] = None,
    resolution: Resolution = RESOLUTION,
    opacity: Share = OPACITY,
) -> int:
    """Whom one token hears, and who hears it: parts, signed overlays and a description.

    Args:
        layer: from 1; negative from the end; default: 12; of class: its first own, else the last
        head: one head, from 1, in place of all
        opacity: of the overlays, from 0 to 1
    """
    from sima_core.lens.pictures import load_image, warm
    from sima_core.lens.token_flow import TokenFlow, describe, ends_of, write

    warm()  # while the model is read
    lens = model.load()
    picture = load_image(image)
    found = TokenFlow.look(lens, lens.preprocess(picture, resolution), token, layer, head)
    about = describe(found, lens, image.name, resolution)
    make_folder(out)
    note_untrained(lens, model)
    [stem] = unique_stems([image], out, ends_of(token))
    with writing("its results"):
        paths = write(found, about, picture, out, stem, opacity)
    print(_in_words(found))
    print(f"{len(paths)} files written to {plain(out)}")
    return OK


def _in_words(found: "TokenFlow") -> str:
    """What was found, in two sentences."""
    received = found.received
    said = (
        f"{_named(found.token)} hears most from {_named(found.loudest(received))}; "
        f"{received.negative_share:.0%} of the weight subtracts, and {received.cancelled:.0%} of "
        "what its parts bring cancels"
    )
    if found.sent is not None:
        said += f"; {_named(found.loudest(found.sent))} hears it most"
    if found.totals is not None and found.totals.error is not None:
        error = in_powers(found.totals.error)
        said += f"\nthe parts of all tokens add up to the layer's output within {error}"
    return said


def _named(token: object) -> str:
    if isinstance(token, str):
        return f"the {token} token" if token == "class" else f"a {token} token"
    assert isinstance(token, tuple | list)
    return "row {}, column {}".format(*token)


@computes
def knockout(
    image: Path,
    /,
    *,
    tokens: Annotated[
        Any,
        Parameter(
            converter=_several,
            metavar="R,C;…",
            help="tokens and rectangles with ; between them, from 1,1: 3,5;2-4,6-9",
        ),
    ],
    model: ModelOptions = BUNDLED,
    layer: _Layer = None,
    resolution: Resolution = RESOLUTION,
    json: bool = False,
) -> int:
    """What the model says when some tokens take no part in attention.

    Args:
        layer: only here, from 1, negative from the end; default: in all layers
        json: as JSON
    """
    from sima_core.lens.changes import describe
    from sima_core.lens.pictures import load_image, warm

    warm()  # while the model is read
    lens = model.load()
    pixels = lens.preprocess(load_image(image), resolution)
    gone = tokens_in(tokens, grid_of(pixels, lens.patch_size))
    found = lens.without(pixels, gone, "all" if layer is None else layer)
    note_untrained(lens, model)
    about = describe(found, lens, image.name, layer, resolution)
    print(json_text(about) if json else _table(about))
    return OK


def _table(about: Mapping[str, Any]) -> str:
    """For people: a row a label, in percent, of what `describe` says."""
    rows, cols = about["grid"]
    where = "all layers" if about["layer"] == "all" else f"layer {about['layer']}"
    lines = [
        f"{len(about['tokens'])} of {rows * cols} tokens taken away in {where}",
        f"{'label':<32}{'before':>11}{'predicted':>11}{'real':>11}",
    ]
    for label in about["labels"]:
        shares = (label["before"], label["predicted"], label["real"])
        cells = "".join(f"{'–' if s is None else f'{100 * s:.1f} %':>11}" for s in shares)
        lines.append(f"{label['label'][:30]:<32}{cells}")
    return "\n".join(lines)
