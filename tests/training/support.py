"""What tests of training share."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from sima_core.training.recipe import Phase, Settings

SMALL = Settings(
    "sima_nano_12_p16", epochs=1.5, batch_size=8, phases=(Phase(0.5, (32,)), Phase(1.0, (32, 64)))
)


def picture(seed: int, tint: int = 0) -> Image.Image:
    """40 × 32 pixels of coarse noise, no two alike."""
    noise = np.random.default_rng(seed).integers(0, 200, (4, 5, 3))
    noise[..., tint] += 55
    return Image.fromarray(noise.astype(np.uint8)).resize((40, 32), Image.Resampling.BICUBIC)


def tar_of(file: Path, pictures: dict[str, Image.Image]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, image in pictures.items():
            buffer = io.BytesIO()
            image.save(buffer, "webp", quality=90)
            member = tarfile.TarInfo(name)
            member.size = buffer.tell()
            archive.addfile(member, io.BytesIO(buffer.getvalue()))
    return file
