"""Which architecture a set of parameters belongs to."""

import difflib
from collections.abc import Mapping

import timm
import torch
from torch import Tensor

from sima_core.models.architectures import ARCHITECTURES, parameter_shapes
from sima_core.weights.provenance import MAX_CLASSES
from sima_core.weights.sentences import CheckpointError, first_names, shape_in_words
from sima_core.words import SHOWN, shown

#: The longest name that the nearest architectures are looked up for; ours have 30 characters.
MAX_NAME = 100

#: What weights without a name may be: of architectures that share their shapes, only the first.
_GUESSED = [
    name
    for name in ARCHITECTURES
    if not name.endswith(("_1h", "_384")) and not name.startswith(("sima_cvt", "plain_"))
]


def require_registered(name: str, shown_as: str | None = None) -> None:
    """Refuse a name that is not registered; suggests the nearest.

    Args:
        shown_as: the file that says so, if one does.

    Raises:
        CheckpointError: there is no such architecture.
    """
    if name in ARCHITECTURES:
        return
    says = f"{shown_as} says that it holds" if shown_as else "There is no architecture"
    if len(name) <= MAX_NAME and timm.is_model(name):
        raise CheckpointError(
            f"{says} {shown(name, SHOWN)!r}, which is not an architecture of SimA Lens: "
            "`python -m sima_core models` lists those."
        )
    nearest = difflib.get_close_matches(name[:MAX_NAME], ARCHITECTURES, n=3, cutoff=0.5)
    hint = (
        f"Did you mean {' or '.join(nearest)}?"
        if nearest
        else ("`python -m sima_core models` lists them all.")
    )
    unknown = ", which is not registered" if shown_as else ""
    raise CheckpointError(f"{says} {shown(name, SHOWN)!r}{unknown}. {hint}")


def num_classes_of(state_dict: Mapping[str, Tensor]) -> int:
    """Rows of the head, in a state dict that `architecture_of` has passed."""
    return state_dict["head.bias"].shape[0]


def architecture_of(state_dict: dict[str, Tensor], named: str | None, shown_as: str) -> str:
    """The architecture whose parameters these are; the name given must agree with the shapes.

    Raises:
        CheckpointError: no architecture, or not the named one, has these parameters.
    """
    if named is not None:
        require_registered(named, shown_as)
    shapes = {name: tensor.shape for name, tensor in state_dict.items()}
    candidates = [named] if named else _GUESSED
    agreement = {name: _agreement(shapes, name) for name in candidates}
    best = max(candidates, key=lambda name: agreement[name])
    if not named and agreement[best] < 0.5:
        raise CheckpointError(
            f"{shown_as} holds another kind of model: its parameters (such as "
            f"{first_names(sorted(shapes))}) are of no registered architecture."
        )
    expected = _expected_shapes(shapes, best)
    wrong = [n for n in expected if n in shapes and shapes[n] != expected[n]]
    if wrong and named:
        fitting = [n for n in _GUESSED if _agreement(shapes, n) == 1.0]
        name = wrong[0]
        is_, should = shape_in_words(shapes[name]), shape_in_words(expected[name])
        detail = f"{shown(name, SHOWN)} is {is_} and should be {should}."
        hint = f"They are those of {fitting[0]}." if fitting else detail
        raise CheckpointError(f"The shapes in {shown_as} are not those of {named}. {hint}")
    missing = [n for n in expected if n not in shapes and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in shapes if n not in expected]
    found = {"missing": missing, "unexpected": unexpected, "wrongly shaped": wrong}
    problems = [f"{kind} {first_names(names)}" for kind, names in found.items() if names]
    if problems:
        raise CheckpointError(f"{shown_as} does not fit {best}: {'; '.join(problems)}.")
    return best


def _expected_shapes(shapes: Mapping[str, torch.Size], architecture: str) -> dict[str, torch.Size]:
    """`architecture`'s shapes with as many classes as the head in `shapes`, where that is sound."""
    expected = dict(parameter_shapes(architecture))
    bias = shapes.get("head.bias", torch.Size())
    if len(bias) == 1 and 1 <= bias[0] <= MAX_CLASSES:
        expected["head.bias"] = bias
        expected["head.weight"] = torch.Size([bias[0], expected["head.weight"][1]])
    return expected


def _agreement(shapes: Mapping[str, torch.Size], architecture: str) -> float:
    """The share of all names, here or there, whose shapes agree; from 0 to 1."""
    expected = _expected_shapes(shapes, architecture)
    both = sum(shapes.get(name) == shape for name, shape in expected.items())
    return both / len(shapes.keys() | expected.keys())
