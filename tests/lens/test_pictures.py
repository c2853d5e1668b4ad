"""Every kind of picture, and every way that one can be wrong."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sima_core.lens.pictures import ImageError, input_size, load_image, preprocess


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (16, 1))  # 16 × 64, dark to bright


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1", "LA", "PA", "RGBA"])
def test_modes_with_opaque_pixels_keep_their_colours(mode):
    original = Image.fromarray(RAMP).convert(mode)
    content = encoded(original, "PNG") if mode != "PA" else encoded(original, "TIFF")
    loaded = load_image(content)
    assert loaded.mode == "RGB"
    np.testing.assert_allclose(np.asarray(loaded), np.asarray(original.convert("RGB")), atol=1)


def test_cmyk():
    original = Image.fromarray(RAMP).convert("RGB")
    loaded = load_image(encoded(original.convert("CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(np.asarray(loaded), np.asarray(original), atol=12)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_is_scaled_not_clipped(kind):
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    loaded = np.asarray(load_image(encoded(deep, kind)))
    np.testing.assert_array_equal(loaded[..., 0], RAMP)


def test_infinities_leave_the_other_pixels_alone():
    values = RAMP / np.float32(255)
    clean = np.asarray(load_image(encoded(Image.fromarray(values), "TIFF")))
    values[0, 0], values[0, 1], values[1, 0] = np.inf, -np.inf, np.nan
    loaded = np.asarray(load_image(encoded(Image.fromarray(values), "TIFF")))
    assert np.array_equal(loaded[2:], clean[2:])
    assert loaded[0, 0].tolist() == [loaded.max()] * 3
    assert loaded[0, 1].tolist() == loaded[1, 0].tolist() == [loaded.min()] * 3


def test_what_the_system_says_of_a_file_is_said(tmp_path):
    with pytest.raises(ImageError, match=r"cannot be read \(File name too long\)"):
        load_image(tmp_path / ("x" * 300))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "file" / "x.png")


def test_floating_point_pictures_are_scaled():
    loaded = np.asarray(load_image(encoded(Image.fromarray(RAMP / np.float32(255)), "TIFF")))
    np.testing.assert_array_equal(loaded[..., 1], RAMP)


def test_alpha_is_laid_over_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 128, 255
    loaded = np.asarray(load_image(encoded(Image.fromarray(pixels, "RGBA"))))
    assert loaded[0, :, 0].tolist() == [255, 127, 0]


def test_palette_with_a_transparent_entry():
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    loaded = np.asarray(load_image(encoded(palette, transparency=0)))
    assert loaded.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_exif_orientation_is_applied(photo):
    exif = Image.Exif()
    exif[274] = 6  # turn a quarter clockwise to see it upright
    loaded = load_image(encoded(photo, "JPEG", exif=exif, quality=95))
    assert loaded.size == (photo.height, photo.width)
    turned = photo.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_allclose(
        np.asarray(loaded).mean((0, 1)), np.asarray(turned).mean((0, 1)), atol=2
    )
    assert np.corrcoef(np.asarray(loaded).ravel(), np.asarray(turned).ravel())[0, 1] > 0.98


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime")]
    loaded = load_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert loaded.getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (304, 224)),  # 298.7 → 19 patches
        ((480, 640), (224, 304)),
        ((1, 1), (224, 224)),
        ((2000, 100), (4480, 224)),  # 20:1
        ((100, 100), (224, 224)),
    ],
)
def test_input_size(size, expected):
    assert input_size(*size, resolution=224, patch_size=16) == expected


def test_input_size_takes_the_nearest_multiples():
    assert input_size(100, 100, resolution=230, patch_size=16) == (224, 224)
    assert input_size(100, 100, resolution=233, patch_size=16) == (240, 240)
    assert input_size(640, 480, resolution=224, patch_size=8) == (296, 224)


def test_impossible_sizes_are_explained():
    with pytest.raises(ImageError, match="elongated"):
        input_size(60_000, 10, 224, 16)
    with pytest.raises(ValueError, match="at least one patch"):
        input_size(10, 10, 8, 16)


def test_preprocess_normalises_the_whole_picture():
    tensor = preprocess(Image.new("RGB", (300, 200), (255, 0, 128)), 64)
    assert tensor.shape == (1, 3, 64, 96)
    expected = (
        torch.tensor([1, 0, 128 / 255]) - torch.tensor([0.485, 0.456, 0.406])
    ) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(tensor[0, :, 5, 7], expected)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_decompression_bomb(side):
    with pytest.raises(ImageError, match=r"Make it smaller"):
        load_image(png_that_claims(side, side))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am text", "not a picture"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 50, "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    ],
)
def test_what_is_no_picture(content, reason, tmp_path):
    path = tmp_path / "disguised.png"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(ImageError, match=reason):
            load_image(source)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_truncated_files(photo, kind):
    content = encoded(photo, kind)
    with pytest.raises(ImageError, match=r"ends too early|broken|not a picture"):
        load_image(content[: len(content) // 2])


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="folder"):
        load_image(tmp_path)


def test_a_picture_of_just_as_many_pixels_as_may_be_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("sima_core.lens.pictures.MAX_IMAGE_PIXELS", 20_000)
    monkeypatch.setattr("sima_core.lens.decoding._SMALL_BYTES", 0)  # not in this process
    for name, size in (("most.png", (200, 100)), ("more.png", (201, 100))):
        Image.new("RGB", size).save(tmp_path / name)
    assert load_image(tmp_path / "most.png").size == (200, 100)
    with pytest.raises(ImageError, match="201 × 100"):
        load_image(tmp_path / "more.png")
