"""Masks of edits: which places of the latents an edit may change."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling

from pipeline.images import ImageError, prepare
from pipeline.storage import NotThere, TooLong, read_file

PIE_BENCH = 512
"""The side in pixels of PIE-Bench's pictures, and of its masks."""


LARGEST = 64 << 20
"""The largest file of a mask that is read, in bytes."""


class MaskError(ValueError):
    """A mask that cannot be used for its row."""


def mask_of_file(template: str, key: str, source: tuple[int, int], size: int, crop: str) -> torch.Tensor:
    """The mask of a row from a picture file, bool [size, size], cropped as its source of `source` pixels (W, H) was.

    Inside is what is lighter than mid-grey. Raises MaskError where there is none or it cannot be one, StorageError
    where it cannot be read.
    """
    location = template.replace("{key}", key)
    if ".." in key.split("/"):
        raise MaskError(f"{location}: a key with .. in it names no mask")
    try:
        prepared = prepare(read_file(location, LARGEST), size, crop)
    except (NotThere, TooLong) as error:
        raise MaskError(str(error)) from error
    except ImageError as error:
        raise MaskError(f"{location}: {error}") from error
    width, height = prepared.width, prepared.height
    if abs(width * source[1] - height * source[0]) > max(*source, width, height):  # a pixel's rounding is none
        raise MaskError(
            f"{location}: is of {width}x{height} pixels, which are not the proportions of the source, "
            f"{source[0]}x{source[1]}"
        )
    return _inside(prepared.image)


def mask_of_runs(runs: Sequence[int], size: int) -> torch.Tensor:
    """The mask of PIE-Bench's `runs` (the first pixel inside and how many, again and again), bool [size, size].

    As its own code has it, the outermost pixels are inside.
    """
    pixels = np.zeros(PIE_BENCH * PIE_BENCH, np.uint8)
    for first, count in zip(runs[::2], runs[1::2], strict=True):
        pixels[first : first + count] = 255
    picture = pixels.reshape(PIE_BENCH, PIE_BENCH)
    picture[[0, -1]] = picture[:, [0, -1]] = 255
    return _inside(Image.fromarray(picture).resize((size, size), Resampling.LANCZOS))


def to_latents(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A mask at the pictures' size at that of their latents, bool [height, width]: inside where any of it is."""
    return mask.unflatten(0, (height, -1)).unflatten(2, (width, -1)).any(3).any(1)


def _inside(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture.convert("L")) > 127)
