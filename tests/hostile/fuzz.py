"""Mutate good files and read them: ``python -m tests.hostile.fuzz --seconds 600 --seed 1``.

Pictures, headers of safetensors, pickles and lists of objects. Whatever comes out of a reader other
than its result must be a `SimaLensError`. Each batch is read in a forked process, so that a crash
names its batch, and the file that did it is kept in the current folder.
"""

import argparse
import functools
import json
import os
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.annotations import LIST_NAME, listing
from tests.hostile.checkpoints import entry, safetensors
from tests.hostile.encoding import apng, encoded, float_tiff, small_png, webp_with_exif
from tests.hostile.measuring import run_forked

#: Files of a batch, and its caps.
BATCH, BATCH_SECONDS, BATCH_BYTES = 40, 60.0, 4 * 2**30
#: Values that break what trusts a number.
_NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"9" * 400, b"null", b'"x"', b"[]", b"1e8", b"Infinity")
_BYTES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"{", b"[", b'"')


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, taken out, put in, repeated, or numbers replaced."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed) + 1)
        size = min(rng.choice((1, 2, 4, 16, 200)), len(changed) - at)
        match rng.randrange(6):
            case 0:
                changed[at : at + size] = rng.randbytes(size)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = rng.choice(_BYTES + _NUMBERS)
            case 3:
                changed[at:at] = changed[at : at + size] * rng.randint(1, 50)
            case 4:
                changed[at : at + size] = rng.choice(_BYTES)[:size] or b"\0"
            case 5:
                digits = [i for i, byte in enumerate(changed[:5000]) if 48 <= byte < 58]
                if digits:
                    at = rng.choice(digits)
                    changed[at : at + 1] = rng.choice(_NUMBERS)
    return bytes(changed)


@dataclass(frozen=True)
class Target:
    """A reader, and good files to begin with."""

    name: str
    seeds: Callable[[], list[bytes]]
    #: Reads the file at a path; raises a `SimaLensError` or nothing.
    read: Callable[[Path], object]


def _pictures() -> list[bytes]:
    formats = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "TGA", "ICO", "PPM")
    others = [encoded("JPEG", progressive=True), encoded("TIFF", compression="tiff_lzw")]
    others += [apng(3), small_png(), float_tiff(16), webp_with_exif(b"Exif\0\0II*\0\x08\0\0\0")]
    return [encoded(format_) for format_ in formats] + others


def _read_picture(path: Path) -> None:
    from sima_core.lens.pictures import load_image

    load_image(path)


def _headers() -> list[bytes]:
    two = {"cls_token": entry([1], 0, 4), "blocks.0.attn.qkv.weight": entry([2, 1], 4, 12)}
    metadata = {"__metadata__": {"architecture": "sima_nano_12_p16", "labels": '["a", "b"]'}}
    return [safetensors({**metadata, **two}, bytes(12)), safetensors(two, bytes(12))]


def _pickles() -> list[bytes]:
    plain = {"model": {"a": [1, 2.5, "x"], "b": {"c": (None, True)}}, "epoch": 3}
    return [pickle.dumps(plain, protocol) for protocol in (2, 3, 4)]


def _read_checkpoint(path: Path) -> None:
    from sima_core.weights.loading import load_model

    load_model(path)


def _lists() -> list[bytes]:
    runs = {"size": [64, 96], "counts": [0, 20, 6124]}
    return [
        json.dumps(listing()).encode(),
        json.dumps(listing(thing={"segmentation": runs, "iscrowd": 1})).encode(),
        json.dumps(
            listing(thing={"segmentation": {"size": [64, 96], "counts": "0d0lo5"}})
        ).encode(),
    ]


def _read_list(path: Path) -> None:
    from sima_core.coco.split import CocoSplit

    split = CocoSplit(path.parent.parent, "val2017")
    for image_id in split.ids[:3]:
        split.picture(image_id)
        split.mask(image_id)
        split.path(image_id)


TARGETS = (
    Target("pictures", _pictures, _read_picture),
    Target("headers", _headers, _read_checkpoint),
    Target("lists", _lists, _read_list),
    Target("pickles", _pickles, _read_checkpoint),
)
#: What each target's file is called: a checkpoint is told by its name, a list by its place.
_NAMES = {"headers": "w.safetensors", "pickles": "w.pth", "lists": LIST_NAME}


def read_batch(target: Target, seed: int, size: int, folder: Path) -> int:
    """Read so many mutations; says which file gave something else than words. For a fork."""
    from sima_core.errors import SimaLensError

    seeds = target.seeds()
    path = folder / _NAMES.get(target.name, "picture")
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(size):
        rng = random.Random(f"{target.name} {seed} {number}")
        path.write_bytes(mutated(rng.choice(seeds), rng))
        try:
            target.read(path)
        except SimaLensError:
            pass
        except BaseException as error:  # whatever it is, a person would see it
            print(f"{type(error).__name__}: {str(error)[:150]}")
            return 3
    return 0


def fuzz_batch(target: Target, seed: int, size: int, keep: Path | None = None) -> str:
    """Read a batch in a forked process; what went wrong, or nothing.

    Args:
        keep: where the file that did it is put.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder = Path(scratch)
        call = functools.partial(read_batch, target, seed, size, folder)
        ended = run_forked(call, folder, BATCH_SECONDS, BATCH_BYTES)
        if ended.status == 0:
            return ""
        culprit = folder / _NAMES.get(target.name, "picture")
        if keep and culprit.exists():
            (keep / f"fuzz-{target.name}-{seed}").write_bytes(culprit.read_bytes())
        how = "ran out of time" if ended.status is None else f"ended with {ended.status}"
        said = (ended.stdout or ended.stderr).strip().splitlines()
        return f"{target.name}, seed {seed}: {how}: {said[-1] if said else 'without a word'}"


def fuzz(seconds: float, seed: int, keep: Path | None = None) -> tuple[int, list[str]]:
    """Batches of all targets in turn for a while; how many files, and what went wrong."""
    import timm  # noqa: F401  # once, so that no fork imports it
    import torch  # noqa: F401

    import sima_core.coco.split
    import sima_core.weights.loading  # noqa: F401

    until, files, wrong = time.monotonic() + seconds, 0, []
    while time.monotonic() < until or not files:
        for target in TARGETS:
            # A pickle may take a process of its own each time, so there are few in a batch.
            size = BATCH // 10 if target.name == "pickles" else BATCH
            if said := fuzz_batch(target, seed, size, keep):
                print(said, flush=True)
                wrong.append(said)
            files += size
            if time.monotonic() > until:
                break
        seed += 1
    return files, wrong


def main() -> int:
    """Fuzz for a while, and tell; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    files, wrong = fuzz(asked.seconds, asked.seed, Path.cwd())
    print(f"{files:,} mutated files read, {len(wrong)} batches with something else than words")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
