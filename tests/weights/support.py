"""What the tests of weights share."""

import io
from pathlib import Path

import pytest
import torch

from sima_core.weights.loading import load_model
from sima_core.weights.sentences import CheckpointError


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def truncated(path: Path, keep: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def error(source: object, architecture: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(source, architecture)
    message = str(caught.value)
    assert str(Path.cwd()) not in message
    assert "/tmp" not in message
    assert message.isprintable()
    assert len(message) <= 200
    return message


def saved_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
