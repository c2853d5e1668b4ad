"""Read any picture safely and make of it what the models take. One loader for page, API and CLI."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from sima_core.defaults import RESOLUTION
from sima_core.errors import InputError, SimaLensError, UnreadableError
from sima_core.files import open_regular
from sima_core.lens import decoding
from sima_core.sandbox.sandbox import (
    BrokenError,
    Limits,
    Sandbox,
    TooLargeError,
    TooSlowError,
    in_memory,
)

#: Pixels of the largest picture that is decoded; more is a mistake or a decompression bomb.
MAX_IMAGE_PIXELS = 64_000_000
#: Pixels of the largest network input, about 4096 × 4096.
MAX_INPUT_PIXELS = 2**24

#: Bytes of the largest file of a picture: 64 million pixels in four channels of 16 bits.
MAX_FILE_BYTES = 2**29
#: What decoding one picture may take. With the process itself that is less than 1 GiB.
LIMITS = Limits(seconds=8, memory_bytes=900 * 2**20, output_bytes=4 * MAX_IMAGE_PIXELS)

_SANDBOX = Sandbox(decoding.__name__)
_TASK = f"{decoding.__name__}:{decoding.decode.__name__}"
_SAVE_AGAIN = "save it again as a plain JPEG or PNG."
_SENTENCES = {
    "empty": "The file is empty.",
    "heic": "HEIC pictures cannot be read: save it as JPEG or PNG.",
    "unknown": (
        "This is not a picture in a format that is read (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF)."
    ),
    "cut short": "The picture's file ends too early: copy it again.",
    "broken": "The picture is broken and cannot be decoded.",
}


class ImageError(SimaLensError, ValueError):
    """A picture cannot be read or used; the message says why in one sentence."""


def warm() -> None:
    """Start the process that decodes pictures, so that it is ready when the first one comes."""
    _SANDBOX.warm()


def load_image(
    source: str | Path | bytes | BinaryIO, upright: bool = True, small_here: bool = False
) -> Image.Image:
    """The picture upright and as 8-bit RGB, whatever its kind.

    Alpha is laid over white, 16-bit and floating-point values are scaled (not clipped), the first
    frame of an animation is taken, metadata that cannot be read is ignored. It is decoded in a
    process of its own, within `LIMITS`.

    Args:
        upright: turn it as its EXIF orientation says; False leaves the pixels where they are.
        small_here: decode bytes that are plainly a small picture in this process, which saves some
            milliseconds a picture where there are thousands.

    Raises:
        ImageError: no picture, a broken one, one of more than `MAX_IMAGE_PIXELS`, or one that
            takes more time or memory than `LIMITS`.
    """
    if small_here and isinstance(source, bytes):
        small = decoding.decode_small(source, upright)
        if small:
            return small
    try:
        with _opened(source) as file:
            found = _SANDBOX.run(_TASK, file, LIMITS, max_pixels=MAX_IMAGE_PIXELS, upright=upright)
    except UnreadableError as error:
        raise ImageError(str(error)) from None
    except TooSlowError:
        raise ImageError(f"The picture takes too long to decode: {_SAVE_AGAIN}") from None
    except TooLargeError:
        raise ImageError(
            f"The picture takes too much memory to decode: make it smaller, or {_SAVE_AGAIN}"
        ) from None
    except BrokenError:
        raise ImageError(_SENTENCES["broken"]) from None
    kind = found.answer.get("error")
    if kind == "size":
        (width, height), allowed = found.answer["size"], found.answer["allowed"]
        raise ImageError(
            f"The picture has {width} × {height} pixels; "
            f"at most {allowed // 1_000_000} million are read. Make it smaller first."
        )
    if kind:
        raise ImageError(_SENTENCES[kind])
    return decoding.mapped(found.data, tuple(found.answer["size"]))


def _opened(source: str | Path | bytes | BinaryIO) -> BinaryIO:
    """The picture's file, or one in memory that holds what is there.

    Raises:
        UnreadableError: as `open_regular`, or the file is too large.
    """
    if isinstance(source, str | Path):
        file = open_regular(source)
        num_bytes = os.fstat(file.fileno()).st_size
    else:
        if not isinstance(source, bytes):
            source.seek(0)
            source = source.read(MAX_FILE_BYTES + 1)
        num_bytes = len(source)
        file = in_memory(source[: MAX_FILE_BYTES + 1])
    if num_bytes > MAX_FILE_BYTES:
        file.close()
        raise UnreadableError(
            f"The file has more than {MAX_FILE_BYTES >> 20} MB, too many for a picture."
        )
    return file


def input_size(width: int, height: int, resolution: int, patch_size: int) -> tuple[int, int]:
    """The network input (width, height) in pixels for a picture of `width` × `height`.

    The shorter side becomes `resolution`, nothing is cropped, and both sides are the nearest
    multiples of the patch (at least one patch).

    Raises:
        ImageError: the input would have more than `MAX_INPUT_PIXELS`.
        InputError: `resolution` is smaller than one patch.
    """
    if resolution < patch_size:
        raise InputError(
            f"resolution must be at least one patch ({patch_size} px); got {resolution}"
        )
    scale = resolution / min(width, height)
    sizes = (patch_size * max(1, math.floor(s * scale / patch_size + 0.5)) for s in (width, height))
    columns, rows = sizes
    if columns * rows > MAX_INPUT_PIXELS:
        raise ImageError(
            f"At a resolution of {resolution} the picture would become {columns} × {rows} pixels, "
            "more than fits. Choose a lower resolution or a less elongated picture."
        )
    return columns, rows


_IMAGENET = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


@dataclass(frozen=True)
class InputConfig:
    """How a model was trained to see pictures."""

    #: Of the three channels, on values from 0 to 1.
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    #: A name of Pillow's, such as "bicubic".
    interpolation: str = "bicubic"

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """As the model's own `pretrained_cfg` says; as on ImageNet where it says nothing."""
        config: Any = getattr(model, "pretrained_cfg", None) or {}
        if not isinstance(config, Mapping):
            config = config.to_dict()  # timm's own class
        mean, std = (config.get(key) or default for key, default in _IMAGENET.items())
        return cls(_three(mean), _three(std), str(config.get("interpolation") or "bicubic"))

    @property
    def resampling(self) -> Image.Resampling:
        """Pillow's filter; bicubic where timm would draw one at random."""
        return getattr(Image.Resampling, self.interpolation.upper(), Image.Resampling.BICUBIC)


def _three(values: float | Sequence[float]) -> tuple[float, ...]:
    """A number for each channel, where one may stand for all."""
    return tuple(values) if isinstance(values, Sequence) else (values,) * 3


#: Pictures as most models see them.
IMAGENET = InputConfig()


def preprocess(
    image: Image.Image,
    resolution: int = RESOLUTION,
    patch_size: int = 16,
    config: InputConfig = IMAGENET,
) -> Tensor:
    """The whole picture as a network input: float32 (1, 3, height, width), normalised.

    Resized to `input_size`; the sides' ratio changes by less than half a patch.

    Raises:
        ImageError, InputError: as `input_size` does.
    """
    size = input_size(*image.size, resolution, patch_size)
    image = image if image.mode == "RGB" else image.convert("RGB")
    pixels = torch.from_numpy(np.array(image.resize(size, config.resampling)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return ((pixels.permute(2, 0, 1) / 255.0 - mean) / std).unsqueeze(0)
