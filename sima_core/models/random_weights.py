"""The same network with random weights."""

import copy
from typing import TypeVar

import torch
from torch import nn

from sima_core.errors import InputError

_Model = TypeVar("_Model", bound=nn.Module)


def redrawn(model: _Model, seed: int = 0) -> _Model:
    """A copy whose weights are drawn as each module does when it is made, and then as timm does.

    The random numbers of others are left as they are.

    Raises:
        InputError: it has weights that no module draws, such as the scales of XCiT's branches: they
            would keep what was learnt.
    """
    model = copy.deepcopy(model)
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        if callable(initialize := getattr(model, "init_weights", None)):
            initialize()
    kept = [name for name, parameter in model.named_parameters() if parameter.isnan().any()]
    if kept:
        raise InputError(
            f"the random twin of this model cannot be made: nothing draws {kept[0]} anew. Load the "
            "model with load_model, or with Lens.load, by its architecture's name"
        )
    return model
