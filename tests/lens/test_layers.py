"""Where a model's layers are, and what a token stands for, as models say it themselves."""

import pytest
import timm
import torch

from sima_core.lens.layers import find_layers, patch_size


@pytest.mark.parametrize("told", [[], None, "nothing", {"blocks": 2}])
def test_a_model_that_tells_no_strides_has_those_of_its_patches(told: object) -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    model.feature_info = told
    [layer] = find_layers(model)
    assert (layer.query_stride, layer.key_stride) == (16, 16)
    assert patch_size(model) == 16
    assert layer.grids(224, 240) == ((14, 15), (14, 15))
    assert layer.grids(1, 17) == ((1, 2), (1, 2))


def test_a_layer_that_was_replaced_or_is_gone_is_not_in_the_model() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=2)
    layers = find_layers(model)
    assert all(layer.is_in(model) for layer in layers)
    model.blocks[0].attn = torch.nn.Identity()
    del model.blocks[1]
    assert not any(layer.is_in(model) for layer in layers)


def test_no_attention_is_none_only_where_that_is_allowed() -> None:
    model = torch.nn.Linear(2, 2)
    assert find_layers(model, required=False) == ()
    with pytest.raises(ValueError, match="Linear has no attention layers that are known"):
        find_layers(model)


def test_of_nested_parts_the_nearest_ones_stride_holds():
    """A stage within a stage, as `feature_info` may have it."""
    vit = timm.create_model("vit_tiny_patch16_224", depth=2)
    outer = {"num_chs": 192, "reduction": 16, "module": "blocks"}
    vit.feature_info = [{**outer, "reduction": 32, "module": "blocks.1"}, outer]
    assert [layer.query_stride for layer in find_layers(vit)] == [16, 32]
