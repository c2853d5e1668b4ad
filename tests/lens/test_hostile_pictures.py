"""Pictures that shall cost much or stop something: a sentence, soon, and nobody else waits."""

import io
import itertools
import os
import struct
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from sima_core.lens import decoding, pictures
from sima_core.lens.pictures import ImageError, load_image
from tests.lens.test_pictures import encoded


def segments(jpeg: bytes) -> list[bytes]:
    """A JPEG's markers, each with what belongs to it; scans with their data."""
    starts = [0]
    at = 2
    while at < len(jpeg) - 2:
        starts.append(at)
        is_scan = jpeg[at + 1] == 0xDA
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        while is_scan and not (jpeg[at] == 0xFF and jpeg[at + 1] not in (0, *range(0xD0, 0xD8))):
            at += 1
    starts += [at, len(jpeg)]
    return [jpeg[a:b] for a, b in itertools.pairwise(starts)]


def many_scans(side: int, count: int) -> bytes:
    """A progressive JPEG of one colour, whose last scan comes again and again."""
    parts = segments(encoded(Image.new("RGB", (side, side)), "JPEG", progressive=True))
    last = max(i for i, part in enumerate(parts) if part[:2] == b"\xff\xda")
    return b"".join([*parts[:last], *[parts[last]] * count, *parts[last + 1 :]])


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that a test can wait for."""
    pictures.warm()
    monkeypatch.setattr(pictures, "LIMITS", replace(pictures.LIMITS, seconds=2))


@pytest.mark.usefixtures("soon")
def test_a_picture_that_decodes_for_ever_is_given_up_while_others_are_read(photo_file) -> None:
    endless: list[str] = []

    def read() -> None:
        with pytest.raises(ImageError) as caught:
            load_image(many_scans(2000, 40_000))
        endless.append(str(caught.value))

    load_image(photo_file)
    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.3)
    load_image(photo_file)
    assert thread.is_alive(), "the ordinary picture waited for the endless one"
    thread.join(60)
    assert endless == [
        "The picture takes too long to decode: save it again as a plain JPEG or PNG."
    ]


def test_a_picture_that_wants_too_much_memory_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(pictures, "LIMITS", replace(pictures.LIMITS, memory_bytes=2**25))
    with pytest.raises(ImageError, match="too much memory"):
        load_image(encoded(Image.new("RGB", (4000, 4000))))


def test_a_jpeg_that_lies_about_its_size(photo) -> None:
    lying = [
        part[:5] + struct.pack(">HH", 65_500, 65_500) + part[9:] if part[1] == 0xC0 else part
        for part in segments(encoded(photo, "JPEG"))
    ]
    with pytest.raises(ImageError, match=r"65500 × 65500 pixels.*Make it smaller"):
        load_image(b"".join(lying))


def riff(kind: bytes, content: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize(
    "header",
    [
        riff(b"VP8X", b"\0" * 4 + (16_000).to_bytes(3, "little") * 2),
        riff(b"VP8L", b"\x2f" + (16_000 | 16_000 << 14).to_bytes(4, "little") + b"\0" * 9),
        riff(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_000, 16_000) + b"\0" * 9),
    ],
)
def test_a_webp_is_refused_by_its_header(header) -> None:
    with pytest.raises(ImageError, match=r"1600\d × 1600\d pixels; at most 50 million are read"):
        load_image(header)


@pytest.mark.parametrize("size", [(37, 21), (1, 1), (300, 7)])
@pytest.mark.parametrize("kind", ["VP8 ", "VP8L", "VP8X"])
def test_a_webp_tells_its_size_in_its_header(size, kind) -> None:
    image = Image.new("RGBA" if kind == "VP8X" else "RGB", size, "#12345678"[:9])
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" if kind == "VP8X" else b""
    content = encoded(image, "WEBP", lossless=kind == "VP8L", exif=exif)
    assert content[12:16] == kind.encode()
    assert decoding._webp_size(io.BytesIO(content)) == size


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "JPEG2000", "EPS", "PDF"])
def test_formats_that_nobody_uploads_are_not_read(photo, kind) -> None:
    with pytest.raises(ImageError, match=r"JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF"):
        load_image(encoded(photo, kind))


@pytest.mark.parametrize("kind", sorted(decoding.FORMATS))
def test_the_name_of_a_file_says_nothing(photo, tmp_path, kind) -> None:
    path = tmp_path / "photo.txt"
    path.write_bytes(encoded(photo, kind))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(np.asarray(load_image(path)), opened.convert("RGB"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_only_files_are_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, said in ((tmp_path / "pipe.png", "a named pipe"), (Path("/dev/ptmx"), "a device")):
        with pytest.raises(ImageError, match=f"This is {said}, not a file"):
            load_image(path)


def test_a_file_that_is_too_large_for_a_picture(tmp_path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(pictures.MAX_FILE_BYTES + 1)  # takes no room on the disk
    with pytest.raises(ImageError, match="more than 512 MB"):
        load_image(tmp_path / "large.png")


def chunk(name: bytes, content: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(name + content) if crc is None else crc
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


BROKEN_EXIF = (b"Exif\0\0broken from here on", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 60)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # by pytest, which undoes our own filter
@pytest.mark.parametrize("exif", BROKEN_EXIF, ids=["no header", "no tags"])
@pytest.mark.parametrize("kind", ["WEBP", "JPEG", "PNG", "TIFF", "AVIF"])
def test_metadata_that_cannot_be_read_is_ignored_in_silence(photo, kind, exif, capfd) -> None:
    content = encoded(photo, kind)
    if kind == "TIFF":  # its own tags are its EXIF: the offset of one that belongs to it is wrong
        with_exif = encoded(photo, kind, tiffinfo={0x8769: {0x9003: "2026:01:01 00:00:00"}})
        at = with_exif.index(struct.pack("<H", 0x8769)) + 8
        where = 0xFFFFFFF0 if exif == BROKEN_EXIF[0] else 3
        with_exif = with_exif[:at] + struct.pack("<I", where) + with_exif[at + 4 :]
    elif kind == "AVIF":  # whose EXIF must at least begin well
        exif, good = BROKEN_EXIF[1], b"Exif\0\0MM\0*\0\0\0\x08" + b"\0\0" + b"x" * 60
        with_exif = encoded(photo, kind, exif=good).replace(good[6:], exif[6:].ljust(70)[:70])
    else:
        with_exif = encoded(photo, kind, exif=exif)
    assert with_exif != content
    np.testing.assert_array_equal(load_image(with_exif), load_image(content))
    np.testing.assert_array_equal(load_image(with_exif, small_here=True), load_image(content))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "broken",
    [
        chunk(b"tEXt", b"Comment\0hello", crc=7),
        chunk(b"zTXt", b"Comment\0\x09hello"),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 10**7)),
        chunk(b"iCCP", b"icc\0\x07hello"),
        chunk(b"pHYs", b"\0"),
        chunk(b"eXIf", b"broken"),
    ],
)
def test_broken_chunks_of_a_png_that_change_no_pixel_are_passed_over(photo, broken) -> None:
    content = encoded(photo)
    start = content.index(b"IDAT") - 4
    np.testing.assert_array_equal(load_image(content[:start] + broken + content[start:]), photo)
    with pytest.raises(ImageError, match=r"broken|not a picture"):  # this one changes pixels
        load_image(content[:start] + chunk(b"PLTE", b"abc", crc=7) + content[start:])


def test_a_phones_jpeg_with_several_pictures_gives_the_first(photo) -> None:
    other = ImageOps.mirror(photo)
    several = encoded(photo, "MPO", save_all=True, append_images=[other])
    with Image.open(io.BytesIO(several)) as opened:
        np.testing.assert_array_equal(load_image(several), opened.convert("RGB"))
    index = struct.pack("<HHII", 0xB001, 4, 1, 2)
    assert index in several
    broken = several.replace(index, struct.pack("<HHII", 0xB001, 4, 1, 3))
    np.testing.assert_array_equal(load_image(broken), load_image(several))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "RGB"), ("TIFF", "I;16"),
     ("TIFF", "RGB"), ("WEBP", "RGB"), ("AVIF", "RGB")],
)  # fmt: skip
def test_every_orientation_is_turned_upright_over_bands(orientation, kind, mode, monkeypatch):
    pixels = np.random.default_rng(3).integers(0, 255, (50, 33, 4), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels, "RGBA").convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    content = encoded(image, kind, exif=exif)
    monkeypatch.setattr(decoding, "_BAND", 33 * 7)
    found = decoding.decode_small(content, upright=True)
    with Image.open(io.BytesIO(content), formats=[kind]) as opened:
        turned = ImageOps.exif_transpose(opened)
        if mode == "I;16":
            turned = Image.fromarray((np.asarray(turned) // 257).astype(np.uint8))
        elif mode == "RGBA":
            white = Image.new("RGBA", turned.size, "white")
            turned = Image.alpha_composite(white, turned)
        expected = np.asarray(turned.convert("RGB"))
    if kind in decoding._SMALL_FORMATS:
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(load_image(content), expected)


def test_orientation_behind_a_pngs_pixels_counts(photo) -> None:
    exif = Image.Exif()
    exif[274] = 6
    content = encoded(photo)
    behind = chunk(b"eXIf", exif.tobytes()[6:])
    content = content[:-12] + behind + content[-12:]
    assert load_image(content).size == photo.size[::-1]
    assert load_image(content, upright=False).size == photo.size


@pytest.mark.parametrize("high", [0.5, 1e9])
def test_floating_point_values_are_scaled_by_the_whole_pictures_range(high) -> None:
    values = np.linspace(0, high, 600 * 500, dtype=np.float32).reshape(600, 500)
    expected = np.rint(values.astype(np.float64) * (255 / (1.0 if high < 1 else high)))
    loaded = np.asarray(load_image(encoded(Image.fromarray(values), "TIFF")))
    np.testing.assert_array_equal(loaded[..., 2], expected)


def test_what_is_decoded_here_is_plainly_small_and_the_same(photo, monkeypatch) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        content = encoded(photo, kind)
        np.testing.assert_array_equal(decoding.decode_small(content, True), load_image(content))
    for costly in (
        encoded(Image.new("L", (1025, 1024))),
        encoded(photo, "GIF"),
        many_scans(64, 100),
        encoded(photo) + b"x" * 2**19,
        encoded(photo)[:500],
    ):
        assert decoding.decode_small(costly, True) is None


def test_a_loaded_picture_is_like_any_other_and_leaves_nothing_open(photo_file, photo) -> None:
    loaded = load_image(photo_file)
    ImageDraw.Draw(loaded).rectangle((0, 0, 9, 9), "red")
    assert loaded.getpixel((5, 5)) == (255, 0, 0)
    with photo_file.open("rb") as file:
        np.testing.assert_array_equal(load_image(file), photo)
    np.testing.assert_array_equal(load_image(io.BytesIO(photo_file.read_bytes())), photo)
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(5):
        load_image(photo_file).copy()
        with pytest.raises(ImageError):
            load_image(b"nothing")
    assert len(list(Path("/dev/fd").iterdir())) <= before
