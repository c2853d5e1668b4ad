"""Picture formats by hand: what no encoder would write."""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@functools.cache
def photo(mode: str = "RGB", width: int = 96, height: int = 64) -> Image.Image:
    """A picture with structure, the same each time."""
    y, x = np.mgrid[:height, :width]
    disc = ((x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2) * 120
    channels = np.stack([x * 2 + disc, y * 3 + disc // 2, (x + y) % 64 * 2], -1)
    return Image.fromarray(np.clip(channels, 0, 255).astype(np.uint8)).convert(mode)


def encoded(format_: str, mode: str = "RGB", **options: object) -> bytes:
    """`photo` as a file of a format."""
    return saved(photo(mode), format_, **options)


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    """Any picture as a file of a format."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


# JPEG


def many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: each takes the decoder through all pixels."""
    whole = saved(Image.new("L", (2048, 2048), 200), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + (whole[last:-2] * scans) + whole[-2:]


def with_sof(width: int, height: int, components: int = 3, precision: int = 8) -> bytes:
    """A small JPEG whose frame header says something else."""
    whole = bytearray(encoded("JPEG"))
    at = whole.index(b"\xff\xc0") + 4
    whole[at : at + 6] = struct.pack(">BHHB", precision, height, width, components)
    return bytes(whole)


def with_segment(marker: int, content: bytes, times: int = 1) -> bytes:
    """A JPEG with a segment put in after its beginning."""
    segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
    whole = encoded("JPEG")
    return whole[:2] + segment * times + whole[2:]


# PNG


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """One chunk of a PNG, its checksum right."""
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def ihdr(width: int, height: int, depth: int = 8, color: int = 2, interlace: int = 0) -> bytes:
    """The chunk that says a PNG's size and type."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace))


@functools.cache
def _mebibyte() -> bytes:
    """A mebibyte of zeros, deflated so that it can be repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)


def deflated_zeros(mebibytes: int) -> bytes:
    """So many zeros as raw deflate, made at once, however many they are."""
    return _mebibyte() * mebibytes + b"\x03\0"


def zeros(size: int) -> bytes:
    """At least so many zeros, up to a mebibyte more, as zlib packs them: a bomb."""
    mebibytes = -(-size // 2**20)
    checksum = ((mebibytes << 20) % 65521) << 16 | 1
    return b"\x78\xda" + deflated_zeros(mebibytes) + struct.pack(">I", checksum)


def png(header: bytes, *chunks: bytes) -> bytes:
    """A PNG of these chunks and its end."""
    return PNG_MAGIC + header + b"".join(chunks) + chunk(b"IEND")


def small_png(*extra: bytes) -> bytes:
    """A good PNG of 16 × 16 with more chunks after its header."""
    rows = zlib.compress((b"\0" + bytes(range(48))) * 16)
    return png(ihdr(16, 16), *extra, chunk(b"IDAT", rows))


def apng(frames: int) -> bytes:
    """An animated PNG of 16 × 16 with so many frames."""
    rows = zlib.compress((b"\0" + bytes(48)) * 16)
    parts = [chunk(b"acTL", struct.pack(">II", frames, 0))]
    for number in range(frames):
        control = struct.pack(">IIIIIHHBB", 2 * number, 16, 16, 0, 0, 1, 10, 0, 0)
        parts.append(chunk(b"fcTL", control))
        parts.append(chunk(b"fdAT", struct.pack(">I", 2 * number + 1) + rows))
    return png(ihdr(16, 16), parts[0], chunk(b"IDAT", rows), *parts[1:])


# GIF


def gif(width: int, height: int, frames: bytes) -> bytes:
    """A GIF of a canvas and what follows it."""
    palette = bytes(range(6))
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + palette + frames + b";"


def gif_frame(width: int, height: int, codes: bytes = b"\x02\x02\x44\x01\x00") -> bytes:
    """One frame; without other codes it ends after a pixel or two."""
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + codes


def lzw_bomb(blocks: int) -> bytes:
    """Codes that clear the table again and again, and give almost no pixels."""
    return b"\x02" + (b"\xff" + b"\x24" * 255) * blocks + b"\0"


# TIFF


def tiff(
    tags: dict[int, tuple[int, list[int]]],
    data: bytes = b"",
    endian: str = "<",
    next_ifd: int = 0,
    counts: dict[int, int] | None = None,
) -> bytes:
    """A TIFF: its data at byte 8, then one directory.

    Args:
        tags: by number, the type (3 is uint16, 4 uint32) and the values.
        counts: numbers of values that the directory claims in place of the true ones.
    """
    mark = b"II*\0" if endian == "<" else b"MM\0*"
    at = 8 + len(data)
    after = at + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{endian}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        count = (counts or {}).get(tag, len(values))
        entries += struct.pack(f"{endian}HHI", tag, kind, count)
        if len(packed) > 4:
            entries += struct.pack(f"{endian}I", after + len(extra))
            extra += packed
        else:
            entries += packed.ljust(4, b"\0")
    directory = struct.pack(f"{endian}H", len(tags)) + entries
    head = mark + struct.pack(f"{endian}I", at)
    return head + data + directory + struct.pack(f"{endian}I", next_ifd) + extra


def tiff_tags(
    width: int, height: int, data: bytes, **changes: object
) -> dict[int, tuple[int, list[int]]]:
    """The tags of an 8-bit grey picture in one strip; `changes` such as ``t258=(3, [32])``."""
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8]),
        259: (3, [1]),
        262: (3, [1]),
        273: (4, [8]),
        277: (3, [1]),
        278: (4, [height]),
        279: (4, [len(data)]),
    }
    tags.update({int(name[1:]): value for name, value in changes.items()})  # type: ignore[misc]
    return tags


def float_tiff(side: int, value: float = 0.0) -> bytes:
    """A square of floats that deflate to nothing."""
    if value == 0.0:
        data = zeros(4 * side * side)
    else:
        data = zlib.compress(struct.pack("<f", value) * side * side)
    return tiff(tiff_tags(side, side, data, t258=(3, [32]), t259=(3, [8]), t339=(3, [3])), data)


# BMP, WebP, AVIF and the like


def bmp(
    width: int, height: int, bits: int, compression: int, data: bytes, colors: int = 0
) -> bytes:
    """A BMP with whatever its header says."""
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, colors, 0
    )
    palette = bytes(4 * min(colors, 256))
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + palette + data


def webp_chunk(name: bytes, content: bytes) -> bytes:
    """One chunk of a WebP."""
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def webp(*chunks: bytes) -> bytes:
    """A WebP of these chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8x(width: int, height: int, flags: int) -> bytes:
    """The chunk that says an extended WebP's canvas."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size)


def webp_with_exif(exif: bytes, width: int = 96, height: int = 64) -> bytes:
    """A good WebP with metadata, and a canvas that may lie."""
    plain = encoded("WEBP", lossless=True)
    return webp(vp8x(width, height, 0x08), plain[12:], webp_chunk(b"EXIF", exif))
