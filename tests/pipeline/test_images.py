"""Decoding and encoding images of every kind, intact and damaged."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from pipeline.io.images import (
    MAX_PIXELS,
    AnimatedImage,
    CorruptImage,
    DecompressionBomb,
    EmptyImage,
    ImageError,
    encode,
    prepare,
)
from tests.pictures import file, picture


def square(data: bytes, size: int = 16) -> np.ndarray[Any, Any]:
    image = prepare(data, size, "center").image
    assert (image.mode, image.size) == ("RGB", (size, size))
    return np.asarray(image)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return an RGB PNG whose header may be false."""
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")]:
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data


def test_an_image_of_the_right_size_keeps_every_pixel() -> None:
    image = picture(16, 16)
    assert (square(file(image, "PNG")) == np.asarray(image)).all()


def test_the_centre_is_cropped_before_resizing() -> None:
    assert (square(file(picture(24, 16), "PNG")) == np.asarray(picture(24, 16))[:, 4:20]).all()
    assert (square(file(picture(16, 25), "PNG")) == np.asarray(picture(16, 25))[4:20]).all()
    expected = picture(40, 32).crop((4, 0, 36, 32)).resize((16, 16), Image.Resampling.LANCZOS)
    assert (square(file(picture(40, 32), "PNG")) == np.asarray(expected)).all()
    assert square(file(picture(1, 1), "PNG")).shape == (16, 16, 3)


@pytest.mark.parametrize("format", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    data = file(picture(32, 20), format, exif=exif, **options)
    prepared = prepare(data, 16, "center")
    assert (prepared.width, prepared.height) == ((32, 20) if orientation < 5 else (20, 32))
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    box = (6, 0, 26, 20) if orientation < 5 else (0, 6, 20, 26)
    assert (np.asarray(prepared.image) == upright.crop(box).resize((16, 16), Image.Resampling.LANCZOS)).all()


EXIF_MARK = b"Exif\0\0"


def with_exif(format: str, exif: bytes) -> bytes:
    """Return an image file with any bytes as its EXIF block. The density of the JPEG makes Pillow read it late."""
    if format != "JPEG":
        return file(picture(16, 16), format, exif=exif)
    data = file(picture(16, 16), "JPEG", dpi=(72, 72))
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@settings(max_examples=60)
@given(
    exif=st.one_of(
        st.binary(max_size=64).map(lambda data: EXIF_MARK + data),
        st.binary(min_size=1, max_size=64).map(lambda data: EXIF_MARK + EXIF_MARK + data),
        st.binary(max_size=24).map(lambda data: EXIF_MARK + b"II*\0\x08\0\0\0\x09\0\x12\x01\x03\0" + data),
        st.just(b"b'Exif\\x00\\x00MM\\x00*'"),  # some web UIs wrote the repr of Python bytes
    )
)
@pytest.mark.filterwarnings("ignore:.*EXIF")
def test_an_unreadable_exif_block_does_not_reject_an_image(format: str, exif: bytes) -> None:
    prepared = prepare(with_exif(format, exif), 16, "center")
    assert (prepared.width, prepared.height) == (16, 16)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_colour_profile_is_not_applied(format: str) -> None:
    """docs/specs.md promises the pixels of the file. This profile would exchange red and green."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = srgb.replace(b"rXYZ", b"----", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"----", b"gXYZ", 1)
    red = Image.new("RGB", (16, 16), (200, 20, 20))
    profiles = [ImageCms.ImageCmsProfile(io.BytesIO(data)) for data in (tags, srgb)]
    applied = ImageCms.profileToProfile(red, *profiles, outputMode="RGB")
    assert applied is not None
    assert np.abs(np.subtract(applied.getpixel((5, 5)), (20, 200, 20))).max() < 20
    assert (square(file(red, format, icc_profile=tags)) == square(file(red, format))).all()


def test_cmyk_without_ink_is_white() -> None:
    """The file has Photoshop's marker, or lacks it."""
    data = file(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")
    marker = data.index(b"\xff\xee")
    length = int.from_bytes(data[marker + 2 : marker + 4], "big")
    assert data[marker + 4 : marker + 9] == b"Adobe"
    for jpeg in (data, data[:marker] + data[marker + 2 + length :]):
        assert (square(jpeg) == 255).all()


def test_transparency_is_composited_on_white() -> None:
    rgba = picture(16, 16).convert("RGBA")
    alpha = np.zeros((16, 16), np.uint8)
    alpha[8:] = 255
    alpha[0] = 128
    rgba.putalpha(Image.fromarray(alpha))
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.paste(0, (0, 0, 16, 8))
    for data in (file(rgba, "PNG"), file(rgba, "WEBP", lossless=True, exact=True), file(rgba.convert("LA"), "PNG")):
        result = square(data)
        assert (result[1:8] == 255).all()
        assert (result[0] >= 127).all()
    assert (square(file(rgba, "PNG"))[8:] == np.asarray(picture(16, 16))[8:]).all()
    result = square(file(palette, "PNG", transparency=0))
    assert (result[:8] == 255).all()
    assert (result[8:] == (40, 50, 60)).all()
    assert (square(file(palette, "GIF", transparency=0)) == result).all()
    half = square(file(palette, "PNG", transparency=bytes([127, 255])))
    assert abs(int(half[0, 0, 0]) - (10 * 127 + 255 * 128) // 255) <= 1
    keyed = file(Image.new("RGB", (16, 16), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert (square(keyed) == 255).all()


def test_pa_is_composited_on_white() -> None:
    from pipeline.io.images import _rgb

    image = Image.new("RGBA", (2, 2), (9, 9, 9, 0)).convert("PA")
    assert image.mode == "PA"
    assert (np.asarray(_rgb(image)) == 255).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = picture(16, 16).convert(mode)
    data = file(image, "TIFF")
    assert (square(data) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(format: str) -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    result = square(file(Image.fromarray(levels), format))
    assert (result[..., 0].ravel() == np.arange(256)).all()
    assert (result[..., 0] == result[..., 2]).all()


def test_16_bit_grey_with_a_transparent_level() -> None:
    levels = np.zeros((16, 16), np.uint16)
    levels[8:] = 5000
    result = square(file(Image.fromarray(levels), "PNG", transparency=5000))
    assert (result[8:] == 255).all()
    assert (result[:8] == 0).all()


def test_32_bit_grey_is_an_error() -> None:
    for kind in (np.int32, np.float32):
        with pytest.raises(CorruptImage, match="32-bit"):
            prepare(file(Image.fromarray(np.ones((4, 4), kind)), "TIFF"), 4, "center")


def test_several_frames_or_pages_are_an_error_and_a_single_frame_is_not() -> None:
    frames = [picture(16, 16).transpose(Image.Transpose.ROTATE_90), picture(16, 16)]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        with pytest.raises(AnimatedImage, match=format):
            prepare(file(picture(16, 16), format, save_all=True, append_images=frames), 16, "center")
        assert square(file(picture(16, 16), format)).shape == (16, 16, 3)


def test_a_jpeg_with_previews_gives_its_first_frame() -> None:
    data = file(picture(16, 16), "MPO", save_all=True, append_images=[picture(8, 8)])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    assert np.abs(square(data).astype(int) - square(file(picture(16, 16), "JPEG"))).max() < 8


def test_an_empty_file_is_an_error() -> None:
    with pytest.raises(EmptyImage):
        prepare(b"", 16, "center")


@pytest.mark.parametrize("strict", [False, True])
def test_too_many_pixels_are_an_error_before_decoding(strict: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore", Image.DecompressionBombWarning)
        for width, height in [(10_001, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)]:
            assert width * height > MAX_PIXELS
            with pytest.raises(DecompressionBomb):  # decoding would raise CorruptImage, because there is no image data
                prepare(png(width, height), 16, "center")
    with pytest.raises(CorruptImage):
        prepare(png(9_000, 9_000), 16, "center")


def test_too_much_text_is_an_error() -> None:
    bomb = zlib.compress(bytes(1 << 26))
    pixels = (b"IDAT", zlib.compress(bytes(13)))
    for chunk in [(b"zTXt", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb)]:
        assert square(png(4, 1, pixels)).shape == (16, 16, 3)
        with pytest.raises(DecompressionBomb):
            prepare(png(4, 1, chunk, pixels), 16, "center")
    small = (b"zTXt", b"a\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK - 10)))
    with pytest.raises(DecompressionBomb):
        prepare(png(4, 1, *[small] * 70, pixels), 16, "center")


def test_the_message_for_a_file_that_is_not_an_image_is_deterministic() -> None:
    for data in (b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", bytes(1000)):
        messages = set()
        for _ in range(2):
            with pytest.raises(CorruptImage) as error:
                prepare(data, 16, "center")
            messages.add(str(error.value))
        assert len(messages) == 1
        assert "0x" not in messages.pop()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_is_cut_anywhere_is_an_error(progressive: bool) -> None:
    data = file(picture(64, 48), "JPEG", progressive=progressive)
    for end in range(1, len(data) - 2):  # without the last two bytes, the end marker, all pixels are complete
        with pytest.raises(CorruptImage):
            prepare(data[:end], 16, "center")


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_an_image_that_is_cut_in_its_pixels_is_an_error(format: str) -> None:
    data = file(picture(64, 48), format)
    for end in range(1, int(len(data) * 0.9), 7):
        with pytest.raises(CorruptImage):
            prepare(data[:end], 16, "center")


EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x010F] = "maker"
SEEDS = [
    *(file(picture(), format) for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")),
    file(picture(), "JPEG", exif=EXIF, progressive=True, icc_profile=b"not a profile"),
    file(picture(), "MPO", save_all=True, append_images=[picture(8, 8)]),
    file(picture(), "TIFF", compression="tiff_lzw", exif=EXIF),
    file(picture().convert("P"), "PNG", transparency=bytes([1, 2, 3]), exif=EXIF),
    file(picture(), "GIF", save_all=True, append_images=[picture(9, 9)]),
]


@settings(max_examples=600)
@given(data=st.data())
def test_damaged_files_raise_only_image_errors(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        # Most errors of parsers are in headers.
        offset = data.draw(st.integers(0, min(len(damaged), 200) - 1) | st.integers(0, len(damaged) - 1))
        damaged[offset] = data.draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
    del damaged[data.draw(st.just(len(damaged)) | st.integers(1, len(damaged))) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            prepared = prepare(bytes(damaged), 8, "center")
        except (CorruptImage, EmptyImage, DecompressionBomb, AnimatedImage):
            return
    assert (prepared.image.mode, prepared.image.size) == ("RGB", (8, 8))


@settings(max_examples=100)
@given(start=st.sampled_from([seed[:12] for seed in SEEDS]), rest=st.binary(max_size=300))
def test_random_bytes_raise_only_image_errors(start: bytes, rest: bytes) -> None:
    with pytest.raises(ImageError):
        prepare(start + rest, 8, "center")


def test_an_unknown_crop_is_an_error() -> None:
    with pytest.raises(ValueError, match="'middle'") as error:
        prepare(file(picture(), "PNG"), 16, "middle")
    assert not isinstance(error.value, ImageError)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_encoding_is_deterministic_and_without_metadata(format: Literal["png", "jpeg", "webp"]) -> None:
    plain = picture(32, 32).convert("L").convert("RGB")
    laden = plain.copy()
    laden.info.update(icc_profile=b"profile", exif=EXIF.tobytes(), dpi=(300, 300), comment=b"hello")
    data = encode(plain, format)
    assert hashlib.sha256(data).digest() == hashlib.sha256(encode(laden, format)).digest()
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format.upper()
        difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - np.asarray(plain))
    assert difference.max() == 0 if format == "png" else difference.mean() < 12


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_a_lower_quality_is_smaller_and_the_default_is_95(format: Literal["jpeg", "webp"]) -> None:
    image = picture(64, 64)
    sizes = [len(encode(image, format, quality)) for quality in (1, 50, 95, 100)]
    assert sizes == sorted(set(sizes))
    assert encode(image, format) == encode(image, format, 95)
