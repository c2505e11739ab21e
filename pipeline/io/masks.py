"""Masks of edits: which places of the latents an edit may change."""

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
from pipeline.io.errors import NotFound, StorageError, TooLarge
from pipeline.io.images import ImageError, prepare
from pipeline.io.locations import local_path
from pipeline.io.storage import read_file
from schemas.locations import without_secrets

if TYPE_CHECKING:
    import torch

PIE_BENCH = 512
"""The side in pixels of PIE-Bench's pictures, and of its masks."""


LARGEST = 64 << 20
"""The largest file of a mask that is read, in bytes."""


class MaskError(ValueError):
    """A mask that cannot be used for its row."""


class MaskChanged(JobError):
    """A mask file that is not the one that was planned."""


def mask_location(template: str, key: str) -> str:
    """Return the location of a row's mask file. In URLs that are percent-encoded, so is the key."""
    encoded = template.startswith(("http://", "https://", "file://"))
    return template.replace("{key}", quote(key) if encoded else key)


def read_mask(template: str, key: str) -> bytes:
    """Read a row's mask file.

    Raises:
        MaskError: the file does not exist, or the key makes an invalid location.
        StorageError: it cannot be read, or a local folder that the template names does not exist.
    """
    location = mask_location(template, key)
    if ".." in key.split("/"):
        raise MaskError(f"{location}: a key with .. in it names no mask")
    if (shown := without_secrets(location)) != location:  # the template has none
        raise MaskError(f"{shown}: the key makes a URL with credentials or a query; rename the sample")
    try:
        return read_file(location, LARGEST)
    except TooLarge as error:
        raise MaskError(str(error)) from error
    except NotFound as error:
        if (path := local_path(template)) is not None:
            folder = os.path.dirname(str(path).partition("{key}")[0])
            if not os.path.isdir(folder):  # all masks are missing, not only this row's
                raise StorageError(f"{template}: the folder {folder} does not exist; create or mount it") from error
        raise MaskError(str(error)) from error


def mask_digest(template: str, key: str) -> str | None:
    """Return the sha256 of a row's mask file, or None if it has no file. Raises StorageError as `read_mask` does."""
    try:
        return sha256(read_mask(template, key)).hexdigest()
    except MaskError:
        return None


def read_planned_mask(template: str, key: str, planned: str | None) -> bytes:
    """Read a row's mask file. `planned` is its sha256 when the edit was planned, or None if there was no file.

    Raises:
        MaskError: there was no mask file when the edit was planned.
        MaskChanged: the mask file was changed or removed since.
        StorageError: the mask file cannot be read.
    """
    location = mask_location(template, key)
    try:
        data = read_mask(template, key)
    except MaskError as error:
        if planned is None:
            raise
        raise MaskChanged(_changed(str(error), planned)) from error
    if planned is None:
        raise MaskError(f"{location}: did not exist when the edit was planned; edict retry --errors MaskError uses it")
    if (found := sha256(data).hexdigest()) != planned:
        raise MaskChanged(_changed(f"{location}: has the sha256 {found[:12]}", planned))
    return data


def _changed(now: str, planned: str) -> str:
    return (
        f"{now}, but had the sha256 {planned[:12]} when the edit was planned; put the planned mask back, or give "
        "another output"
    )


def mask_of_file(location: str, data: bytes, source: tuple[int, int], size: int, crop: str) -> torch.Tensor:
    """Return the mask in an image file, bool [size, size], cropped as its source of `source` pixels (W, H) was.

    Pixels that are lighter than mid-grey are inside. Raises MaskError, which names the location, if the file is not a
    valid mask.
    """
    try:
        prepared = prepare(data, size, crop)
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
    import torch

    return torch.from_numpy(np.asarray(picture.convert("L")) > 127)
