"""Give a model random weights again."""

from typing import TypeVar

import torch
from torch import nn

_Model = TypeVar("_Model", bound=nn.Module)


def redraw(model: _Model, seed: int = 0) -> _Model:
    """Draw the weights anew, in place, as each module does when it is made; then as timm does.

    Parameters that no module can draw, such as the scales of LayerScale in some models, keep their
    values. The random numbers of others are left as they are.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        if callable(initialize := getattr(model, "init_weights", None)):
            initialize()
    return model
