"""Read the masks of edits: the region of an image, or of its latents, that an edit may change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from pipeline.errors import JobError
from pipeline.io.errors import FileTooLarge, NotFound, StorageError
from pipeline.io.images import ImageError, prepare
from pipeline.io.locations import local_path
from pipeline.io.storage import read_file
from schemas.locations import without_secrets

if TYPE_CHECKING:
    import torch

PIE_BENCH_SIZE = 512
"""The side of PIE-Bench's images and masks in pixels."""

MAX_MASK_FILE = 64 << 20
"""The size limit of a mask file in bytes."""


class MaskError(ValueError):
    """A mask cannot be used for its row."""


class MaskChanged(JobError):
    """A mask file changed after the edit was planned."""


def mask_location(template: str, key: str) -> str:
    """Return the location of a row's mask file. In URLs that are percent-encoded, so is the key."""
    encoded = template.startswith(("http://", "https://", "file://"))
    return template.replace("{key}", quote(key) if encoded else key)


def read_mask(template: str, key: str) -> bytes:
    """Read a row's mask file.

    Raises:
        MaskError: The file does not exist or is too large, or the key makes an invalid location.
        StorageError: The file cannot be read, or the local folder in the template does not exist.
    """
    location = mask_location(template, key)
    if ".." in key.split("/"):
        raise MaskError(f"{location}: the key contains .., which masks do not allow; rename the sample")
    if (shown := without_secrets(location)) != location:  # the template has none
        raise MaskError(f"{shown}: the key makes a URL with credentials or a query; rename the sample")
    try:
        return read_file(location, MAX_MASK_FILE)
    except FileTooLarge as error:
        raise MaskError(str(error)) from error
    except NotFound as error:
        if (path := local_path(template)) is not None:
            folder = os.path.dirname(str(path).partition("{key}")[0])
            if not os.path.isdir(folder):  # all masks are missing, not only that of this row
                raise StorageError(f"{template}: the folder {folder} does not exist; create or mount it") from error
        raise MaskError(str(error)) from error


def mask_digest(template: str, key: str) -> str | None:
    """Return the sha256 of a row's mask file; None if `read_mask` raises MaskError.

    Raises:
        StorageError: The file cannot be read, or the local folder in the template does not exist.
    """
    try:
        return sha256(read_mask(template, key)).hexdigest()
    except MaskError:
        return None


def read_planned_mask(template: str, key: str, planned: str | None) -> bytes:
    """Read a row's mask file. `planned` is its sha256 when the edit was planned, or None if there was no file.

    Raises:
        MaskError: There was no mask file when the edit was planned.
        MaskChanged: The mask file was changed or removed since then.
        StorageError: The mask file cannot be read.
    """
    location = mask_location(template, key)
    try:
        data = read_mask(template, key)
    except MaskError as error:
        if planned is None:
            raise
        raise MaskChanged(_changed(str(error), planned)) from error
    if planned is None:
        raise MaskError(
            f"{location}: did not exist when the edit was planned; to use it, run edict retry STORE --errors MaskError"
        )
    if (found := sha256(data).hexdigest()) != planned:
        raise MaskChanged(_changed(f"{location}: has the sha256 {found[:12]}", planned))
    return data


def _changed(now: str, planned: str) -> str:
    return (
        f"{now}, but had the sha256 {planned[:12]} when the edit was planned; put the planned mask back, or give "
        "another output"
    )


def mask_of_file(location: str, data: bytes, source: tuple[int, int], size: int, crop: str) -> torch.Tensor:
    """Return the mask in an image file as bool [size, size]. True is inside: pixels lighter than mid-grey.

    The mask is cropped like its source, which has `source` pixels (width, height).

    Raises:
        MaskError: The file is not an image, or has other proportions than its source.
    """
    try:
        prepared = prepare(data, size, crop)
    except ImageError as error:
        raise MaskError(f"{location}: {error}") from error
    width, height = prepared.width, prepared.height
    if abs(width * source[1] - height * source[0]) > max(*source, width, height):  # rounding to one pixel is allowed
        raise MaskError(
            f"{location}: has {width}x{height} pixels, but the source has {source[0]}x{source[1]}; give the mask the "
            "proportions of the source"
        )
    return _is_light(prepared.image)


def mask_of_runs(runs: Sequence[int], size: int) -> torch.Tensor:
    """Return the mask of PIE-Bench's `runs` as bool [size, size].

    `runs` alternates the first pixel of each run inside the mask and the number of its pixels. The outermost pixels are
    inside, as in PIE-Bench's own code.
    """
    pixels = np.zeros(PIE_BENCH_SIZE * PIE_BENCH_SIZE, np.uint8)
    for first, count in zip(runs[::2], runs[1::2], strict=True):
        pixels[first : first + count] = 255
    image = pixels.reshape(PIE_BENCH_SIZE, PIE_BENCH_SIZE)
    image[[0, -1]] = image[:, [0, -1]] = 255
    return _is_light(Image.fromarray(image).resize((size, size), Resampling.LANCZOS))


def mask_of_latents(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Reduce a mask from the size of the images to that of their latents, bool [height, width], by a maximum."""
    return mask.reshape(height, mask.shape[0] // height, width, mask.shape[1] // width).any(3).any(1)


def _is_light(image: Image.Image) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.asarray(image.convert("L")) > 127)
