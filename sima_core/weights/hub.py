"""Fetch weights from the Hugging Face Hub."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from sima_core.files import is_full
from sima_core.weights.provenance import Labels, labels_from, read_json, read_labels
from sima_core.weights.sentences import CheckpointError
from sima_core.weights.short_json import MAX_JSON_BYTES
from sima_core.weights.tensors import MAX_WEIGHTS_BYTES
from sima_core.words import SHOWN, shown

#: Before the id of a repository, where a source is named.
HUB_PREFIX = "hf-hub:"
#: The largest file taken from the Hub, in bytes.
MAX_HUB_BYTES = MAX_WEIGHTS_BYTES
#: Seconds for all files of one repository, and of silence.
FETCH_SECONDS, SILENCE_SECONDS = 300.0, 20.0
#: Of files with weights, the ones to take first before the others.
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")

_REPO_ID = re.compile(r"(?=.{1,200}\Z)[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Fetched:
    """A repository's weights file, and what the repository says of it."""

    weights: Path
    #: ``hf-hub:owner/name``, made fit for a sentence.
    shown_as: str
    architecture: str | None
    labels: Labels | None


def fetch(repo_id: str, folder: Path) -> Fetched:
    """Download a public repository's weights, and the class names that lie beside them.

    Raises:
        CheckpointError: there is no such repository, it has no weights, no network, or too slow a
            one.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise CheckpointError(_no_such_model(repo_id))
    shown_as = HUB_PREFIX + shown(repo_id, SHOWN)
    try:
        return _fetch(repo_id, folder, shown_as)
    except CheckpointError:
        raise
    except (RepositoryNotFoundError, HFValidationError):
        message = _no_such_model(repo_id)
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # how the Hub client words "no network"
            message = _unreachable(shown_as)
        else:
            message = f"{shown_as} no longer has the file that its list names: try again."
    except OfflineModeIsEnabled:
        message = _unreachable(shown_as)
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        message = f"The Hugging Face Hub answered with status {status} for {shown_as}: try later."
    except OSError as error:
        if is_full(error):
            message = f"There is no space left on the disk to download {shown_as}."
        else:
            message = _unreachable(shown_as)
    except (httpx2.HTTPError, ValueError):  # what huggingface_hub lets through: no way, no JSON
        message = _unreachable(shown_as)
    raise CheckpointError(message)


def _fetch(repo_id: str, folder: Path, shown_as: str) -> Fetched:
    end = time.monotonic() + FETCH_SECONDS
    # No token is sent: a stranger's id must not read what this machine's owner may read.
    info = HfApi(token=False).model_info(repo_id, files_metadata=True, timeout=SILENCE_SECONDS)
    sizes = {s.rfilename: s.size for s in info.siblings or ()}
    weights = _hub_weights(sizes, shown_as)

    def get(filename: str) -> Path:
        target = folder / f"fetched{Path(filename).suffix}"  # a stranger names no path here
        _download(hf_hub_url(repo_id, filename), target, sizes[filename] or 0, end, shown_as)
        return target

    small = {name for name, size in sizes.items() if size and size <= MAX_JSON_BYTES}
    config = read_json(get("config.json")) if "config.json" in small else {}
    config = config if isinstance(config, dict) else {}
    labels = labels_from(config.get("label_names"))
    if labels is None and "labels.json" in small:
        labels = read_labels(get("labels.json"))
    named = config.get("architecture")
    return Fetched(get(weights), shown_as, named if isinstance(named, str) else None, labels)


def _download(url: str, target: Path, size: int, end: float, shown_as: str) -> None:
    """Fetch one file of so many bytes, before the clock's `end`."""
    headers = {"Accept-Encoding": "identity"}  # so many bytes, and no more; and no token
    with (
        get_session().stream("GET", url, headers=headers, timeout=SILENCE_SECONDS) as response,
        target.open("wb") as file,
    ):
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            file.write(chunk)
            if file.tell() > size:
                raise CheckpointError(f"A file of {shown_as} is larger than its list says.")
            if time.monotonic() > end:
                raise CheckpointError(
                    f"{shown_as} takes more than {FETCH_SECONDS:.0f} s to download: use a file."
                )


def _no_such_model(repo_id: str) -> str:
    name = shown(repo_id, SHOWN)
    return f"There is no public model {name!r} on the Hugging Face Hub: check owner/name."


def _unreachable(shown_as: str) -> str:
    return (
        f"The Hugging Face Hub cannot be reached for {shown_as}: check the network, or use a file."
    )


def _hub_weights(sizes: Mapping[str, int | None], shown_as: str) -> str:
    """The weights file to take of a repository's files and their sizes in bytes."""
    candidates = [f for f in _HUB_FILES if f in sizes] or sorted(
        (f for f in sizes if f.endswith(WEIGHT_SUFFIXES)),
        key=lambda f: (WEIGHT_SUFFIXES.index(Path(f).suffix), f),
    )
    if not candidates:
        raise CheckpointError(f"{shown_as} holds no weights: expected a .safetensors or .pth file.")
    size = sizes[candidates[0]]
    if size is None or size > MAX_HUB_BYTES:
        said = "an unknown size" if size is None else f"{size / 2**20:.0f} MiB"
        raise CheckpointError(
            f"{shown(candidates[0], SHOWN)} of {shown_as} has {said}; "
            f"at most {MAX_HUB_BYTES >> 20} MiB are taken."
        )
    return candidates[0]
