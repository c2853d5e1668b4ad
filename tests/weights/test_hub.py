"""The Hub: a local server that answers as the real one does."""

import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from sima_core.weights.loading import load_best, load_file, load_from_hub, load_model
from sima_core.weights.provenance import provenance
from sima_core.weights.sentences import CheckpointError
from tests.weights.support import error, saved_bytes


class FakeHub(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes]
    authorization: list[str | None]
    repo = "owner/nano"
    #: Sizes that the list of files gives, where they are not the true ones.
    said: dict[str, int]
    #: Bytes sent at once, and the seconds between.
    step, pause = 2**30, 0.0

    @property
    def resolved(self) -> str:
        return f"/{self.repo}/resolve/main/"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.authorization.append(self.headers.get("authorization"))
        path = self.path.split("?")[0]
        if path == f"/api/models/{self.repo}":
            sizes = {name: len(content) for name, content in self.files.items()} | self.said
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            info = {"id": self.repo, "modelId": self.repo, "sha": "0" * 40}
            content = json.dumps(
                {**info, "siblings": siblings, "tags": [], "private": False}
            ).encode()
        elif path.startswith(self.resolved) and path.removeprefix(self.resolved) in self.files:
            content = self.files[path.removeprefix(self.resolved)]
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
        with suppress(ConnectionError):
            for i in range(0, len(content) if body else 0, self.step):
                self.wfile.write(content[i : i + self.step])
                time.sleep(self.pause if self.step < len(content) else 0)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[FakeHub]]:
    from huggingface_hub import constants

    handler = type("Handler", (FakeHub,), {"files": {}, "authorization": [], "said": {}})
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


NO_IDS = [
    *("", "/", "a/b/c", "../owner", "owner/../nano", "owner/nano?x=1", "owner/nano#x", "a" * 201),
    *("owner/" + "x" * 10**6, "owner/na\0no", "owner/\x1b[2J", "owner/nano\n", "owner/na no"),
    *("http://example.org/a", "owner/ñ", "/etc/passwd", "owner/.hidden"),
]


@pytest.mark.parametrize("repo_id", NO_IDS, ids=range(len(NO_IDS)))
def test_ids_that_name_no_repository_are_not_asked_for(repo_id, hub):
    assert "no public model" in error(f"hf-hub:{repo_id}")
    assert not hub.authorization, "a request was made"


def test_an_id_that_only_the_hubs_client_finds_wrong_names_no_repository(hub):
    assert "no public model" in error("hf-hub:owner/" + "x--" * 40)
    assert not hub.authorization, "a request was made"


def test_files_elsewhere_are_not_written(hub, published, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    hub.files = {"../../../up.pth": saved_bytes(published["model"])}
    error("hf-hub:owner/nano")
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_more_bytes_than_the_list_says_are_not_taken(hub):
    hub.files, hub.said = {"model.safetensors": b"\0" * 10**6}, {"model.safetensors": 10**4}
    assert "larger than its list says" in error("hf-hub:owner/nano")


def test_a_download_has_a_limit_of_time(hub, monkeypatch):
    monkeypatch.setattr("sima_core.weights.hub.FETCH_SECONDS", 0.5)
    hub.files, hub.step, hub.pause = {"model.safetensors": b"\0" * 500}, 1, 0.02
    started = time.monotonic()
    assert "to download" in error("hf-hub:owner/nano")
    assert time.monotonic() - started < 8  # all of it takes ten seconds


def test_a_file_is_no_repository_and_a_repository_no_file(hub, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("owner").mkdir()
    torch.save(published, "owner/local.pth")
    with pytest.raises(CheckpointError, match="no public model"):
        load_from_hub("owner/local.pth")
    with pytest.raises(CheckpointError, match="no file"):
        load_file(Path("hf-hub:owner/nano"))
    with pytest.raises(CheckpointError, match="no file"):
        load_file(Path("sima_nano_12_p16"))
    assert provenance(load_file(Path("owner/local.pth"))).trained


def test_hub_out_of_reach(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in error("hf-hub:owner/nano")
