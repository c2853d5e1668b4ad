"""What one token hears and who hears it, in one layer: looked up, described, written as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sima_core.defaults import LAYER, OPACITY
from sima_core.lens.export import about, output_names, together, write_description, write_overlay
from sima_core.lens.flow import Flow, FlowTotals, Parts, Token
from sima_core.lens.heatmaps import DIVERGING, Heatmap, signed_heatmap
from sima_core.lens.lens import Lens
from sima_core.machine import versions

#: What is known of every part, by the names that the written arrays have.
_AMOUNTS = ("weights", "signed", "norms")
#: Pairs of tokens beyond which nothing is added up over all of them: it would take minutes.
MOST_PAIRS = 20_000_000


@dataclass(frozen=True, eq=False)
class TokenFlow:
    """One token's parts, and the totals of its layer; holds no model."""

    flow: Flow
    #: As it hears, and as it is heard: where keys are fewer (CvT), the one that it lies under.
    token: Token
    key_token: Token
    #: From 1; None for all heads together.
    head: int | None
    received: Parts
    #: None where no patch hears anyone: class attention.
    sent: Parts | None
    #: None where there are too many tokens to add up over all pairs.
    totals: FlowTotals | None

    @classmethod
    def of(cls, flow: Flow, token: Token, head: int | None = None) -> "TokenFlow":
        """One token's parts in a flow.

        Raises:
            InputError: a token or head that does not exist.
            OutOfTimeError: where there is a `time_limit`.
        """
        received = flow.received(token, head)  # says first what is wrong with the token
        key_token = flow.key_under(token)
        sent = flow.sent(key_token, head) if flow.query_grid[0] else None
        few = flow.query.shape[1] * flow.key.shape[1] <= MOST_PAIRS
        totals = flow.totals(head) if few else None
        return cls(flow, token, key_token, head, received, sent, totals)

    @classmethod
    def look(
        cls,
        lens: Lens,
        pixels: Tensor,
        token: Token,
        layer: int | None = None,
        head: int | None = None,
    ) -> "TokenFlow":
        """One token's parts on a picture.

        Args:
            layer: as in `Lens.flow`, None for the paper's; for the class token as in
                `Lens.class_flow`.

        Raises:
            InputError: as `Lens.flow`, `Lens.class_flow` and `of`.
        """
        if token == "class":
            return cls.of(lens.class_flow(pixels, layer), token, head)
        return cls.of(lens.flow(pixels, LAYER if layer is None else layer), token, head)

    def signed(self) -> dict[str, Heatmap]:
        """The maps of what it received and sent, by name; what subtracts lies below a half.

        Raises:
            InputError: they are not finite.
        """
        parts = {"received": self.received, "sent": self.sent}
        return {n: signed_heatmap(of.on_grid("signed")) for n, of in parts.items() if of}

    def loudest(self, parts: Parts) -> list[int] | str:
        """The token with the largest part: [row, column], ``class``, or ``register``."""
        rows, cols = parts.grid
        place = int(parts.norms.argmax())
        patch = place - (len(parts.norms) - rows * cols)
        if patch < 0:
            return "class" if place == self.flow.layer.class_row else "register"
        row, col = divmod(patch, cols)
        return [row + 1, col + 1]

    def arrays(self) -> dict[str, Any]:
        """Everything that is known of the parts and totals, by the names of the written arrays.

        Class and register tokens come before those of the grids.
        """
        found: dict[str, Any] = {
            "query_grid": np.array(self.flow.query_grid),
            "key_grid": np.array(self.flow.key_grid),
        }
        for name, parts in (("received", self.received), ("sent", self.sent)):
            if parts is not None:
                found |= {f"{name}_{amount}": getattr(parts, amount) for amount in _AMOUNTS}
        if self.totals is not None:
            names = ("sent", "gathered", "received")
            found |= {f"total_{name}": getattr(self.totals, name) for name in names}
        return found


def describe(found: TokenFlow, lens: Lens, image_name: str, resolution: int) -> dict[str, Any]:
    """What the JSON file says: the token, the model, shares and errors; no path.

    Raises:
        InputError: parts that are not finite.
    """
    layer, totals = found.flow.layer, found.totals
    shown = found.signed()

    def of_parts(name: str, parts: Parts) -> dict[str, Any]:
        return {
            "loudest": found.loudest(parts),
            "negative_share": parts.negative_share,
            "cancelled": parts.cancelled,
            "length": parts.length,
            "largest_signed": shown[name].maximum,
        }

    return {
        **about(image_name, lens),
        "layer": layer.number,
        "attention": layer.attention,
        "of_class_attention": not layer.kind.over_patches,
        "head": "all" if found.head is None else found.head,
        "resolution": resolution,
        "token": found.token,
        "key_token": found.key_token,
        "grid": found.flow.query_grid,
        "key_grid": found.flow.key_grid,
        "received": of_parts("received", found.received),
        "sent": of_parts("sent", found.sent) if found.sent else None,
        "totals": totals
        and {
            "negative_share": totals.negative_share,
            "cancelled": totals.cancelled,
            "error": totals.error,
        },
        "versions": versions(),
    }


def ends_of(token: Token) -> tuple[str, ...]:
    """How the names of the files of a token end; `write` makes fewer where nothing is sent."""
    named = "class" if token == "class" else "-".join(map(str, token))
    return tuple(f"_{named}{end}" for end in (".npz", "_received.png", "_sent.png", ".json"))


def write(
    found: TokenFlow,
    description: dict[str, Any],
    image: Image.Image,
    folder: Path,
    stem: str,
    opacity: float = OPACITY,
) -> list[Path]:
    """Write arrays, overlays of the picture's size, and a description: all files or none.

    Args:
        description: what `describe` says.

    Raises:
        OSError: the files cannot be written.
        InputError: parts that are not finite, or an opacity outside [0, 1].
    """
    shown = found.signed()
    absent = {"received", "sent"} - set(shown)
    ends = [end for end in ends_of(found.token) if not any(f"_{name}." in end for name in absent)]
    paths = [folder / name for name in output_names(stem, ends)]
    with together(paths) as (values, *overlays, text):
        np.savez(values, **found.arrays())
        for file, of in zip(overlays, shown.values(), strict=True):
            write_overlay(file, image, of, DIVERGING, opacity)
        write_description(text, description)
    return paths
