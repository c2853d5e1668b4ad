"""Scale maps of tokens to heatmaps and lay them over pictures."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sima_core.defaults import OPACITY
from sima_core.errors import InputError
from sima_core.words import plain

#: Colour maps on offer: perceptually uniform ones, the default first, then two of common taste.
COLORMAPS = ("inferno", "viridis", "magma", "plasma", "cividis", "turbo", "gray")
#: The colour map of signed values: red above zero, blue below, white at zero.
DIVERGING = "RdBu_r"
#: Said where a model's results cannot be shown.
NOT_FINITE = (
    "the model gave values that are not numbers (NaN or infinite): its weights are probably damaged"
)
#: A map whose range is at most this share of its maximum carries no contrast.
FLAT_RANGE = 1e-6
#: Rows of a picture that are blended at a time. A multiple of a processor's vectors, so that each
#: pixel is computed just as it would be if all rows were blended at once.
_BAND_ROWS = 64


@dataclass(frozen=True)
class Heatmap:
    """A map of tokens scaled to [0, 1]: `values` is float32 (rows, cols)."""

    values: NDArray[np.float32]
    #: What 0 and 1 stand for.
    minimum: float
    maximum: float
    #: True if all norms are equal (max − min ≤ 1e-6 · max), and `values` then all one; of a signed
    #: map, if all are zero.
    flat: bool

    def resize(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Bilinear, half-pixel centres (`align_corners=False`): float32 (height, width).

        Args:
            size: (width, height) in pixels, as Pillow orders them.
        """
        return np.asarray(cv2.resize(self.values, size, interpolation=cv2.INTER_LINEAR))


def heatmap(norms: ArrayLike) -> Heatmap:
    """Min-max scale one map of token norms, (rows, cols), to [0, 1].

    Raises:
        InputError: not two-dimensional, or a value that is no number, NaN or infinite.

    Source: arXiv 2206.08898, figure 2.
    """
    values = _values(norms)
    low, high = float(values.min()), float(values.max())
    flat = high - low <= FLAT_RANGE * abs(high)
    scaled = np.ones_like(values) if flat else (values - low) / np.float32(high - low)
    return Heatmap(scaled, low, high, flat)


def signed_heatmap(values: ArrayLike) -> Heatmap:
    """Scale one map of signed values, (rows, cols), to [0, 1] with zero at a half.

    Both ends are equally far from zero, so that `DIVERGING` gives like values like strengths.

    Raises:
        InputError: as `heatmap`.
    """
    signed = _values(values)
    most = float(np.abs(signed).max())
    shares = signed / np.float32(most) if most else np.zeros_like(signed)
    scaled = np.asarray((shares + 1) / 2, dtype=np.float32)
    return Heatmap(scaled, -most or 0.0, most, most == 0)


def _values(values: ArrayLike) -> NDArray[np.float32]:
    """A map of finite numbers.

    Raises:
        InputError: it is none.
    """
    try:
        found = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError("a heatmap needs numbers, rows × columns of them") from None
    if found.ndim != 2 or not found.size:
        raise InputError(f"a heatmap needs a map of rows × columns; got shape {found.shape}")
    if not np.isfinite(found).all():
        raise InputError(NOT_FINITE)
    return found


def colorize(values: NDArray[np.float32], colormap: str = COLORMAPS[0]) -> NDArray[np.uint8]:
    """Values in [0, 1], (height, width), as RGB (height, width, 3).

    Args:
        colormap: one of `COLORMAPS`, or `DIVERGING`.

    Raises:
        InputError: unknown colour map.
    """
    if colormap not in (*COLORMAPS, DIVERGING):
        raise InputError(f"colormap must be one of {', '.join(COLORMAPS)}; got {plain(colormap)!r}")
    return np.asarray(_table(colormap)[np.rint(values * 255).astype(np.uint8)])


@functools.cache
def _table(colormap: str) -> NDArray[np.uint8]:
    """The 256 colours of a map, RGB (256, 3)."""
    import matplotlib  # slow to import, and not needed for the norms themselves

    return np.asarray(matplotlib.colormaps[colormap](np.arange(256), bytes=True)[:, :3])


def overlay(
    image: Image.Image, heatmap: Heatmap, colormap: str = COLORMAPS[0], opacity: float = OPACITY
) -> Image.Image:
    """The picture with the heatmap over it, at the picture's own size.

    Args:
        opacity: 0 gives the picture as it is, 1 the heatmap alone.

    Raises:
        InputError: no picture, no heatmap, an unknown colour map, or an opacity outside [0, 1].
    """
    if not (isinstance(image, Image.Image) and isinstance(heatmap, Heatmap)):
        raise InputError("an overlay needs a picture of Pillow's and what `heatmap` makes of norms")
    if not (isinstance(opacity, int | float) and 0 <= opacity <= 1):
        raise InputError(f"opacity must be from 0 to 1; got {plain(opacity)}")
    values, blended = heatmap.resize(image.size), Image.new("RGB", image.size)
    for top in range(0, image.height, _BAND_ROWS):  # a large picture's copies would take gigabytes
        rows = slice(top, top + _BAND_ROWS)
        colors = colorize(values[rows], colormap)
        photo = np.asarray(image.crop((0, top, image.width, top + len(colors))).convert("RGB"))
        band = cv2.addWeighted(photo, 1 - opacity, colors, opacity, 0)
        blended.paste(Image.fromarray(band), (0, top))
    return blended
