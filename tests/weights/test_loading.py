"""Loading weights: every form they come in, and every way they can be wrong."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from sima_core.weights.loading import DEFAULT_CHECKPOINT, load_best, load_model
from sima_core.weights.provenance import provenance
from tests.weights.support import error, save


def same_weights(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return torch.equal(
        model.state_dict()["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"]
    )


def test_published_checkpoint(published, tmp_path):
    path = save(published, tmp_path / "a.pth")
    model = load_model(path)
    origin = provenance(model)
    assert not model.training
    assert origin.architecture == "sima_nano_12_p16"
    assert (origin.num_classes, origin.trained, origin.source) == (10, True, "a.pth")
    assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(origin.labels) == 10
    assert same_weights(model, published["model"])
    assert all(p.requires_grad for p in model.parameters())


def test_model_is_preferred_to_model_ema(published, tmp_path):
    published["model_ema"] = {k: v + 1 for k, v in published["model"].items()}
    assert same_weights(load_model(save(published, tmp_path / "a.pth")), published["model"])
    ema = published["model_ema"]
    del published["model"]
    assert same_weights(load_model(save(published, tmp_path / "b.pth")), ema)


def test_ddp_prefix_and_missing_args(published, tmp_path):
    wrapped = {f"module.{k}": v for k, v in published["model"].items()}
    model = load_model(save({"model": wrapped}, tmp_path / "a.pth"))
    assert same_weights(model, published["model"])


def test_old_torch_format_and_half_precision(published, tmp_path):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in published["model"].items()}
    path = tmp_path / "old.pth"
    torch.save(halves, path, _use_new_zipfile_serialization=False)
    assert load_model(path).head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("labels", "beside", "expected"),
    [
        ([{"id": f"n0000000{i}", "name": f"thing {i}"} for i in range(10)], None, "thing 3"),
        ([f"thing {i}" for i in range(10)], [f"other {i}" for i in range(10)], "other 3"),
        ([f"thing {i}" for i in range(10)], ["one of another model"], "thing 3"),
        (["too", "few"], None, "class 3"),
        ("no list", None, "class 3"),
    ],
)
def test_class_names_in_the_weights_own_metadata(published, tmp_path, labels, beside, expected):
    metadata = {"architecture": "sima_nano_12_p16", "labels": json.dumps(labels)}
    save_file(published["model"], tmp_path / "a.safetensors", metadata)
    if beside:
        (tmp_path / "labels.json").write_text(json.dumps(beside))
    origin = provenance(load_model(tmp_path / "a.safetensors"))
    assert origin.labels[3] == expected
    assert bool(origin.class_ids) == (expected == "thing 3" and beside is None)


def test_labels_that_are_no_json_are_ignored(published, tmp_path):
    for labels in ("[1, ", "[" * 50_000, "x" * 2_000_000):
        save_file(published["model"], tmp_path / "a.safetensors", {"labels": labels})
        assert provenance(load_model(tmp_path / "a.safetensors")).labels[3] == "class 3"


def test_bundled_checkpoint_is_the_default():
    model = load_model()
    assert provenance(model).sha256 == hashlib.sha256(DEFAULT_CHECKPOINT.read_bytes()).hexdigest()
    assert len(provenance(model).labels) == provenance(model).num_classes
    assert "ImageNet" in provenance(model).label_set


def test_architecture_name_gives_untrained_weights_that_say_so():
    origin = provenance(load_model("sima_nano_12_p16"))
    assert not origin.trained
    assert origin.sha256 is None
    assert origin.labels[1] == "goldfish"


def test_safetensors_metadata_names_the_architecture(published, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(published["model"], path, {"architecture": "sima_nano_12_p16"})
    assert provenance(load_model(path)).architecture == "sima_nano_12_p16"


def test_missing_file_and_folder(tmp_path):
    assert "no file gone.pth" in error(tmp_path / "gone.pth")
    assert "no file gone.pth" in error("gone.pth")
    assert "folder" in error(tmp_path)


def test_the_bundled_twins_are_the_best_of_their_architectures():
    softmax, sima = map(load_best, ("deit_nano_patch16_224", "sima_deit_nano_patch16_224"))
    for model in (softmax, sima):
        assert provenance(model).trained
        assert provenance(model).num_classes == 10
    assert provenance(softmax).labels == provenance(sima).labels
    assert not provenance(load_best("sima_deit_nano_patch16_224_1h")).trained
