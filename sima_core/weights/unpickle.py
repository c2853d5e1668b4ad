"""Turn a pickled checkpoint into safetensors, as a program of its own.

``torch.load(weights_only=True)`` runs no code from a file, but hostile bytes can still crash the
interpreter, exhaust its memory or keep it busy for ever. So `sima_core.weights.formats` runs this
file in a child process with limits, and reads only the safetensors and the JSON that it leaves:

    python unpickle.py CHECKPOINT OUT.safetensors OUT.json MAX_BYTES MEMORY_BYTES

The JSON holds ``architecture`` (from a training script's arguments, or null) or ``error``, one of
"code: NAME", "truncated", "torchscript", "no weights" and "not a checkpoint". This file imports
nothing of sima_core, so that it starts quickly.
"""

import argparse
import json
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

try:
    import resource
except ImportError:  # not on Windows; the time limit stands alone there
    resource = None  # type: ignore[assignment]


def read(path: Path) -> tuple[dict[str, Tensor], str | None] | str:
    """Parameters by name and the architecture's name, or the reason why there are none."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"code: {code[1]}" if code else "not a checkpoint"
    except (EOFError, OSError):
        return "truncated"
    except RuntimeError as error:
        if "TorchScript" in str(error):
            return "torchscript"
        cut_off = any(word in str(error) for word in ("PytorchStreamReader", "unexpected"))
        return "truncated" if cut_off else "not a checkpoint"
    except Exception:  # damaged bytes can fail anywhere inside the unpickler
        return "not a checkpoint"
    return weights_in(loaded)


def weights_in(loaded: object) -> tuple[dict[str, Tensor], str | None] | str:
    """The weights in what torch.save wrote: a training script's dict, or the weights alone."""
    if not isinstance(loaded, Mapping):
        return "no weights"
    args = loaded.get("args")
    architecture = getattr(args, "model", None) if isinstance(args, argparse.Namespace) else None
    weights: object = loaded
    for key in ("model", "model_ema", "state_dict"):
        if isinstance(loaded.get(key), Mapping):
            weights = loaded[key]
            break
    state_dict = dict(cast(Mapping[Any, Any], weights))
    if not state_dict or not all(
        isinstance(name, str) and isinstance(t, Tensor) and t.layout == torch.strided
        for name, t in state_dict.items()
    ):
        return "no weights"
    return state_dict, architecture if isinstance(architecture, str) else None


def main(
    source: str, tensors_file: str, answer_file: str, max_bytes: str, memory_bytes: str
) -> None:
    """Convert `source`; see the module's documentation."""
    if resource:
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    found = read(Path(source))
    if not isinstance(found, str):
        state_dict, architecture = found
        if sum(t.numel() * t.element_size() for t in state_dict.values()) > int(max_bytes):
            found = "no weights"  # a tensor can claim any size by repeating one number
        else:
            # safetensors stores each tensor on its own, so shared memory is taken apart.
            save_file(
                {k: t.detach().clone().contiguous() for k, t in state_dict.items()}, tensors_file
            )
            answer = {"architecture": architecture}
    if isinstance(found, str):
        answer = {"error": found}
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
