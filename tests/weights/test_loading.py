"""Loading weights: every form they come in, and every way they can be wrong."""

import argparse
import hashlib
import http.server
import io
import json
import os
import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save as safetensors_bytes
from safetensors.torch import save_file

from sima_core.weights.formats import CheckpointError
from sima_core.weights.loading import DEFAULT_CHECKPOINT, load_best, load_model
from sima_core.weights.provenance import provenance
from tests.golden import weights
from tests.support import GOLDEN

SPEC = json.loads((GOLDEN / "sima_nano_12_p16.keys.json").read_text())


@pytest.fixture
def published() -> dict:
    return weights.checkpoint(SPEC)


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


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


@pytest.mark.parametrize("name", ["sima_tiny_12_p8", "sima_tiny_24_p16"])
def test_bare_state_dict_is_recognised_by_its_shapes(name, tmp_path):
    model = timm.create_model(name, num_classes=7)
    loaded = load_model(save(model.state_dict(), tmp_path / "bare.pth"))
    assert (provenance(loaded).architecture, provenance(loaded).num_classes) == (name, 7)


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
    for labels in ("[1, ", "[" * 100_000, "x" * 50_000_000):
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


class Bomb:
    def __reduce__(self):
        return os.system, ("touch bomb-went-off",)


def truncated(path: Path, keep: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def error(source: object, architecture: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(source, architecture)
    message = str(caught.value)
    assert str(Path.cwd()) not in message
    assert "/tmp" not in message
    assert "\n" not in message
    return message


def test_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "code" in error(save({"model": Bomb()}, tmp_path / "new.pth"))
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    assert "code" in error(tmp_path / "old.pth")
    assert not (tmp_path / "bomb-went-off").exists()


def test_other_classes_than_namespace_are_refused(tmp_path):
    class_in_args = {"model": {}, "args": argparse.Namespace(when=Path("x"))}
    assert "code" in error(save(class_in_args, tmp_path / "a.pth"))


def test_files_that_are_no_checkpoint(tmp_path, photo_file):
    text = tmp_path / "notes.pth"
    text.write_text("not weights")
    assert "not a checkpoint" in error(text)
    assert "not a checkpoint" in error(photo_file)
    assert "no weights" in error(save([1, 2], tmp_path / "list.pth"))
    assert "no weights" in error(save({"epoch": 3}, tmp_path / "epoch.pth"))
    assert "no weights" in error(save({}, tmp_path / "empty-dict.pth"))


def test_empty_and_truncated_files(published, tmp_path):
    empty = tmp_path / "empty.pth"
    empty.touch()
    assert "empty" in error(empty)
    assert "truncated" in error(truncated(save(published, tmp_path / "zip.pth")))
    old = tmp_path / "old.pth"
    torch.save(published["model"], old, _use_new_zipfile_serialization=False)
    assert "truncated" in error(truncated(old))
    tensors = tmp_path / "a.safetensors"
    save_file(published["model"], tensors)
    assert "truncated" in error(truncated(tensors))
    assert "truncated" in error(truncated(tensors, 0.01))


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    import zipfile

    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    assert "not a checkpoint" in error(path)


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


def test_missing_file_and_folder(tmp_path):
    assert "no file gone.pth" in error(tmp_path / "gone.pth")
    assert "no file gone.pth" in error("gone.pth")
    assert "folder" in error(tmp_path)


def test_a_head_of_absurd_size_is_refused(published, tmp_path):
    published["model"]["head.weight"] = torch.zeros(1, 1).expand(2**31, 128)
    published["model"]["head.bias"] = torch.zeros(1).expand(2**31)
    assert "no weights" in error(save(published, tmp_path / "a.pth"))


def hostile_pickles() -> dict[str, bytes]:
    """Keys that take for ever, or the whole stack, to hash."""
    key = {"deep": b")" + b"\x85" * 1_000_000, "doubled": b")" + b"q\x01h\x01\x86" * 60}
    return {kind: b"\x80\x02}" + tuples + b"K\x01s." for kind, tuples in key.items()}


@pytest.mark.parametrize("kind", ["deep", "doubled"])
def test_hostile_pickles_harm_only_a_child_process(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("sima_core.weights.formats.UNPICKLE_SECONDS", 15)
    path = tmp_path / "hostile.pth"
    path.write_bytes(hostile_pickles()[kind])
    assert "not a checkpoint" in error(path)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda t: t.to(torch.complex64)])
def test_tensors_that_are_no_weights(published, tmp_path, change):
    published["model"]["head.weight"] = change(published["model"]["head.weight"])
    assert re.search("no weights|only real weights", error(save(published, tmp_path / "a.pth")))


def test_integer_weights_are_refused(published, tmp_path):
    published["model"]["head.weight"] = published["model"]["head.weight"].char()
    assert "quantised" in error(save(published, tmp_path / "a.pth"))


def test_names_from_a_file_are_shown_plainly(published, tmp_path):
    published["args"].model = "<img src=//example.org>" + "x" * 500
    message = error(save(published, tmp_path / "a.pth"))
    assert "<" not in message
    assert len(message) < 400


def test_absurd_names():
    assert "cannot be read" in error("x" * 3000)


# ---- The Hub: a local server that answers as the real one does -------------------------------


class FakeHub(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes]
    authorization: list[str | None]
    repo = "owner/nano"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.authorization.append(self.headers.get("authorization"))
        path = self.path.split("?")[0]
        if path == f"/api/models/{self.repo}":
            siblings = [{"rfilename": n, "size": len(c)} for n, c in self.files.items()]
            info = {"id": self.repo, "modelId": self.repo, "sha": "0" * 40}
            content = json.dumps(
                {**info, "siblings": siblings, "tags": [], "private": False}
            ).encode()
        elif path.startswith(f"/{self.repo}/resolve/") and path.split("/")[-1] in self.files:
            content = self.files[path.split("/")[-1]]
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[FakeHub]]:
    from huggingface_hub import constants

    handler = type("Handler", (FakeHub,), {"files": {}, "authorization": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield handler
    server.shutdown()
    server.server_close()


def saved_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_hub_checkpoint_with_its_label_names(hub, published):
    names = [f"thing {i}" for i in range(10)]
    hub.files = {
        "config.json": json.dumps(
            {"architecture": "sima_nano_12_p16", "label_names": names}
        ).encode(),
        "pytorch_model.bin": saved_bytes(published["model"]),
        "README.md": b"# card",
    }
    origin = provenance(load_model("hf-hub:owner/nano"))
    assert origin.source == "hf-hub:owner/nano"
    assert origin.labels == tuple(names)
    assert hub.authorization
    assert not any(hub.authorization)  # no token was sent


def test_the_best_weights_of_timms_models_come_from_the_hub(hub):
    published = load_model("deit_tiny_patch16_224").state_dict()
    published["head.bias"] = torch.arange(1000.0)
    hub.repo = "timm/deit_tiny_patch16_224.fb_in1k"
    hub.files = {
        "config.json": b'{"architecture": "deit_tiny_patch16_224", "num_classes": 1000}',
        "model.safetensors": safetensors_bytes(published),
    }
    model = load_best("deit_tiny_patch16_224")
    assert provenance(model).trained
    assert provenance(model).source == f"hf-hub:{hub.repo}"
    assert torch.equal(model.head.bias, torch.arange(1000.0))
    assert not provenance(load_best("xcit_nano_12_p16_224")).trained  # not on this Hub
    assert provenance(load_best("sima_nano_12_p16")).trained  # the bundled ones


def test_hub_errors(hub, monkeypatch):
    assert "no public model" in error("hf-hub:owner/absent")
    assert "no public model" in error("hf-hub:not an id")
    hub.files = {"README.md": b"# card"}
    assert "no weights" in error("hf-hub:owner/nano")
    monkeypatch.setattr("sima_core.weights.hub.MAX_HUB_BYTES", 2**20)
    hub.files = {"model.safetensors": b"\0" * (2**20 + 1)}
    assert "at most 1 MiB" in error("hf-hub:owner/nano")


def test_hub_out_of_reach(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in error("hf-hub:owner/nano")


def test_the_bundled_twins_are_the_best_of_their_architectures():
    softmax, sima = map(load_best, ("deit_nano_patch16_224", "sima_deit_nano_patch16_224"))
    for model in (softmax, sima):
        assert provenance(model).trained
        assert provenance(model).num_classes == 10
    assert provenance(softmax).labels == provenance(sima).labels
    assert not provenance(load_best("sima_deit_nano_patch16_224_1h")).trained
