"""The same network with random weights."""

import copy
from collections.abc import Callable
from typing import TypeVar

import timm
import torch
from torch import nn

from sima_core.errors import InputError

_Model = TypeVar("_Model", bound=nn.Module)


def untrained_copy(model: _Model, seed: int = 0) -> _Model:
    """A copy with the weights that its architecture begins with.

    timm makes them where it knows the architecture; else they are drawn as each module draws its
    own when it is made. The random numbers of others are left as they are.

    Raises:
        InputError: it has weights that no module draws, such as the scales of XCiT's branches: they
            would keep what was learnt.
    """
    model = copy.deepcopy(model)
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        fresh = _made_by_timm(model)
        if fresh is not None:
            model.load_state_dict(fresh)
            return model
        kept = _draw(model)
    if kept:
        raise InputError(
            f"the random twin of this model cannot be made: nothing draws {kept[0]} anew. Load the "
            "model by its architecture's name, with Lens.load or load_model"
        )
    return model


def _made_by_timm(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """What timm's model of the same name begins with; None if it has other weights."""
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, dict) else None
    if not name or not timm.is_model(name):
        return None
    fresh: dict[str, torch.Tensor] = timm.create_model(
        name, num_classes=getattr(model, "num_classes", 1000)
    ).state_dict()
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return fresh if own == {name: tensor.shape for name, tensor in fresh.items()} else None


def _draw(model: nn.Module) -> list[str]:
    """Draw every weight anew, as its module does, then as timm does; names of those left over."""
    for parameter in model.parameters():
        parameter.fill_(torch.nan)
    for module in model.modules():
        _call(getattr(module, "reset_parameters", None))
    _call(getattr(model, "init_weights", None))
    return [name for name, parameter in model.named_parameters() if parameter.isnan().any()]


def _call(method: Callable[[], object] | None) -> None:
    if callable(method):
        method()
