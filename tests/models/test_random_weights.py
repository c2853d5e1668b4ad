"""The same network with the weights that it began with."""

import pytest
import timm
import torch
from torch import nn

from sima_core.models.random_weights import untrained_copy


class Scaled(nn.Module):
    """A layer that draws its own weights, and beside it a scale that nobody draws."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4,), 7.0)) if scaled else None


def test_timms_models_begin_as_timm_makes_them() -> None:
    learnt = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=12)
    with torch.no_grad():
        learnt.pos_embed.fill_(9.0)
    before = torch.random.get_rng_state()
    one, other = untrained_copy(learnt, 5), untrained_copy(learnt, 6)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    made = timm.create_model("vit_tiny_patch16_224", num_classes=3).state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in one.state_dict().items())
    assert not torch.equal(one.head.weight, other.head.weight)
    assert (learnt.pos_embed == 9.0).all()


@pytest.mark.parametrize(
    "config",
    [None, "vit_tiny_patch16_224", {}, {"architecture": None}, {"architecture": "of_nobody"}],
)
def test_other_models_draw_their_weights_as_when_they_were_made(config: object) -> None:
    learnt = Scaled(False)
    learnt.pretrained_cfg = config
    torch.nn.init.constant_(learnt.layer.weight, 7.0)
    torch.manual_seed(5)
    made = Scaled(False)
    fresh = untrained_copy(learnt, 5)
    assert torch.equal(fresh.layer.weight, made.layer.weight)
    assert torch.equal(fresh.layer.bias, made.layer.bias)
    assert (learnt.layer.weight == 7.0).all()


def test_a_model_that_is_not_what_its_name_says_draws_its_own_weights() -> None:
    learnt = Scaled(False)
    learnt.pretrained_cfg = {"architecture": "vit_tiny_patch16_224"}
    torch.nn.init.constant_(learnt.layer.weight, 7.0)
    assert untrained_copy(learnt).layer.weight.abs().max() < 1


def test_what_nobody_draws_is_not_left_as_it_was_learnt() -> None:
    with pytest.raises(ValueError, match="nothing draws scale anew"):
        untrained_copy(Scaled(True))
