"""Decode image files to RGB squares, with an error for broken, huge or animated ones, and encode images."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Resampling, Transpose

MAX_PIXELS = 100_000_000
# Other formats are not tried, because Pillow would run Ghostscript on an EPS.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}
"""The file extension of each format that `encode` writes."""

FILTERS = {"lanczos": Resampling.LANCZOS, "bicubic": Resampling.BICUBIC}

_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_QUALITY = 95
_ENCODING: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 6},
    "jpeg": {"subsampling": 0},
    "webp": {"method": 4},
}


class ImageError(ValueError):
    """An image file cannot be used. The name of the subclass is the error of the reject."""


class CorruptImage(ImageError):
    """The file is not an image, is damaged or cut, or has no defined conversion to RGB."""


class EmptyImage(ImageError):
    """The file has no bytes, or the image no pixels."""


class DecompressionBomb(ImageError):
    """The image has more pixels, or more text, than the limit."""


class AnimatedImage(ImageError):
    """The image has more than one frame or page."""


@dataclass(frozen=True)
class Prepared:
    """An RGB square, and the size in pixels of the upright source."""

    image: Image.Image
    width: int
    height: int


def prepare(data: bytes, size: int, crop: str, resize: str = "lanczos") -> Prepared:
    """Decode an image file to an upright RGB square of `size` x `size` pixels, with transparency over white.

    `crop` is "center", the centred square. `resize` is the filter, lanczos or bicubic. An RGB image that has this size
    already keeps every pixel.

    Raises:
        EmptyImage: The file has no bytes, or the image no pixels.
        DecompressionBomb: The image has too many pixels. The header shows this, before decoding.
        AnimatedImage: The image has several frames.
        CorruptImage: The file cannot be decoded.
        ValueError: The crop or the filter is unknown.
    """
    if crop != "center":
        raise ValueError(f"crop {crop!r} is unknown; use 'center'")
    if resize not in FILTERS:
        raise ValueError(f"resize {resize!r} is unknown; use {' or '.join(FILTERS)}")
    image = _decode(data)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), FILTERS[resize])
    return Prepared(square, image.width, image.height)


def encode(image: Image.Image, format: Literal["png", "jpeg", "webp"], quality: int | None = None) -> bytes:
    """Return an image file of an RGB image, without metadata. The same pixels give the same bytes.

    `quality` is that of JPEG and WebP, from 1 to 100; None is 95. JPEG has no chroma subsampling.
    """
    # A new image, because Pillow would write an ICC profile that is in image.info.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    buffer = io.BytesIO()
    lossy = {} if format == "png" else {"quality": quality or _QUALITY}
    bare.save(buffer, format, **_ENCODING[format], **lossy)
    return buffer.getvalue()


def _decode(data: bytes) -> Image.Image:
    """Return an image file as an upright RGB image."""
    if not data:
        raise EmptyImage("the image has 0 bytes; replace it")
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width < 1 or image.height < 1:
                raise EmptyImage(f"the image has {image.width} x {image.height} pixels; replace it")
            if image.width * image.height > MAX_PIXELS:
                raise DecompressionBomb(
                    f"the image has {image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}: make it smaller"
                )
            # An MPO is a JPEG of a phone with previews after it: its first frame is the image.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise AnimatedImage(f"the {image.format} has more than one frame; keep one")
            if image.format == "PNG":
                _check_png(data)
            image.load()
            turn = _TO_UPRIGHT.get(_orientation(image))
            return _rgb(image if turn is None else image.transpose(turn))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        # Pillow's own message has an address in memory, which differs from run to run.
        raise CorruptImage(f"the file is not a readable image; use one of {', '.join(IMAGE_FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecompressionBomb(str(error)) from error
    except Exception as error:
        # On hostile bytes, Pillow's parsers raise nearly every builtin exception, even MemoryError.
        kind = DecompressionBomb if "MAX_TEXT_" in str(error) else CorruptImage
        raise kind(f"{type(error).__name__}: {error}") from error


def _orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation of an image; 1, which is upright, if the EXIF block cannot be read."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's parser can raise any exception here, but the pixels are intact.
        return 1


def _check_png(data: bytes) -> None:
    """Verify the checksums of a PNG. Decoding ignores those of pixels, and would return damaged pixels."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, with transparency over white."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips all values above 255.
        grey = np.asarray(image).astype(np.uint32)
        levels = ((grey + 128) // 257).astype(np.uint8)
        levels[grey == image.info.get("transparency", -1)] = 255
        return Image.fromarray(levels).convert("RGB")
    if image.mode in ("I", "F"):
        raise CorruptImage(f"32-bit grey ({image.mode}) has no defined white; convert the image to 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
