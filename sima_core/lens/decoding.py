"""What the sandbox does with a stranger's picture: decode it, turn it upright, hand over RGB.

This runs in a process of its own, which the system ends past its limits (`sandbox`), so it may meet
anything. It says in one word what is wrong; `pictures` makes a sentence of it. It imports little
beside Pillow and NumPy, so that the process starts quickly.
"""

import io
import mmap
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    _imaging,
)

from sima_core.sandbox.child import be_done_within

#: Formats of photos and figures that people have; Pillow decodes them itself. JPEG covers MPO, a
#: phone's JPEG with more than one picture in it, of which the first is taken.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
#: Pixels of the largest picture of a format whose decoder keeps several copies of it. WebP's holds
#: two canvases beside what it decodes.
MOST_PIXELS = {"WEBP": 50_000_000}

#: Seconds in which any picture must be decoded, and how many more it has for each million pixels,
#: so that a small one that decodes for ever is soon out of the way. Honest ones need a tenth.
SECONDS, MORE_SECONDS = 2.0, 0.1

#: What `decode_small` takes, so that none takes a second: formats, pixels, bytes, and how often the
#: marks of what costs time by its number may occur, JPEG's scans and PNG's compressed metadata.
_SMALL_FORMATS, _SMALL_PIXELS, _SMALL_BYTES = ("JPEG", "PNG", "WEBP"), 2**20, 2**19
_COSTLY, _FEW = (b"\xff\xda", b"iCCP", b"iTXt", b"zTXt"), 32

#: EXIF's number for the orientation, and what turns a picture of each upright.
_ORIENTATION = 274
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Pixels that are converted at a time: few enough to stay in the processor's cache.
_BAND = 2**17
#: Brands of HEIF files that hold no AVIF.
_HEIC = (b"heic", b"heix", b"mif1", b"hevc")
#: PNG's chunks that say something about the picture and change none of its pixels.
_PNG_METADATA = (
    b"cHRM", b"eXIf", b"gAMA", b"iCCP", b"iTXt", b"pHYs", b"sRGB", b"tEXt", b"zTXt"
)  # fmt: skip

Image.init()  # knows all formats from now on, so that no child has to look for them
warnings.filterwarnings("ignore", module=r"PIL\.")  # they print paths, and help nobody here


def decode(source: BinaryIO, out: BinaryIO, max_pixels: int, upright: bool) -> dict[str, Any]:
    """The sandbox's task: the picture in `source` as 8-bit RGB, four bytes a pixel, into `out`.

    Returns:
        ``{"size": (width, height)}``, or ``{"error": …}`` with "size" (then with the picture's own
        ``size`` and the number of pixels that is ``allowed``), "empty", "heic", "unknown", "cut
        short" or "broken".
    """
    _forgive()

    def room(size: tuple[int, int]) -> Image.Image:
        num_bytes = 4 * size[0] * size[1]
        out.truncate(num_bytes)
        return mapped(mmap.mmap(out.fileno(), num_bytes), size)

    try:
        _require_pixels(_webp_size(source), "WEBP", max_pixels)  # opening it takes memory already
        with Image.open(source, formats=FORMATS) as image:
            _require_pixels(image.size, image.format, max_pixels)
            be_done_within(SECONDS + MORE_SECONDS * image.width * image.height / 1e6)
            return {"size": to_rgb(image, upright, room).size}
    except _TooManyPixelsError as error:
        size, allowed = error.args
        return {"error": "size", "size": size, "allowed": allowed}
    except UnidentifiedImageError:
        return {"error": _kind(source)}
    except MemoryError:
        raise
    except Exception as error:  # a decoder can raise anything over broken bytes
        if "memory" in str(error).lower():
            raise MemoryError from None
        return {"error": "cut short" if "truncated" in str(error).lower() else "broken"}


def decode_small(content: bytes, upright: bool) -> Image.Image | None:
    """The same in this process, for a picture that is plainly small; None for any other.

    It takes a tenth of the time that the way into another process does. What is broken is none of
    them either: `decode` says how.
    """
    if len(content) > _SMALL_BYTES or sum(map(content.count, _COSTLY)) > _FEW:
        return None
    file = io.BytesIO(content)
    with suppress(Exception):
        _require_pixels(_webp_size(file), None, _SMALL_PIXELS)
        with Image.open(file, formats=_SMALL_FORMATS) as image:
            _require_pixels(image.size, None, _SMALL_PIXELS)
            return to_rgb(image, upright, lambda size: Image.new("RGB", size))
    return None


class _TooManyPixelsError(Exception):
    """A picture's size, and how many pixels it may have."""


def _require_pixels(size: tuple[int, int], format: str | None, max_pixels: int) -> None:
    allowed = min(max_pixels, MOST_PIXELS.get(format or "", max_pixels))
    if size[0] * size[1] > allowed:
        raise _TooManyPixelsError(size, allowed)


def _webp_size(source: BinaryIO) -> tuple[int, int]:
    """The width and height in a WebP file's header; zeros in any other file.

    Source: RFC 9649, sections 2.7.1, 2.5 and 3.4.
    """
    head = source.read(30).ljust(30, b"\0")
    source.seek(0)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def mapped(pixels: Any, size: tuple[int, int]) -> Image.Image:
    """An RGB picture that lies in a block of memory, four bytes a pixel: nothing is copied.

    Pillow's own `frombuffer` maps every mode but RGB, though RGB lies in its memory just so.
    """
    image = Image.new("RGB", (0, 0))
    image.im = _imaging.map_buffer(pixels, size, "raw", 0, ("RGB", 0, 1))
    image._size = size
    image.readonly = 1  # whoever draws on it gets a copy
    return image


def to_rgb(
    image: ImageFile.ImageFile, upright: bool, room: Callable[[tuple[int, int]], Image.Image]
) -> Image.Image:
    """The picture as 8-bit RGB, made in the `room` for a picture of its size.

    A plain picture is decoded right where it shall lie; others are converted band by band, so that
    there is never a second copy of a large one.
    """
    late = image.format in ("PNG", "TIFF")  # metadata may follow the pixels, or turns them itself
    turn = _orientation(image) if upright and not late else 1
    plain = image.mode == "RGB" and not image.has_transparency_data
    there = room(image.size) if plain and turn == 1 and image.format != "TIFF" else None
    if there:
        image.im = there.im
    image.load()
    if upright and late:
        turn = _orientation(image)
    if there and image.im is there.im:
        if turn == 1 and not image.has_transparency_data:
            return there
        image.im, there = image.im.copy(), None
    target = room(image.size if turn < 5 else image.size[::-1])
    target.readonly = 0
    for top, band in _bands(image):
        bottom = image.height - top - band.height
        along = bottom if turn in (3, 4, 6, 7) else top
        turned = band.transpose(_TURNS[turn]) if turn > 1 else band
        target.paste(turned, (0, along) if turn < 5 else (along, 0))
    target.readonly = 1
    return target


def _orientation(image: Image.Image) -> int:
    """How the picture lies, by its EXIF or XMP, from 1 (upright) to 8; 1 where it does not say."""
    with suppress(Exception):  # what cannot be read is ignored
        found = image.getexif().get(_ORIENTATION)
        if found in _TURNS:
            return int(found)
    return 1


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Bands of rows from top to bottom, each as RGB, with the row where it begins."""

    def crops() -> Iterator[tuple[int, Image.Image]]:
        rows = max(1, _BAND // image.width)
        for top in range(0, image.height, rows):
            yield top, image.crop((0, top, image.width, min(top + rows, image.height)))

    if image.mode.startswith("I") or image.mode == "F":
        darkest, brightest = _range(np.asarray(band) for _, band in crops())
        for top, band in crops():
            grey = Image.fromarray(_to_8_bit(np.asarray(band), darkest, brightest))
            yield top, grey.convert("RGB")
    elif image.has_transparency_data:
        for top, band in crops():
            rgba = band.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            yield top, Image.alpha_composite(white, rgba).convert("RGB")
    else:
        for top, band in crops():
            yield top, band if band.mode == "RGB" else band.convert("RGB")


def _range(bands: Iterator[NDArray[Any]]) -> tuple[float, float]:
    """The finite values' smallest and largest."""
    low, high = np.inf, -np.inf
    for band in bands:
        finite = band[np.isfinite(band)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _to_8_bit(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scale deep grey values to 8 bits by the range of their type, or by their own if unusual.

    Args:
        low, high: the range of the whole picture's values.
    """
    v = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    if low >= 0 and np.issubdtype(values.dtype, np.integer) and high <= 65535:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = (v - low) * (255.0 / (high - low)) if high > low else np.zeros_like(v)
    return np.asarray(np.rint(scaled), dtype=np.uint8)


def _kind(source: BinaryIO) -> str:
    """What a file is in which no picture was found."""
    source.seek(0)
    head = source.read(16)
    if not head:
        return "empty"
    return "heic" if head[4:8] == b"ftyp" and head[8:12] in _HEIC else "unknown"


def _forgive() -> None:
    """Have Pillow in this process read pixels whatever the metadata, and leave limits to us."""
    Image.MAX_IMAGE_PIXELS = None  # warns or refuses, but never says the size
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    PngImagePlugin.PngStream = _ForgivingChunks  # type: ignore[misc]
    JpegImagePlugin.JpegImageFile._getmp = lambda _: None  # type: ignore[assignment,method-assign]


class _ForgivingChunks(PngImagePlugin.PngStream):
    """A PNG's chunks, of which broken metadata is passed over."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        if cid not in _PNG_METADATA:
            return super().call(cid, pos, length)
        try:
            return super().call(cid, pos, length)
        except Exception:  # its reader may raise anything; the picture does not depend on it
            assert self.fp is not None
            self.fp.seek(pos)
            return ImageFile._safe_read(self.fp, length)

    def crc(self, cid: bytes, data: bytes) -> None:
        (self.crc_skip if cid in _PNG_METADATA else super().crc)(cid, data)
