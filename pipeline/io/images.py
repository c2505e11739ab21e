"""Image files in and out: any file that Pillow reads to an RGB square, refusing what is broken, huge or animated."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Resampling, Transpose

MAX_PIXELS = 100_000_000
# Only these are tried: Pillow would run Ghostscript on an EPS.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}
"""Of the formats that `encode` writes."""

FILTERS = {"lanczos": Resampling.LANCZOS, "bicubic": Resampling.BICUBIC}

_ORIENTATION = 0x0112
_UPRIGHT = {
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
    """An image file that cannot be used. The subclass is the reject's error class."""


class CorruptImage(ImageError):
    """Not an image, damaged, cut short, or of a kind without a defined way to RGB."""


class EmptyImage(ImageError):
    """No bytes, or no pixels."""


class DecompressionBomb(ImageError):
    """More pixels, or more text, than any honest image has."""


class AnimatedImage(ImageError):
    """More than one frame or page."""


@dataclass(frozen=True)
class Prepared:
    """An RGB square, and the size in pixels that the file had once upright."""

    image: Image.Image
    width: int
    height: int


def prepare(data: bytes, size: int, crop: str, resize: str = "lanczos") -> Prepared:
    """Decode an image file, turn it upright, put it on white, crop it and resize it to RGB, `size` x `size`.

    `crop` is "center": the centred square; `resize` the filter, lanczos or bicubic. An image that is RGB and of that
    size already keeps every pixel.

    Raises:
        ImageError: EmptyImage, CorruptImage, DecompressionBomb (told from the header, before decoding) or
            AnimatedImage.
        ValueError: an unknown crop or filter.
    """
    if crop != "center":
        raise ValueError(f"crop {crop!r}: is not known; use 'center'")
    if resize not in FILTERS:
        raise ValueError(f"resize {resize!r}: is not known; use {' or '.join(FILTERS)}")
    image = _decode(data)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), FILTERS[resize])
    return Prepared(square, image.width, image.height)


def encode(image: Image.Image, format: Literal["png", "jpeg", "webp"], quality: int | None = None) -> bytes:
    """An image file of an RGB image, without metadata: the same pixels give the same bytes.

    JPEG and WebP are written at a quality from 1 to 100, 95 where none is given; JPEG without chroma subsampling.
    """
    # Pillow would write an ICC profile that lies about in image.info.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    buffer = io.BytesIO()
    lossy = {} if format == "png" else {"quality": quality or _QUALITY}
    bare.save(buffer, format, **_ENCODING[format], **lossy)
    return buffer.getvalue()


def _decode(data: bytes) -> Image.Image:
    """An image file as upright RGB."""
    if not data:
        raise EmptyImage("the image has 0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width < 1 or image.height < 1:
                raise EmptyImage(f"the image is {image.width} x {image.height} pixels")
            if image.width * image.height > MAX_PIXELS:
                raise DecompressionBomb(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are decoded")
            # An MPO is a JPEG with previews behind it, as phones write them: its first frame is the picture.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise AnimatedImage(f"the {image.format} has more than one frame; keep one")
            if image.format == "PNG":
                _check(data)
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            return _rgb(image if turn is None else image.transpose(turn))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        # Its own message holds an address in memory, which would differ from run to run.
        raise CorruptImage(f"not an image that can be read; known are {', '.join(IMAGE_FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecompressionBomb(str(error)) from error
    except Exception as error:
        # Pillow's parsers let out nearly every builtin exception, MemoryError too, on hostile bytes.
        kind = DecompressionBomb if "MAX_TEXT_" in str(error) else CorruptImage
        raise kind(f"{type(error).__name__}: {error}") from error


def _orientation(image: Image.Image) -> Any:
    """Return the orientation that the EXIF block of an image has; 1, which is upright, if the block cannot be read."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's parser can raise any exception here, and the pixels are intact.
        return 1


def _check(data: bytes) -> None:
    """Hold a PNG against its checksums. Decoding does not look at those of pixels, and shows other pixels than were."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB, transparency over white."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255.
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
