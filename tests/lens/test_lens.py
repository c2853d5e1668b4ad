"""The lens: what it knows of any model, and that everybody who asks it is told the same."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from timm.layers import Attention

import sima_core
from sima_core import Lens, analyze, convert_to_sima, load_image
from sima_core.lens.kinds import ATTENTION_KINDS, AttentionKind, kind_of
from sima_core.lens.norms import NormRecorder
from sima_core.lens.pictures import IMAGENET, InputConfig
from sima_core.models.architectures import create_model

pytestmark = pytest.mark.usefixtures("one_thread")


def small(name: str, **options) -> torch.nn.Module:
    """A model that `load_model` did not make, with two blocks, for pictures of any size."""
    torch.manual_seed(0)
    options = {"depth": 2, "dynamic_img_size": True, "num_classes": 7, **options}
    return timm.create_model(name, **options).eval()


# ---- Three bugs of the time before there was a lens --------------------------------------------


def test_maps_of_a_converted_model_are_called_by_what_they_are(photo):
    deit = sima_core.load_model("deit_tiny_patch16_224")
    assert analyze(deit, photo, 64, [12]).symbol("query") == "Q"
    with convert_to_sima(deit):
        seen = analyze(deit, photo, 64, [12])
        assert (seen.symbol("query"), seen.symbol("key")) == ("Q̂", "K̂")
    assert analyze(deit, photo, 64, [12]).symbol("key") == "K"


def test_the_random_twin_of_a_converted_model_is_converted():
    deit = sima_core.load_model("deit_tiny_patch16_224")
    with convert_to_sima(deit):
        twin = Lens(deit).untrained()
    assert {layer.attention for layer in twin.layers} == {"SimA"}
    assert Lens(deit).untrained().layer(12).attention == "softmax"


def test_a_models_own_mean_and_std_are_used(photo):
    vit = small("vit_tiny_patch16_224")  # trained on means and deviations of one half
    pixels = Lens(vit).preprocess(photo, 64)
    values = np.asarray(photo.resize((96, 64), 3), dtype=np.float32) / 255
    expected = torch.from_numpy((values - 0.5) / 0.5).permute(2, 0, 1)[None]
    torch.testing.assert_close(pixels, expected)
    seen = Lens(vit).analyze(photo, 64, [2])
    norms = Lens(vit).norms(expected, 2, per_head=True)
    torch.testing.assert_close(seen.norms[2].query, norms.query)


# ---- What it knows -----------------------------------------------------------------------------


def test_models_that_load_model_did_not_make_are_analysed(photo):
    vit = small("vit_tiny_patch16_224")
    lens = Lens(vit)
    seen = lens.analyze(photo, 64)
    assert lens.provenance is seen.provenance is None
    assert seen.trained is None
    assert seen.weights_in_words == lens.weights_in_words == "weights of unknown origin"
    assert seen.name == "vit_tiny_patch16_224"
    assert [p.label for p in seen.predictions] == [f"class {p.index}" for p in seen.predictions]
    assert seen.label_set == "7 unnamed classes"
    assert seen.grid == (4, 6)


def test_facts_of_the_bundled_model(photo, model):
    lens = Lens.load()
    assert (lens.name, lens.depth, lens.patch_size) == ("sima_nano_12_p16", 12, 16)
    assert lens.input == IMAGENET
    assert lens.has_two_orders
    last = lens.layer(-1)
    assert last is lens.layers[11] is lens.layer(12)
    assert (last.number, last.name, last.attention) == (12, "blocks.11.attn", "SimA")
    assert (last.num_heads, last.head_dim, last.normalizes, last.class_row) == (4, 32, True, None)
    assert last.grids(64, 96) == ((4, 6), (4, 6))
    assert lens.provenance == sima_core.provenance(model)
    assert lens.weights_in_words == "sima_nano_12_p16.safetensors"
    assert lens.input_size(640, 480, 224) == (304, 224)
    assert torch.equal(lens.preprocess(photo, 64), sima_core.preprocess(photo, 64))


def test_facts_of_other_families():
    cvt = Lens(create_model("sima_cvt_13", depth=1).eval())
    assert [layer.class_row for layer in cvt.layers] == [None, None, 0]
    assert cvt.layer(1).grids(80, 112) == ((20, 28), (10, 14))
    assert cvt.patch_size == 16
    deit = Lens(small("deit_tiny_distilled_patch16_224"))
    assert [layer.class_row for layer in deit.layers] == [0, 0]
    assert not deit.has_two_orders
    xcit = Lens(create_model("xcit_nano_12_p8_224", depth=1))
    assert (xcit.layer(1).attention, xcit.layer(1).class_row, xcit.patch_size) == ("XCA", None, 8)
    plain = Lens(create_model("plain_deit_nano_patch16_224", depth=1))
    assert plain.layer(1).symbol("query") == "Q"  # nothing is normalised
    assert plain.has_two_orders
    hybrid = Lens(timm.create_model("vit_tiny_r_s16_p8_224", device="meta"))
    assert hybrid.patch_size == 32  # of the picture; 8 of what its convolutions leave


def test_a_conversion_after_the_lens_was_made_is_noticed():
    model = small("deit_tiny_patch16_224")
    lens = Lens(model)
    pixels = torch.randn(1, 3, 64, 64)
    before = lens.norms(pixels, 2)
    with convert_to_sima(model):
        assert lens.layer(2).symbol("key") == "K̂"
        assert lens.norms(pixels, 2).query.max() < before.query.max()  # ℓ1-normalised
    assert torch.equal(lens.norms(pixels, 2).query, before.query)


def test_the_functions_of_the_package_and_the_lens_agree(model, photo):
    lens, pixels = Lens(model), sima_core.preprocess(photo, 64)
    found, expected = lens.norms(pixels), sima_core.token_norms(model, pixels)
    assert torch.equal(found.query, expected.query)
    assert torch.equal(lens.attention(pixels), sima_core.attention_maps(model, pixels))
    ours, theirs = lens.analyze(photo, 64), analyze(model, photo, 64)
    assert ours.predictions == theirs.predictions
    assert Lens.of(lens) is lens
    assert Lens.of(model).model is model
    assert list(lens.norms(pixels, "all")) == list(range(1, 13))


@pytest.mark.parametrize("build", [lambda: timm.create_model("resnet10t"), lambda: torch.nn.ReLU()])
def test_models_without_attention_are_refused(build):
    with pytest.raises(sima_core.InputError, match="no attention layers that are known"):
        Lens(build())


def test_models_of_one_size_say_so(photo):
    vit = timm.create_model("vit_tiny_patch16_224", depth=1).eval()
    with pytest.raises(sima_core.InputError, match=r"224 × 224 pixels alone.*dynamic_img_size"):
        Lens(vit).analyze(photo, 64)
    assert Lens(vit).analyze(photo.resize((90, 90))).grid == (14, 14)


def test_untrained_twins_of_models_of_unknown_origin():
    model = small("vit_tiny_patch16_224")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, other = Lens(model).untrained(), Lens(model).untrained()
    weights = "blocks.0.attn.qkv.weight"
    drawn = one.model.state_dict()[weights]
    assert not torch.equal(drawn, state[weights])
    assert torch.equal(drawn, other.model.state_dict()[weights])
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def test_the_input_is_the_models_own_interpolation_too():
    model = small("vit_tiny_patch16_224")
    model.pretrained_cfg = {**model.pretrained_cfg, "interpolation": "bilinear"}
    assert InputConfig.of(model).resampling == 2  # Pillow's bilinear
    assert dataclasses.replace(IMAGENET, interpolation="random").resampling == 3  # bicubic


# ---- It looks, and changes nothing ---------------------------------------------------------------


def test_a_model_in_training_is_looked_at_in_eval_mode_and_left_as_it_was(photo):
    model = timm.create_model("sima_nano_12_p16", depth=1).train()
    model.blocks[0].attn.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    lens = Lens(model)
    seen = lens.analyze(photo, 64)
    lens.norms(lens.preprocess(photo, 64), 1)
    lens.attention(lens.preprocess(photo, 64))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert seen.predictions == Lens(model.eval()).analyze(photo, 64).predictions


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_number_type(photo, dtype):
    model = small("vit_tiny_patch16_224")
    expected = Lens(model).analyze(photo, 64).token_norms("key", 2)
    found = Lens(model.to(dtype)).analyze(photo, 64).token_norms("key", 2)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.05 * expected.max()


def test_a_recorder_may_be_entered_by_another_thread_than_made_it(model, photo):
    recorder = NormRecorder(model)
    with ThreadPoolExecutor(1) as pool:

        def record() -> tuple[int, ...]:
            with recorder, torch.no_grad():
                model(sima_core.preprocess(photo, 64))
            return tuple(recorder.norms()[12].query.shape)

        assert pool.submit(record).result() == (1, 4, 6)


def test_layers_that_are_no_longer_the_models_are_found_anew(photo):
    model = small("deit_tiny_patch16_224")
    lens = Lens(model)
    known = lens.layers
    with convert_to_sima(model):
        found = sima_core.token_norms(model, lens.preprocess(photo, 64), 2)
        assert torch.equal(found.query, lens.norms(lens.preprocess(photo, 64), 2).query)
        assert lens.layers != known
    model.blocks = model.blocks[:1]
    assert lens.depth == 1


@pytest.mark.parametrize(
    ("config", "mean"),
    [
        (None, IMAGENET.mean),
        ({}, IMAGENET.mean),
        ({"mean": 0.5}, (0.5, 0.5, 0.5)),
        ({"mean": [0.1, 0.2, 0.3]}, (0.1, 0.2, 0.3)),
        (timm.models.PretrainedCfg(mean=(0.4, 0.4, 0.4)), (0.4, 0.4, 0.4)),
    ],
)
def test_what_a_model_says_of_its_input(config, mean):
    model = small("vit_tiny_patch16_224")
    model.pretrained_cfg = config
    assert Lens(model).input.mean == mean


def test_patches_that_are_not_square_are_refused():
    with pytest.raises(sima_core.InputError, match="patches must be square"):
        Lens(small("vit_tiny_patch16_224", patch_size=(16, 8)))


def test_the_twin_of_a_model_that_timm_knows_begins_as_timm_begins():
    xcit = timm.create_model("xcit_nano_12_p16_224").eval()
    torch.nn.init.constant_(xcit.blocks[0].gamma1, 7.0)  # as if it were learnt
    twin = Lens(xcit).untrained().model
    assert twin.blocks[0].gamma1.unique().tolist() == [1.0]
    deit = timm.create_model("deit_tiny_patch16_224", dynamic_img_size=True).eval()
    with convert_to_sima(deit):
        converted = Lens(deit).untrained()
        assert converted.layer(12).attention == "SimA"
        assert converted.norms(torch.randn(1, 3, 32, 48)).query.shape == (1, 2, 3)


def test_models_of_several_grids_are_refused_rather_than_shown_wrongly(photo):
    model = timm.create_model("crossvit_9_240").eval()
    with pytest.raises(sima_core.InputError, match="several grids"):
        Lens(model).analyze(photo, 240, [2])


def test_a_recorder_that_heard_nothing_says_so(model):
    with NormRecorder(model) as recorder:
        pass
    with pytest.raises(sima_core.InputError, match="nothing was heard of layer 12"):
        recorder.norms()


def test_a_twin_that_would_keep_what_was_learnt_is_refused():
    xcit = timm.create_model("xcit_nano_12_p16_224", depth=1)  # its scales are drawn by nothing
    with pytest.raises(sima_core.InputError, match=r"nothing draws .* anew"):
        Lens(xcit).untrained()


# ---- The table of kinds ------------------------------------------------------------------------


def test_every_kind_is_found_by_its_own_modules():
    modules = {kind.module for kind in ATTENTION_KINDS}
    assert len(modules) == len(ATTENTION_KINDS)
    for position, kind in enumerate(ATTENTION_KINDS):
        for later in ATTENTION_KINDS[position + 1 :]:
            assert not issubclass(later.module, kind.module), "a base would hide its subclass"


def test_a_new_kind_is_one_class_and_one_line(monkeypatch, photo):
    class Doubled(Attention):
        """An attention of somebody else's."""

    class DoubledKind(AttentionKind):
        module = Doubled
        name = "doubled"

    monkeypatch.setattr("sima_core.lens.kinds.ATTENTION_KINDS", (DoubledKind(), *ATTENTION_KINDS))
    model = small("vit_tiny_patch16_224", attn_layer=Doubled)
    lens = Lens(model)
    assert {layer.attention for layer in lens.layers} == {"doubled"}
    assert lens.analyze(photo, 64).token_norms("key", 2).shape == (4, 6)


def test_modules_of_no_kind():
    assert kind_of(torch.nn.Linear(2, 2)) is None


def test_pictures_go_the_way_that_the_readme_tells(photo_file):
    lens = Lens.load("sima_deit_nano_patch16_224")
    norms = lens.norms(lens.preprocess(load_image(photo_file)))
    assert sima_core.heatmap(norms.query[0]).values.shape == (14, 21)
