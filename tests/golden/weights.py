"""Deterministic weights in the published SimA checkpoint format, for reference tests.

The numbers come from numpy's legacy RandomState, whose stream is frozen, so every
machine builds the same checkpoint from `<name>.keys.json` (parameter names and shapes).

    python weights.py sima_nano_12_p16.keys.json OUT.pth
"""

import argparse
import json
import sys
import zlib

import numpy as np
import torch


def tensor(name: str, shape: list[int], seed: int) -> torch.Tensor:
    """The reference value of one parameter or buffer, float32."""
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1000)
    if name.endswith("running_var"):
        value = rng.uniform(0.5, 2.0, shape)
    elif name.endswith("running_mean"):
        value = rng.normal(0, 0.1, shape)
    elif "gamma" in name:
        value = rng.uniform(0.2, 0.8, shape)
    elif name.endswith("bias"):
        value = rng.normal(0, 0.05, shape)
    elif name.endswith("cls_token"):
        value = rng.normal(0, 0.5, shape)
    elif len(shape) == 1:
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def state_dict(spec: dict) -> dict[str, torch.Tensor]:
    return {name: tensor(name, shape, spec["seed"]) for name, shape in spec["keys"].items()}


def checkpoint(spec: dict) -> dict:
    """The dict that the published training script saves with torch.save."""
    args = argparse.Namespace(
        model=spec["model"],
        nb_classes=spec["num_classes"],
        input_size=224,
        epochs=400,
        drop_path=0.05,
    )
    return {
        "model": state_dict(spec),
        "optimizer": {"state": {}, "param_groups": []},
        "lr_scheduler": {},
        "epoch": 399,
        "args": args,
    }


if __name__ == "__main__":
    torch.save(checkpoint(json.load(open(sys.argv[1]))), sys.argv[2])
