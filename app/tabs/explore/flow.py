"""The flow view: whom each token hears and who hears it, told by the page itself.

The numbers of one layer go to the page once, in half precision; `static/flow.js` takes the parts of
any token from them, as `Flow.received` and `Flow.sent` do. Where they would be too many, the server
is asked for one token at a time. Nothing of it is kept for the visit.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from app.handlers import COMPUTE, plainly
from app.tabs.explore.again import look_again
from app.tabs.explore.look import View
from app.tabs.explore.named_map import PAPER
from app.templating import render
from app.turns import TURNS
from app.viewer import STATIC
from app.visit import Look, Visit, require_look
from app.visitors import require_visit
from app.words import capitalized
from sima_core.errors import InputError
from sima_core.lens.flow import Flow, Parts, Token
from sima_core.lens.heatmaps import NOT_FINITE
from sima_core.lens.layers import SIDES, Grid
from sima_core.words import in_powers

#: What the page is sent at most: tokens of a grid, and bytes of their numbers as they are sent.
MAX_TOKENS, MAX_BYTES = 1024, 10**6

#: What the switch above the pictures offers.
MAPS, FLOW = "Maps", "Flow"
# Flow is drawn over the paper's two pictures: whoever chooses it leaves another map, and the other
# way round.
_SET_VIEW = f"""(view, map) => {{
  document.dispatchEvent(new CustomEvent('sl-view', {{ detail: view === '{FLOW}' }}));
  return [view, view === '{FLOW}' ? '{PAPER}' : map];
}}"""
_SET_MAP = f"""(view, map) => {{
  if (map === '{PAPER}') return view;
  document.dispatchEvent(new CustomEvent('sl-view', {{ detail: false }}));
  return '{MAPS}';
}}"""
_REFUSED = "() => {document.dispatchEvent(new CustomEvent('sl-refused'))}"

_CHOOSE = "choose a token: click on it in one of the two pictures."


@dataclass(frozen=True)
class FlowView:
    """The switch, and the card that holds the numbers."""

    switch: gr.Radio
    card: gr.HTML

    @classmethod
    def lay_out(cls) -> "FlowView":
        """Both inside the current Blocks, above the maps; they hold nothing yet."""
        script = (STATIC / "flow.js").read_text(encoding="utf-8")
        return cls(
            gr.Radio(
                [MAPS, FLOW],
                value=MAPS,
                label="What the pictures show",
                show_label=False,
                container=False,
                elem_id="view",
            ),
            gr.HTML(js_on_load=script, elem_id="flow"),
        )

    def wire(self, visit: Visit, head: gr.Dropdown, which_map: gr.Dropdown) -> None:
        """Ask for a layer when the page's script says that its numbers are needed, and not else."""
        both = [self.switch, which_map]
        self.switch.input(None, both, both, js=_SET_VIEW)
        which_map.input(None, both, self.switch, js=_SET_MAP)
        given = [visit.look, visit.model_key, visit.layer]
        for event, handler, more in (
            (self.card.submit, of_layer, []),
            (self.card.select, of_token, [head]),
        ):
            asked = event(
                plainly(handler), [*given, *more], self.card, **COMPUTE, trigger_mode="always_last"
            )
            asked.failure(None, js=_REFUSED)


def of_layer(seen: Look | None, model_key: str | None, layer: float | None) -> Markup:
    """The card of one layer: its numbers, or what a click gives, or why it has none."""
    return _card(require_look(seen), model_key, layer, 0, None)


def of_token(
    choice: gr.EventData,
    seen: Look | None,
    model_key: str | None,
    layer: float | None,
    head: float,
) -> Markup:
    """The card of one layer with one token's parts."""
    return _card(require_look(seen), model_key, layer, head, _token(choice))


def _token(choice: gr.EventData) -> Token:
    """The token that was clicked; the library says where there is none.

    Raises:
        InputError: no token was named.
    """
    named = getattr(choice, "token", None)
    if named == "class":
        return "class"
    if isinstance(named, list) and len(named) == 2 and all(type(n) is int for n in named):
        return named[0], named[1]
    raise InputError(_CHOOSE)


@dataclass(frozen=True)
class _Sent:
    """What the card carries for the page's script: arrays in base64 by name, and about them."""

    about: dict[str, Any]
    arrays: dict[str, str]

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.arrays.values()))


def _card(
    seen: Look, model_key: str | None, layer: float | None, head: float, token: Token | None
) -> Markup:
    """A layer's card: its flow, or why there is none as long as this layer is on show."""
    require_visit(model_key)
    view = View.of(seen.analysis, layer, head, "")
    if seen.model_key != model_key:  # a look through the new one follows, unless it was refused
        return _none(seen, view, "the model was changed: choose the photo again.")
    lens, pixels = look_again(seen, model_key)
    with TURNS.turn():
        try:
            flow = lens.flow(pixels, view.layer)
        except InputError as why:
            return _none(seen, view, f"{why}.")
        return _drawn(seen, flow, view.head, token)


def _none(seen: Look, view: View, why: str) -> Markup:
    about = {"look": seen.key, "layer": view.layer}
    return render("explore/no_flow", about=json.dumps(about), why=capitalized(why))


def _drawn(seen: Look, flow: Flow, head: int | None, token: Token | None) -> Markup:
    """The card of a flow: with its numbers where they are few enough, else with one token's."""
    many, num_bytes = max(_size(flow.query_grid), _size(flow.key_grid)), _num_bytes(flow)
    asks = token is not None or many > MAX_TOKENS or num_bytes > MAX_BYTES
    sent = _one_token(flow, token or _loudest(flow), head) if asks else _all_tokens(flow)
    # All pairs of more tokens would take longer than the rest.
    totals = flow.totals() if many <= MAX_TOKENS else None
    error = in_powers(totals.error) if totals and totals.error is not None else None
    about = {
        "look": seen.key,
        "layer": flow.layer.number,
        "grids": {"query": flow.query_grid, "key": flow.key_grid},
        "tokens": {"query": flow.query.shape[1], "key": flow.key.shape[1]},
        "classRow": flow.layer.class_row,
        "rest": _loudest(flow),
        "error": error,
        **sent.about,
    }
    return render(
        "explore/flow",
        about=json.dumps(about),
        arrays=sent.arrays,
        asks=asks,
        layer=flow.layer,
        num_tokens=many,
        max_tokens=MAX_TOKENS,
        num_bytes=num_bytes if asks else sent.num_bytes,
        max_bytes=MAX_BYTES,
        totals=totals,
        error=error,
        trained=seen.analysis.trained,
        sides=SIDES,
    )


def _all_tokens(flow: Flow) -> _Sent:
    """All that the parts of every token are made of.

    Raises:
        InputError: the weights are damaged.
    """
    arrays, scales = {}, {}
    for name, values in (
        ("query", flow.query),
        ("key", flow.key),
        ("value-norm", flow.value_norm[..., None]),
    ):
        # By head, so that none is so small beside another that half precision loses it.
        scale = values.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo().tiny)
        scales[name] = _finite(scale).flatten().tolist()
        arrays[name] = _base64((values / scale).half())
    if flow.row_totals is not None:  # logarithms, of which half precision would leave too little
        arrays["row-totals"] = _base64(_finite(flow.row_totals))
    return _Sent({"heads": flow.num_heads, "width": flow.width, "scales": scales}, arrays)


def _one_token(flow: Flow, token: Token, head: int | None) -> _Sent:
    """The parts of one token, for the page to draw.

    Raises:
        InputError: there is no such token, or the weights are damaged.
    """
    received = flow.received(token, head)
    sent = flow.sent(flow.key_under(token), head)
    answer = {
        "token": token,
        "head": head or 0,
        "negative": {"query": received.negative_share, "key": sent.negative_share},
    }
    return _Sent({"answer": answer}, {"query": _signed(received), "key": _signed(sent)})


def _signed(parts: Parts) -> str:
    return _base64(_finite(torch.from_numpy(parts.signed)))


def _loudest(flow: Flow) -> tuple[int, int]:
    """The token of the queries' grid at the place of the largest key norm."""
    rows, cols = flow.key_grid
    norms = torch.linalg.vector_norm(flow.key, dim=(0, 2))[-rows * cols :]
    at = divmod(int(norms.argmax()), cols)
    row, col = (  # as `onGrid` in `flow.js`, from 0
        int((n + 0.5) * queries / keys) + 1
        for n, keys, queries in zip(at, flow.key_grid, flow.query_grid, strict=True)
    )
    return row, col


def _size(grid: Grid) -> int:
    return grid[0] * grid[1]


def _num_bytes(flow: Flow) -> int:
    """What the numbers take as they are sent, in half precision and base64."""
    raw = 2 * (flow.query.numel() + flow.key.numel() + flow.value_norm.numel())
    if flow.row_totals is not None:
        raw += 4 * flow.row_totals.numel()
    return raw * 4 // 3


def _base64(values: Tensor) -> str:
    return base64.b64encode(np.ascontiguousarray(values.cpu().numpy()).tobytes()).decode()


def _finite(values: Tensor) -> Tensor:
    """Raises InputError: the weights are damaged."""
    if not values.isfinite().all():
        raise InputError(NOT_FINITE)
    return values
