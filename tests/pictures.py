"""Pictures that tests make."""

import io
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """An RGB image without any symmetry."""
    y, x = np.mgrid[:height, :width]
    levels = np.stack([x * 255 // width, y * 255 // height, (x * y * 7 + x) % 256], axis=-1)
    return Image.fromarray(levels.astype(np.uint8))


def file(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
