"""Tokens brushed away: which of them, and what the model says without them."""

import contextlib
import filecmp
import re
import secrets
from dataclasses import dataclass

import cv2
import gradio as gr
import numpy as np
from gradio.events import Dependency
from markupsafe import Markup
from numpy.typing import NDArray

from app.handlers import COMPUTE, QUIET, plainly
from app.tabs.explore.again import look_again
from app.templating import render
from app.turns import TURNS
from app.viewer import STATIC
from app.visit import CocoLook, Look, Visit, require_look
from app.visitors import MAX_COST, MAX_TOKENS
from sima_core.coco.root import CocoError
from sima_core.coco.split import open_split
from sima_core.errors import InputError
from sima_core.lens.changes import changes
from sima_core.lens.knockout import KnockOut
from sima_core.lens.layers import Grid
from sima_core.scoring.metrics import Mask
from sima_core.weights.provenance import Provenance
from sima_core.words import plain

#: Characters of the longest text that marks tokens: four of them a digit, after the grid.
MAX_MARKS = MAX_TOKENS // 4 + len("99999x99999:") + 1
_MARKS = re.compile(r"(\d{1,5})x(\d{1,5}):([0-9a-f]*)", re.ASCII)


def write_marks(gone: Mask) -> str:
    """Which tokens are marked, as text: the grid, and a bit a token, row by row, four a digit."""
    bits = np.packbits(gone.ravel()).tobytes().hex()
    return f"{gone.shape[0]}x{gone.shape[1]}:{bits[: -(-gone.size // 4)]}"


def read_marks(text: str | None, grid: Grid) -> Mask:
    """The marked tokens of `write_marks`, bool (rows, cols); none where there is no text.

    Raises:
        InputError: the text is another, or of another grid; with a sentence for the visitor.
    """
    gone = np.zeros(grid, dtype=bool)
    if not text:
        return gone
    found = _MARKS.fullmatch(text)
    if not found:
        raise InputError(
            "marked tokens are written as rows × columns and one digit for four tokens, such as "
            f"2x2:8; got {plain(repr(text))}."
        )
    rows, cols, digits = int(found[1]), int(found[2]), found[3]
    if (rows, cols) != grid:
        raise InputError(
            f"these tokens were marked on a grid of {rows} × {cols}, and this photo has "
            f"{grid[0]} × {grid[1]}: mark them again."
        )
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits + "0" * (len(digits) % 2)), np.uint8))
    if len(digits) != -(-gone.size // 4) or bits[gone.size :].any():
        raise InputError(
            f"{rows} × {cols} tokens need {-(-gone.size // 4)} digits: mark them again."
        )
    return bits[: gone.size].astype(bool).reshape(grid)


def outside_objects(seen: Look, shown: CocoLook | None) -> Mask | None:
    """The tokens on which no object lies, where the photo is COCO's picture that is on show there.

    None where it is another photo, or has no objects, or they leave no token out.

    Raises:
        CocoError: as `open_split`, where COCO was taken away.
    """
    if shown is None or not _same_file(seen, shown):
        return None
    split = open_split(shown.path.parents[1], shown.split)
    objects = split.mask(shown.picture.id)
    rows, cols = seen.analysis.grid
    covered = cv2.resize(objects.astype(np.float32), (cols, rows), interpolation=cv2.INTER_AREA)
    outside: NDArray[np.bool_] = covered <= 0
    return outside if outside.any() and not outside.all() else None


def _same_file(seen: Look, shown: CocoLook) -> bool:
    """Whether the photo is that picture of COCO, byte for byte, and shown as it is annotated."""
    upright = seen.photo.ratio == shown.picture.width / shown.picture.height
    try:
        return upright and filecmp.cmp(seen.path, shown.path, shallow=False)
    except OSError:  # one of them was deleted
        return False


def bar_html(seen: Look, outside: Mask | None = None) -> Markup:
    """The bar with which tokens are brushed away; brush.js reads its data.

    Args:
        outside: the tokens beside the objects, where the photo has annotated ones.
    """
    rows, cols = seen.analysis.grid
    return render(
        "explore/brush",
        # Another one for every look, so that what was marked on another photo goes.
        look=secrets.token_hex(4),
        rows=rows,
        cols=cols,
        outside="" if outside is None else write_marks(outside),
    )


def begin(seen: Look | None, shown: CocoLook | None) -> tuple[Markup, str, str]:
    """The bar for a new look, no tokens marked, and no result."""
    seen = require_look(seen)
    outside = None
    with contextlib.suppress(CocoError):  # without COCO there are no objects to keep
        outside = outside_objects(seen, shown)
    return bar_html(seen, outside), "", ""


def knock_out(seen: Look | None, model_key: str | None, marks: str | None) -> Markup | str:
    """What the model says without the marked tokens; nothing where none is marked."""
    seen = require_look(seen)
    gone = read_marks(marks, seen.analysis.grid)
    if not gone.any():
        return ""
    if gone.all():
        return render("explore/all_gone", count=gone.size)
    lens, pixels = look_again(seen, model_key, MAX_COST / 3)  # so many passes
    tokens = [(int(row) + 1, int(col) + 1) for row, col in np.argwhere(gone)]
    with TURNS.turn():
        found = lens.without(pixels, tokens)
    assert lens.provenance is not None  # it was loaded here
    return changes_html(found, lens.provenance)


def changes_html(found: KnockOut, origin: Provenance) -> Markup:
    """The labels' bars: before and without the tokens beside each other, real beside predicted."""
    found_changes = changes(found, origin.labels, others=1)  # any that leads without some tokens
    first, leads = found_changes[0], origin.labels[int(found.real.argmax())]
    return render(
        "explore/without",
        changes=found_changes,
        first=first,
        leads=leads if leads != first.label else None,
        leading=float(found.real.max()),
        count=len(found.tokens),
        of=found.grid[0] * found.grid[1],
        predictable=found.predicted is not None,
        trained=origin.trained,
        percent=percent,
    )


def percent(share: float) -> str:
    """A probability in words that no line breaks: whole percents, but for the first ten."""
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f}\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Brush:
    """The bar below the pictures, and what the model says without the marked tokens."""

    visit: Visit
    bar: gr.HTML
    #: What brush.js has marked.
    marks: gr.Textbox
    result: gr.HTML

    @classmethod
    def lay_out(cls, visit: Visit, first: Look) -> "Brush":
        """Inside the column that holds the viewer, below it."""
        script = (STATIC / "brush.js").read_text(encoding="utf-8")
        bar = gr.HTML(bar_html(first), js_on_load=script, elem_id="brush")
        marks = gr.Textbox(
            label="Marked tokens", visible="hidden", max_length=MAX_MARKS, elem_id="brush-marks"
        )
        result = gr.HTML(elem_id="brush-result")
        marks.change(  # Gradio's `input` hears only keys
            plainly(knock_out),
            [visit.look, visit.model_key, marks],
            result,
            **COMPUTE,
            show_progress_on=result,
            trigger_mode="always_last",
        )
        return cls(visit, bar, marks, result)

    def begin_after(self, looked: Dependency) -> None:
        """After a new look nothing is marked any more."""
        looked.success(
            plainly(begin),
            [self.visit.look, self.visit.coco],
            [self.bar, self.marks, self.result],
            **QUIET,
        )
