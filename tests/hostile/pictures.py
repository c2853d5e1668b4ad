"""Hostile pictures, and good ones that look odd."""

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageCms

from tests.hostile.case import Case, flipped, holding, sparse
from tests.hostile.encoding import (
    PNG_MAGIC,
    apng,
    bmp,
    chunk,
    encoded,
    float_tiff,
    gif,
    gif_frame,
    ihdr,
    lzw_bomb,
    many_scans,
    photo,
    png,
    saved,
    small_png,
    tiff,
    tiff_tags,
    vp8x,
    webp,
    webp_chunk,
    webp_with_exif,
    with_segment,
    with_sof,
    zeros,
)

Content = bytes | Callable[[], bytes]


def pictures() -> Iterator[Case]:
    """All of them."""
    for label, (name, content) in {**_JPEG, **_PNG, **_GIF, **_TIFF, **_OTHERS, **_PPM}.items():
        yield Case(label, "picture", holding(content), name, known=label in _KNOWN)
    yield Case("bmp-sparse", "picture", sparse(bmp(8000, 7900, 32, 0, b""), 250 << 20), "s.bmp")
    yield Case("float-tiff-sparse", "picture", _sparse_float_tiff(), "sparse.tif")
    yield from _damaged()
    for label, (name, content) in _GOOD.items():
        known = label in ("good-webp-broken-exif", "good-ordinary")
        yield Case(label, "picture", holding(content), name, good=True, known=known)


def _damaged() -> Iterator[Case]:
    """Files of every format that end too early or have other bytes."""
    sources = {
        "jpeg": encoded("JPEG"),
        "progressive": encoded("JPEG", progressive=True),
        "png": encoded("PNG"),
        "gif": encoded("GIF"),
        "webp": encoded("WEBP"),
        "tiff": encoded("TIFF", compression="tiff_lzw"),
        "bmp": encoded("BMP"),
        "avif": encoded("AVIF"),
        "jp2": encoded("JPEG2000"),
        "tga": encoded("TGA"),
        "ico": encoded("ICO", "RGBA"),
    }
    for number, (format_, content) in enumerate(sources.items()):
        for percent in (1, 10, 50, 98):
            cut = content[: max(4, len(content) * percent // 100)]
            yield Case(f"cut-{format_}-{percent}", "picture", holding(cut), f"cut.{format_}")
        for seed in range(2):
            changed = flipped(content, 10 * number + seed)
            yield Case(f"flipped-{format_}-{seed}", "picture", holding(changed), f"f.{format_}")


#: Those of the issue that this is about.
_KNOWN = {
    "jpeg-40000-scans",
    "sof-65535-65535",
    "sof-1-65500",
    "ppm-bomb",
    "ppm-negative",
    "ppm-digits",
    "float-tiff",
    "png-60000",
    "tiff-ifd-loop",
    "heic",
    "svg",
}

_JPEG: dict[str, tuple[str, Content]] = {
    "jpeg-40000-scans": ("scans.jpg", lambda: many_scans(40_000)),
    "jpeg-4-mb-of-scans": ("scans.jpg", lambda: many_scans(250_000)),
    "jpeg-2000-scans": ("scans.jpg", lambda: many_scans(2_000)),
    "sof-65535-65535": ("sof.jpg", lambda: with_sof(65535, 65535)),
    "sof-1-65500": ("sof.jpg", lambda: with_sof(1, 65500)),
    "sof-65500-1": ("sof.jpg", lambda: with_sof(65500, 1)),
    "sof-8000-7999": ("sof.jpg", lambda: with_sof(8000, 7999)),
    "sof-0-0": ("sof.jpg", lambda: with_sof(0, 0)),
    "sof-4-components": ("sof.jpg", lambda: with_sof(96, 64, 4)),
    "sof-255-components": ("sof.jpg", lambda: with_sof(96, 64, 255)),
    "sof-0-components": ("sof.jpg", lambda: with_sof(96, 64, 0)),
    "sof-12-bits": ("sof.jpg", lambda: with_sof(96, 64, 3, 12)),
    "jpeg-5000-comments": ("c.jpg", lambda: with_segment(0xFE, b"x" * 200, 5_000)),
    "jpeg-exif-loop": ("e.jpg", lambda: with_segment(0xE1, _EXIF_LOOP)),
    "jpeg-exif-huge-counts": ("e.jpg", lambda: with_segment(0xE1, _EXIF_HUGE)),
    "jpeg-icc-pieces": (
        "i.jpg",
        lambda: with_segment(0xE2, b"ICC_PROFILE\0\x01\xff" + bytes(900), 255),
    ),
    "jpeg-mpo-lie": (
        "m.jpg",
        lambda: with_segment(0xE2, b"MPF\0" + b"II*\0\x08\0\0\0\xff\xff" + bytes(80)),
    ),
    "jpeg-no-tables": ("t.jpg", lambda: encoded("JPEG").replace(b"\xff\xc4", b"\xff\xfe")),
    "jpeg-only-markers": ("o.jpg", b"\xff\xd8" + b"\xff\xd0" * 100_000 + b"\xff\xd9"),
    "jpeg-padding": ("p.jpg", b"\xff\xd8" + b"\xff" * 2_000_000),
    "jpeg-nothing": ("n.jpg", b"\xff\xd8\xff\xd9"),
}
_EXIF_LOOP = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
_EXIF_HUGE = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0112, 12, 2**29, 8, 0)

_PNG: dict[str, tuple[str, Content]] = {
    "png-60000": (
        "b.png",
        lambda: png(ihdr(60_000, 60_000, 1, 0), chunk(b"IDAT", zeros(60_000 * 7501))),
    ),
    "png-8000-rgba16": (
        "b.png",
        lambda: png(ihdr(8000, 8000, 16, 6), chunk(b"IDAT", zeros(8000 * 64_001))),
    ),
    "png-interlaced": (
        "b.png",
        lambda: png(ihdr(7900, 8000, 8, 6, 1), chunk(b"IDAT", zeros(300 << 20))),
    ),
    "png-row": ("b.png", lambda: png(ihdr(64_000_000, 1, 8, 0), chunk(b"IDAT", zeros(64_000_001)))),
    "png-column": (
        "b.png",
        lambda: png(ihdr(1, 64_000_000, 8, 0), chunk(b"IDAT", zeros(128_000_000))),
    ),
    "png-ihdr-zero": ("h.png", lambda: png(ihdr(0, 0), chunk(b"IDAT", zeros(10)))),
    "png-ihdr-2e31": ("h.png", lambda: png(ihdr(2**31 - 1, 2**31 - 1), chunk(b"IDAT", zeros(10)))),
    "png-ihdr-depth": ("h.png", lambda: png(ihdr(16, 16, 7, 9), chunk(b"IDAT", zeros(10)))),
    "png-too-much-data": ("d.png", lambda: png(ihdr(16, 16), chunk(b"IDAT", zeros(500 << 20)))),
    "png-ztxt-bomb": ("t.png", lambda: small_png(chunk(b"zTXt", b"a\0\0" + zeros(500 << 20)))),
    "png-itxt-bomb": (
        "t.png",
        lambda: small_png(chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(500 << 20))),
    ),
    "png-iccp-bomb": ("t.png", lambda: small_png(chunk(b"iCCP", b"a\0\0" + zeros(500 << 20)))),
    "png-100000-texts": ("t.png", lambda: small_png(chunk(b"tEXt", b"k\0v") * 100_000)),
    "png-apng-5000": ("a.png", lambda: apng(5_000)),
    "png-apng-lie": ("a.png", lambda: small_png(chunk(b"acTL", struct.pack(">II", 2**31, 0)))),
    "png-huge-chunk": ("c.png", PNG_MAGIC + ihdr(16, 16) + b"\x7f\xff\xff\xffIDAT"),
    "png-exif-broken": ("x.png", lambda: small_png(chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"))),
    "png-bad-crc": ("x.png", lambda: small_png()[:-30] + b"\0" * 30),
    "png-200000-idat": ("x.png", lambda: png(ihdr(16, 16), chunk(b"IDAT") * 200_000)),
    "png-no-palette": ("x.png", lambda: png(ihdr(16, 16, 8, 3), chunk(b"IDAT", zeros(16 * 17)))),
    "png-magic-only": ("x.png", PNG_MAGIC),
}

_GIF: dict[str, tuple[str, Content]] = {
    "gif-canvas": ("c.gif", lambda: gif(65535, 65535, gif_frame(65535, 65535))),
    "gif-canvas-8000": ("c.gif", lambda: gif(8000, 8000, gif_frame(8000, 8000))),
    "gif-50000-frames": ("f.gif", lambda: gif(16, 16, gif_frame(16, 16) * 50_000)),
    "gif-frame-outside": ("o.gif", lambda: gif(16, 16, gif_frame(65535, 65535))),
    "gif-lzw-bomb": ("l.gif", lambda: gif(8000, 8000, gif_frame(8000, 8000, lzw_bomb(16_000)))),
    "gif-endless-comment": (
        "e.gif",
        lambda: gif(16, 16, b"!\xfe" + (b"\xff" + b"c" * 255) * 20_000),
    ),
    "gif-zero": ("z.gif", lambda: gif(0, 0, gif_frame(0, 0))),
}


def _tiff(data: bytes, width: int, height: int, **changes: object) -> bytes:
    return tiff(tiff_tags(width, height, data, **changes), data)


def _tiff_loop() -> bytes:
    plain = tiff(tiff_tags(8, 8, bytes(64)), bytes(64))
    return plain[:-4] + struct.pack("<I", 8 + 64)  # its next directory is itself


def _many_ifds(count: int) -> bytes:
    tags = tiff_tags(8, 8, bytes(64))
    single = tiff(tags, bytes(64))
    directory = single[72:-4]
    body, at = single[:72], 72
    for _ in range(count):
        at += len(directory) + 4
        body += directory + struct.pack("<I", at)
    return body + directory + bytes(4)


def _sparse_float_tiff() -> Callable[..., object]:
    """Floats that need no decoder: 256 MB of them, where the disk holds a few hundred bytes."""
    side = 8000
    tags = tiff_tags(side, side, b"", t258=(3, [32]), t339=(3, [3]), t273=(4, [4096]))
    tags[279] = (4, [4 * side * side])
    return sparse(tiff(tags), 4096 + 4 * side * side)


_TIFF: dict[str, tuple[str, Content]] = {
    "float-tiff": ("float.tif", lambda: float_tiff(8000)),
    "float-tiff-nan": ("nan.tif", lambda: float_tiff(2000, float("nan"))),
    "float-tiff-inf": ("inf.tif", lambda: float_tiff(2000, float("inf"))),
    "tiff-int32": (
        "i.tif",
        lambda: _tiff(zeros(4 * 7900**2), 7900, 7900, t258=(3, [32]), t259=(3, [8])),
    ),
    "tiff-ifd-loop": ("l.tif", _tiff_loop),
    "tiff-20000-ifds": ("m.tif", lambda: _many_ifds(20_000)),
    "tiff-strips-outside": ("s.tif", lambda: _tiff(bytes(64), 8, 8, t273=(4, [2**31]))),
    "tiff-strip-counts": (
        "s.tif",
        lambda: tiff(tiff_tags(8, 8, bytes(64)), bytes(64), counts={273: 2**30}),
    ),
    "tiff-huge-tag": (
        "t.tif",
        lambda: tiff(tiff_tags(8, 8, bytes(64), t700=(4, [1])), bytes(64), counts={700: 2**31}),
    ),
    "tiff-deflate-bomb": ("b.tif", lambda: _tiff(zeros(1 << 30), 64, 64, t259=(3, [8]))),
    "tiff-pixels": ("p.tif", lambda: _tiff(bytes(64), 2**31 - 1, 2**31 - 1)),
    "tiff-samples": ("p.tif", lambda: _tiff(bytes(64), 8, 8, t277=(3, [65535]))),
    "tiff-bits-64": ("p.tif", lambda: _tiff(bytes(512), 8, 8, t258=(3, [64]), t339=(3, [3]))),
    "tiff-zero": ("z.tif", lambda: _tiff(bytes(64), 0, 0)),
    "tiff-rows-per-strip": ("r.tif", lambda: _tiff(bytes(64), 8, 8, t278=(4, [0]))),
    "tiff-many-strips": (
        "r.tif",
        lambda: _tiff(
            bytes(64), 1, 60_000, t278=(4, [1]), t273=(4, [8] * 60_000), t279=(4, [1] * 60_000)
        ),
    ),
    "tiff-tile": (
        "t.tif",
        lambda: _tiff(
            bytes(64), 8, 8, t322=(4, [2**30]), t323=(4, [2**30]), t324=(4, [8]), t325=(4, [64])
        ),
    ),
    "tiff-jpeg-broken": ("j.tif", lambda: _tiff(bytes(64), 8, 8, t259=(3, [7]))),
    "tiff-ccitt": (
        "j.tif",
        lambda: _tiff(b"\xff" * 4096, 65_000, 900, t258=(3, [1]), t259=(3, [4])),
    ),
    "tiff-unknown-codec": ("j.tif", lambda: _tiff(bytes(64), 8, 8, t259=(3, [50_000]))),
    "tiff-orientation": ("o.tif", lambda: _tiff(bytes(64), 8, 8, t274=(3, [99]))),
    "tiff-palette-short": (
        "p.tif",
        lambda: _tiff(bytes(64), 8, 8, t262=(3, [3]), t320=(3, [1, 2, 3])),
    ),
    "bigtiff": ("b.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", 2**60)),
}


def _digits() -> bytes:
    return b"P2\n" + b"9" * 5_000_000 + b" 1\n255\n0"


_PPM: dict[str, tuple[str, Content]] = {
    "ppm-bomb": ("bomb.ppm", b"P6\n8000 8000\n255\n"),
    "ppm-bomb-16": ("bomb.ppm", b"P6\n8000 7999\n65535\n" + bytes(64)),
    "ppm-text-bomb": ("text.ppm", b"P3\n8000 7999\n255\n" + b"1 " * 500_000),
    "ppm-negative": ("negative.ppm", b"P6\n-8000 -8000\n255\n" + bytes(64)),
    "ppm-negative-one": ("negative.ppm", b"P6\n-1 64000000\n255\n" + bytes(64)),
    "ppm-digits": ("digits.ppm", _digits),
    "ppm-400-digits": ("digits.ppm", b"P6\n" + b"9" * 400 + b" 1\n255\n0"),
    "ppm-token-digits": ("digits.ppm", b"P3\n9 9\n255\n" + b"9" * 3_000_000),
    "ppm-maxval-0": ("max.ppm", b"P6\n8 8\n0\n" + bytes(192)),
    "ppm-maxval-65536": ("max.ppm", b"P6\n8 8\n65536\n" + bytes(384)),
    "ppm-comment": ("comment.ppm", b"P6\n#" + b"c" * 5_000_000),
    "pfm": ("f.pfm", b"Pf\n8000 8000\n-1.0\n" + bytes(64)),
    "pam": ("f.pam", b"P7\nWIDTH 99999\nHEIGHT 99999\nDEPTH 4\nMAXVAL 255\nENDHDR\n"),
    "pbm-bomb": ("f.pbm", b"P4\n64000000 1\n"),
}


def _ico(width: int, content: bytes, count: int = 1) -> bytes:
    entry = struct.pack(
        "<BBBBHHII", width % 256, width % 256, 0, 0, 1, 32, len(content), 6 + 16 * count
    )
    return struct.pack("<HHH", 0, 1, count) + entry * count + content


def _tga(width: int, height: int, kind: int, data: bytes) -> bytes:
    return struct.pack("<BBBHHBHHHHBB", 0, 0, kind, 0, 0, 0, 0, 0, width, height, 24, 0) + data


_OTHERS: dict[str, tuple[str, Content]] = {
    "webp-canvas": ("w.webp", lambda: webp_with_exif(b"", 16_384, 16_384)),
    "webp-canvas-fits": ("w.webp", lambda: webp_with_exif(b"", 8_000, 7_999)),
    "webp-exif-huge": ("w.webp", lambda: webp_with_exif(_EXIF_HUGE)),
    "webp-5000-frames": (
        "w.webp",
        lambda: webp(
            vp8x(96, 64, 2),
            webp_chunk(b"ANIM", bytes(6)),
            webp_chunk(b"ANMF", bytes(16) + encoded("WEBP")[12:]) * 5_000,
        ),
    ),
    "webp-riff-size": ("w.webp", b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff/" + bytes(64)),
    "webp-empty": ("w.webp", webp()),
    "bmp-rle-bomb": ("r.bmp", lambda: bmp(8000, 7999, 8, 1, b"\xff\x01" * 200_000, 256)),
    "bmp-rle-delta": ("r.bmp", lambda: bmp(8000, 7999, 8, 1, b"\x00\x02\xff\xff" * 100_000, 256)),
    "bmp-rle-end": ("r.bmp", lambda: bmp(64, 64, 8, 1, b"\x00\x01", 256)),
    "bmp-negative-width": ("n.bmp", bmp(-8, 8, 24, 0, bytes(192))),
    "bmp-min-height": ("n.bmp", bmp(8, -(2**31), 24, 0, bytes(192))),
    "bmp-palette": ("p.bmp", bmp(8, 8, 8, 0, bytes(64), 2**31)),
    "bmp-bits": ("p.bmp", bmp(8, 8, 255, 0, bytes(64))),
    "bmp-pixels": ("p.bmp", bmp(2**31 - 1, 2**31 - 1, 32, 0, bytes(64))),
    "bmp-truncated": ("p.bmp", bmp(8000, 7999, 24, 0, bytes(64))),
    "ico-png-bomb": (
        "i.ico",
        lambda: _ico(0, png(ihdr(60_000, 60_000, 1, 0), chunk(b"IDAT", zeros(1 << 20)))),
    ),
    "ico-bmp-bomb": ("i.ico", lambda: _ico(0, bmp(8000, 16_000, 32, 0, bytes(64))[14:])),
    "ico-65535": ("i.ico", lambda: _ico(16, small_png(), 60_000)),
    "ico-empty": ("i.ico", struct.pack("<HHH", 0, 1, 0)),
    "tga-65535": ("t.tga", _tga(65535, 65535, 2, bytes(64))),
    "tga-rle": ("t.tga", _tga(8000, 7999, 10, b"\xff\1\2\3" * 1000)),
    "jp2-header": (
        "j.jp2",
        b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + bytes(64),
    ),
    "j2k-tiles": (
        "j.j2k",
        b"\xff\x4f\xff\x51\0\x2f\0\0"
        + struct.pack(">IIIIIIIIH", 8000, 7999, 0, 0, 1, 1, 0, 0, 3)
        + b"\x07\1\1" * 3,
    ),
    "j2k-box-loop": ("j.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\1free\0\0\0\0\0\0\0\0" * 99),
    "avif-header": ("a.avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200)),
    "avif-boxes": (
        "a.avif",
        b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0\0\0\x08meta" * 50_000,
    ),
    "avif-64-bit-box": (
        "a.avif",
        b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf\0\0\0\1meta" + b"\xff" * 8,
    ),
    "heic": ("h.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)),
    "svg": ("s.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
    "svg-laughs": (
        "s.svg",
        b"<!DOCTYPE a [<!ENTITY b 'bbbbbbbb'><!ENTITY c '&b;&b;&b;&b;'>]><svg>&c;</svg>",
    ),
    "html": ("h.png", b"<html><script>alert(document.cookie)</script></html>"),
    "pdf": ("p.pdf", b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript>>>>endobj"),
    "eps": ("e.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(%pipe%id) (w) file\n"),
    "eps-as-jpg": ("e.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\nshowpage\n"),
    "psd": (
        "p.psd",
        b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8000, 8000, 8, 3) + bytes(64),
    ),
    "dds": ("d.dds", b"DDS " + struct.pack("<IIII", 124, 7, 8000, 8000) + bytes(200)),
    "fits": (
        "f.fits",
        b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =  -64".ljust(80) + b" " * 2720,
    ),
    "icns": ("i.icns", b"icns\xff\xff\xff\xffic10\xff\xff\xff\xff"),
    "xbm": ("x.xbm", b"#define w_width 99999\n#define w_height 99999\nstatic char b[] = {\n0x00"),
    "sgi": ("s.sgi", struct.pack(">HBBHHHH", 474, 1, 1, 3, 8000, 8000, 3) + bytes(500)),
    "pcx": ("p.pcx", b"\n\5\1\x08" + struct.pack("<HHHH", 0, 0, 7999, 7999) + bytes(120)),
    "wmf": ("w.wmf", b"\xd7\xcd\xc6\x9a" + bytes(60)),
    "jxl": ("j.jxl", b"\xff\x0a" + bytes(64)),
    "mp4": ("m.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(200)),
    "text": ("t.txt", b"only words\n"),
    "text-as-jpg": ("t.jpg", b"only words\n" * 100),
    "one-byte": ("b.png", b"\x89"),
    "empty": ("e.png", b""),
    "nul-bytes": ("n.png", bytes(4096)),
}


def _deep() -> Image.Image:
    ramp = np.tile(np.arange(0, 65536, 1024, dtype=np.uint16), (64, 1))
    return Image.fromarray(ramp)


def _rotated_exif(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def _big_endian_tiff() -> bytes:
    data = photo("L").tobytes()
    return tiff(tiff_tags(96, 64, data), data, endian=">")


def _frames() -> list[Image.Image]:
    return [photo().rotate(angle) for angle in (10, 20, 30)]


_GOOD: dict[str, tuple[str, Content]] = {
    "good-ordinary": ("photo.jpg", lambda: encoded("JPEG", quality=90)),
    "good-16-bit": ("deep.png", lambda: saved(_deep(), "PNG")),
    "good-16-bit-tiff": ("deep.tif", lambda: saved(_deep(), "TIFF")),
    "good-float-tiff": ("float.tif", lambda: saved(photo("F"), "TIFF")),
    "good-cmyk": ("cmyk.jpg", lambda: encoded("JPEG", "CMYK")),
    "good-palette": ("p.png", lambda: saved(photo("P"), "PNG", transparency=0)),
    "good-one-bit": ("b.png", lambda: encoded("PNG", "1")),
    "good-grey-alpha": ("la.png", lambda: encoded("PNG", "LA")),
    "good-rgba": ("a.PNG", lambda: encoded("PNG", "RGBA")),
    "good-turned": ("t.jpg", lambda: encoded("JPEG", exif=_rotated_exif(6))),
    "good-orientation-99": ("t.jpg", lambda: encoded("JPEG", exif=_rotated_exif(99))),
    "good-broken-exif": ("x.jpg", lambda: encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "good-webp-broken-exif": ("x.webp", lambda: webp_with_exif(b"Exif\0\0II*\0\xff\xff\xff")),
    "good-webp-rubbish-exif": ("x.webp", lambda: webp_with_exif(b"\xff\xd8no exif at all")),
    "good-icc-rubbish": ("i.png", lambda: encoded("PNG", icc_profile=b"no profile")),
    "good-icc": (
        "i.jpg",
        lambda: encoded(
            "JPEG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
    ),
    "good-1-by-1": ("one.png", lambda: saved(Image.new("RGB", (1, 1), "red"), "PNG")),
    "good-long": ("long.png", lambda: saved(photo("RGB", 640, 16), "PNG")),
    "good-gif": ("g.gif", lambda: encoded("GIF", save_all=True, append_images=_frames())),
    "good-animated-webp": (
        "w.webp",
        lambda: encoded("WEBP", save_all=True, append_images=_frames()),
    ),
    "good-apng": ("a.png", lambda: encoded("PNG", save_all=True, append_images=_frames())),
    "good-mpo": ("m.jpg", lambda: encoded("MPO", save_all=True, append_images=_frames())),
    "good-pages-tiff": ("p.tif", lambda: encoded("TIFF", save_all=True, append_images=_frames())),
    "good-big-endian": ("be.tif", _big_endian_tiff),
    "good-lzw-tiff": ("l.tiff", lambda: encoded("TIFF", compression="tiff_lzw")),
    "good-bmp": ("b.bmp", lambda: encoded("BMP")),
    "good-top-down-bmp": ("b.bmp", lambda: bmp(16, -16, 24, 0, bytes(range(48)) * 16)),
    "good-avif": ("a.avif", lambda: encoded("AVIF")),
    "good-uppercase": ("PHOTO.JPG", lambda: encoded("JPEG")),
    "good-wrong-suffix": ("really-a-png.jpg", lambda: encoded("PNG")),
    "good-no-suffix": ("picture", lambda: encoded("JPEG")),
    "good-progressive": ("p.jpg", lambda: encoded("JPEG", progressive=True)),
    "good-trailing": ("t.jpg", lambda: encoded("JPEG") + b"more" * 1000),
    "good-1200-px": ("large.jpg", lambda: saved(photo("RGB", 1200, 900), "JPEG")),
    "good-deflated-text": (
        "z.png",
        lambda: small_png(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"hello"))),
    ),
}
