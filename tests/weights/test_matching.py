"""Which architecture parameters belong to."""

import argparse

import pytest
import timm
import torch

from sima_core.weights.loading import DEFAULT_CHECKPOINT, load_model
from sima_core.weights.provenance import provenance
from tests.weights.support import error, save


@pytest.mark.parametrize("name", ["sima_tiny_12_p8", "sima_tiny_24_p16"])
def test_bare_state_dict_is_recognised_by_its_shapes(name, tmp_path):
    model = timm.create_model(name, num_classes=7)
    loaded = load_model(save(model.state_dict(), tmp_path / "bare.pth"))
    assert (provenance(loaded).architecture, provenance(loaded).num_classes) == (name, 7)


def test_other_families(tmp_path):
    resnet = timm.create_model("resnet10t", num_classes=3).state_dict()
    assert "another kind of model" in error(save(resnet, tmp_path / "resnet.pth"))
    named = {"model": resnet, "args": argparse.Namespace(model="resnet10t")}
    message = error(save(named, tmp_path / "named.pth"))
    assert "resnet10t" in message
    assert "not an architecture of SimA Lens" in message


def test_missing_and_unexpected_parameters_are_named(published, tmp_path):
    del published["model"]["blocks.3.attn.qkv.weight"]
    published["model"]["blocks.0.attn.temperature"] = torch.ones(4)
    message = error(save(published, tmp_path / "a.pth"))
    assert "missing blocks.3.attn.qkv.weight" in message
    assert "unexpected blocks.0.attn.temperature" in message


def test_many_missing_parameters_are_counted(published, tmp_path):
    state = {k: v for k, v in published["model"].items() if ".gamma" not in k}
    assert "and 37 more" in error(save({"model": state}, tmp_path / "a.pth"))  # 12·3 + 2·2 − 3


def test_name_that_contradicts_the_shapes(published, tmp_path):
    path = save(published, tmp_path / "a.pth")
    assert "those of sima_nano_12_p16" in error(path, "sima_tiny_12_p16")
    published["args"].model = "sima_nano_12_p8"
    assert "sima_nano_12_p16" in error(save(published, tmp_path / "b.pth"))


def test_unknown_names_suggest_the_nearest(published, tmp_path):
    assert "sima_small_12_p16" in error("sima_smal_12_p16")
    assert "sima_nano_12_p16" in error(DEFAULT_CHECKPOINT, "sima_nano_12p16")
    published["args"].model = "sima_nan_12_p16"
    assert "sima_nano_12_p16" in error(save(published, tmp_path / "a.pth"))


def test_a_head_of_absurd_size_is_refused(published, tmp_path):
    published["model"]["head.weight"] = torch.zeros(1, 1).expand(2**31, 128)
    published["model"]["head.bias"] = torch.zeros(1).expand(2**31)
    assert "no weights" in error(save(published, tmp_path / "a.pth"))


def test_names_from_a_file_are_shown_plainly(published, tmp_path):
    published["args"].model = "<img src=//example.org>" + "x" * 500
    message = error(save(published, tmp_path / "a.pth"))
    assert "<" not in message
    assert len(message) < 400


def test_absurd_names():
    assert "no architecture" in error("x" * 3000)
    assert "no file" in error("x\0y.pth")
