"""Every argument of every handler, checked in one place before anything is done with it.

Handlers can be called by name or number and with anything, not only by the page. `Page` reads what
was sent in place of Gradio, whose own reading follows a path that a caller names, rounds numbers,
and leaves its exceptions unsaid.
"""

import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.blocks import Block
from gradio.state_holder import SessionState

from app import mishaps
from app.handlers import refusal
from sima_core.words import plain

#: The longest path, text and list that are looked at, and the largest number; Textbox's
#: `max_length` may say less.
MAX_PATH, MAX_TEXT, MAX_ITEMS, MAX_NUMBER = 4096, 1000, 100, 10**9
#: Characters of what was sent that a sentence repeats.
_SHOWN = 32


class Page(gr.Blocks):
    """The page's Blocks: checks what handlers are given, and always answers with a sentence."""

    async def preprocess_data(
        self,
        block_fn: BlockFunction,
        inputs: list[Any],
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list[Any]:
        """What the handler takes, made of what was sent.

        Raises:
            gr.Error: it cannot be used; says which argument and why.
        """
        state = state or SessionState(self)
        if block_fn.fn is None:
            raise refusal("nothing on the server belongs to this event.")
        if block_fn.api_visibility == "public" and isinstance(inputs, list) and inputs:
            # Callers who knew of fewer arguments get the others' defaults.
            inputs = inputs + [getattr(c, "value", None) for c in block_fn.inputs[len(inputs) :]]
        if not isinstance(inputs, list) or len(inputs) != len(block_fn.inputs):
            given = len(inputs) if isinstance(inputs, list) else "no list"
            raise refusal(f"{len(block_fn.inputs)} arguments are needed here; got {given}.")
        # What an event may set can have other choices for one visitor; when a visit was forgotten
        # they are forgotten too, and the handler says so.
        forgotten = all(
            value == getattr(self.blocks[id_], "value", None)
            for id_, value in state.state_data.items()
        )
        open_ended = {c._id for fn in self.fns.values() for c in fn.outputs} if forgotten else set()
        values = []
        for number, (component, sent) in enumerate(zip(block_fn.inputs, inputs, strict=True)):
            if component.stateful:
                values.append(state[component._id])  # whatever was sent in its place
                continue
            own = state.get(component._id, component)
            name = argument_name(block_fn, number)
            values.append(read(own, sent, name, component._id in open_ended))
        return values

    async def process_api(
        self, block_fn: BlockFunction | int, inputs: list[Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """One call of a handler.

        Raises:
            gr.Error: with a sentence; no other exception, but for a call that is cancelled.
        """
        event = kwargs.get("event_data")
        if event is not None and not isinstance(event._data, dict):
            kwargs["event_data"] = gr.EventData(event.target, {})
        try:
            return await super().process_api(block_fn, inputs, *args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            said = mishaps.sentence(error)
            mishaps.note(error, brief=said != mishaps.SENTENCE)
            raise refusal(said) from None


def argument_name(block_fn: BlockFunction, number: int) -> str:
    """What callers know the argument by: a public endpoint's parameter, else the label."""
    names = block_fn.input_parameter_names or []
    component = block_fn.inputs[number]
    label = str(getattr(component, "label", None) or f"argument {number + 1}")
    if block_fn.api_visibility == "public" and number < len(names):
        return names[number] or label
    return label.split(" (")[0]


def read(component: Block, sent: Any, name: str, open_ended: bool = False) -> Any:
    """The value of one input, of the kind that the component has.

    Args:
        open_ended: whether choices and bounds are left for the handler to check.

    Raises:
        gr.Error: it has another kind, or cannot be chosen.
    """
    for kinds, reader in _READERS:
        if isinstance(component, kinds):
            return reader(component, sent, name, open_ended)
    raise refusal(f"{name} cannot be given.")


def uploaded(path: object) -> Path | None:
    """The file that a path names, if it was uploaded or made for a visitor; nothing is opened.

    It lies in Gradio's folder, in a folder of its own, wherever links lead; files that are still
    being written lie right in Gradio's, and folders, pipes and devices are none.
    """
    if not isinstance(path, str) or len(path) > MAX_PATH or not Path(path).is_absolute():
        return None
    try:
        folder = Path(gr.utils.get_upload_folder()).resolve()
        found = Path(path).resolve(strict=True)
        inside = found.relative_to(folder)
        regular = stat.S_ISREG(found.stat().st_mode)
    except (OSError, ValueError, RuntimeError):  # missing, elsewhere, no path, a loop of links
        return None
    return found if regular and len(inside.parts) > 1 else None


def _read_file(component: Any, sent: Any, name: str, open_ended: bool) -> str | None:
    if sent is None:
        return None
    found = uploaded(sent.get("path")) if isinstance(sent, dict) else None
    if found is None:  # the same words for all, so that they tell nothing of this machine
        kind = "picture" if isinstance(component, gr.Image) else "file"
        raise refusal(f"{name}: upload a {kind} first, then name the uploaded file.")
    return str(found)


def _read_number(component: Any, sent: Any, name: str, open_ended: bool) -> float | None:
    """A number within bounds, whole where it has no decimals; None where a box was emptied."""
    if sent is None:
        return None
    whole = component.precision == 0
    low, high = component.minimum, component.maximum
    if open_ended:
        low, high = None, None
    numeric = type(sent) in (int, float) and -math.inf < sent < math.inf
    # Compared before it is converted: a whole number may be too long for a float.
    inside = numeric and (
        (-MAX_NUMBER if low is None else low) <= sent <= (MAX_NUMBER if high is None else high)
    )
    if not inside or (whole and sent != int(sent)):
        bounds = f" from {low} to {high}" if low is not None and high is not None else ""
        raise refusal(f"{name} must be a {'whole ' * whole}number{bounds}; got {shown(sent)}.")
    return int(sent) if whole else float(sent)


def _read_choice(component: Any, sent: Any, name: str, open_ended: bool) -> Any:
    """One of the choices; None where nothing is chosen at first."""
    if getattr(component, "multiselect", False):
        return _read_choices(component, sent, name, open_ended)
    if sent is None and component.value is None:
        return None
    found = _chosen(component, sent, open_ended)
    if found is None:
        raise refusal(f"{name} must be one of the choices on offer; got {shown(sent)}.")
    return found[0]


def _read_choices(component: Any, sent: Any, name: str, open_ended: bool) -> list[Any]:
    """Several of the choices, each once; none where the box was emptied."""
    if sent is None:
        return []
    most = component.max_choices or MAX_ITEMS
    if not isinstance(sent, list) or len(sent) > most:
        given = f"a list of {len(sent)}" if isinstance(sent, list) else shown(sent)
        raise refusal(f"{name} must be a list of at most {most} choices; got {given}.")
    found = [_chosen(component, item, open_ended) for item in sent]
    chosen = [one[0] for one in found if one is not None]
    if len(chosen) < len(sent):
        wrong = sent[found.index(None)]
        raise refusal(f"{name} must hold only choices on offer; got {shown(wrong)}.")
    return list(dict.fromkeys(chosen))


def _chosen(component: Any, sent: Any, open_ended: bool) -> tuple[str | int] | None:
    """What was chosen, alone in a tuple, since it may be 0 or empty; None if it cannot be."""
    if type(sent) is float and sent.is_integer():
        sent = int(sent)  # JavaScript's numbers
    short = (type(sent) is int and abs(sent) <= MAX_NUMBER) or _is_text(sent, MAX_TEXT)
    offered = [value for _, value in component.choices]
    of_a_kind = isinstance(sent, type(offered[0]) if offered else str)
    if not short or not of_a_kind or not (open_ended or sent in offered):
        return None
    return (sent,)


def _read_text(component: Any, sent: Any, name: str, open_ended: bool) -> str | None:
    most = component.max_length or MAX_TEXT
    if sent is not None and not _is_text(sent, most):
        raise refusal(f"{name} must be text of at most {most} characters; got {shown(sent)}.")
    return None if sent is None else str(sent)


def _is_text(value: object, most: int) -> bool:
    """Whether it is a short text that can be sent on: halves of a UTF-16 pair cannot."""
    return (
        isinstance(value, str)
        and len(value) <= most
        and not any("\ud800" <= c <= "\udfff" for c in value)
    )


def shown(value: object) -> str:
    """What was sent, as a sentence may repeat it."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, f"{value:.6g}")
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and abs(value) > 10**_SHOWN:
        return "a very large number" if value > 0 else "a very small number"
    return plain(repr(value) if isinstance(value, str) else str(value), _SHOWN)


_Reader = Callable[[Any, Any, str, bool], Any]
#: How the value of each kind of component is read; of no other kind is any taken.
_READERS: tuple[tuple[tuple[type[Block], ...], _Reader], ...] = (
    ((gr.Image, gr.File), _read_file),
    ((gr.Slider, gr.Number), _read_number),
    ((gr.Dropdown, gr.Radio), _read_choice),
    ((gr.Textbox,), _read_text),
)
