"""Read any picture safely and make of it what the models take. One loader for page, API and CLI."""

import io
import math
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from sima_core.defaults import RESOLUTION
from sima_core.errors import InputError, SimaLensError

#: Pixels of the largest picture that is decoded; more is a mistake or a decompression bomb.
MAX_IMAGE_PIXELS = 64_000_000
#: Pixels of the largest network input, about 4096 × 4096.
MAX_INPUT_PIXELS = 2**24

# Formats that Pillow decodes itself; EPS and PDF, say, would start another program.
_FORMATS = (
    "AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP",
)  # fmt: skip

# What Pillow's decoders raise on broken data.
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip


class ImageError(SimaLensError, ValueError):
    """A picture cannot be read or used; the message says why in one sentence."""


def load_image(source: str | Path | bytes | BinaryIO, upright: bool = True) -> Image.Image:
    """The picture upright and as 8-bit RGB, whatever its kind.

    Alpha is laid over white, 16-bit and floating-point values are scaled (not clipped), the first
    frame of an animation is taken.

    Args:
        upright: turn it as its EXIF orientation says; False leaves the pixels where they are.

    Raises:
        ImageError: no picture, a broken one, or one of more than `MAX_IMAGE_PIXELS`.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise ImageError(
                    f"The picture has {width} × {height} pixels; "
                    f"at most {MAX_IMAGE_PIXELS // 1_000_000} million are read. "
                    "Make it smaller first."
                )
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image) if upright else image)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("There is no such file.") from None
    except IsADirectoryError:
        raise ImageError("This is a folder, not a picture.") from None
    except PermissionError:
        raise ImageError("The file may not be read: check its permissions.") from None
    except Image.DecompressionBombError:
        raise ImageError("The picture is too large to be decoded. Make it smaller first.") from None
    except UnidentifiedImageError:
        raise ImageError(_why_unidentified(file)) from None
    except _DECODING_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # no decoder's
            raise ImageError(f"The file cannot be read ({os.strerror(error.errno)}).") from None
        if "truncated" in str(error).lower():
            raise ImageError("The picture's file ends too early: copy it again.") from None
        raise ImageError("The picture is broken and cannot be decoded.") from None


def _why_unidentified(source: str | Path | BinaryIO) -> str:
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            head = file.read(16)
    else:
        source.seek(0)
        head = source.read(16)
    if not head:
        return "The file is empty."
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
        return "HEIC pictures cannot be read: save it as JPEG or PNG."
    return "This is not a picture in a format that is read (JPEG, PNG, WebP, GIF, TIFF, BMP …)."


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale deep grey values to 8 bits by the range of their type, or by their own if unusual."""
    v = values.astype(np.float64)
    finite = v[np.isfinite(v)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    v = np.nan_to_num(v, nan=low, posinf=high, neginf=low)
    if low >= 0 and np.issubdtype(values.dtype, np.integer) and high <= 65535:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = (v - low) * (255.0 / (high - low)) if high > low else np.zeros_like(v)
    return np.asarray(np.rint(scaled), dtype=np.uint8)


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
