"""Images of the kinds that pipelines of diffusers take and return: PIL images, arrays, tensors, file names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import load_image
from PIL import Image, UnidentifiedImageError

OutputType = Literal["pil", "np", "pt", "latent"]
OneImage = Image.Image | np.ndarray | torch.Tensor | str | Path
Images = OneImage | Sequence[OneImage]
"""One image or several. An array is [H, W, C], [H, W] or [N, H, W, C]; a tensor is [C, H, W] or [N, C, H, W].

C is 1 or 3. The values are uint8, or floats on [0, 1], which are rounded to 8 bits as in an image file. A str is a
file name or an http(s) URL; the image is turned upright by its EXIF data (`diffusers.utils.load_image`).
"""


def to_pil(images: Images) -> list[Image.Image]:
    """Return images of any accepted kind as a list of PIL images.

    Raises:
        ValueError: There is no image, an image has a wrong shape or values out of range, or a file does not exist.
    """
    several = list(images) if isinstance(images, list | tuple) else [images]
    found = [image for number, one in enumerate(several) for image in _open(one, f"image {number}")]
    if not found:
        raise ValueError("images: found none; give at least one image")
    return found


def from_decoded(decoded: torch.Tensor, output_type: OutputType) -> list[Image.Image] | np.ndarray | torch.Tensor:
    """Return decoded images, float32 [N, 3, H, W] on about [-1, 1], as `output_type`.

    "pil": a list of PIL images. "np": float32 [N, H, W, 3] on [0, 1]. "pt": float32 [N, 3, H, W] on [0, 1], on the
    device of `decoded`.
    """
    if output_type == "pil":
        pixels = ((decoded + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(image) for image in pixels]
    floats = VaeImageProcessor.denormalize(decoded)
    images: np.ndarray | torch.Tensor = floats if output_type == "pt" else VaeImageProcessor.pt_to_numpy(floats)
    return images


def _open(image: Any, name: str) -> list[Image.Image]:
    """Return one element of `Images` as PIL images. `name` names it in errors."""
    if isinstance(image, Image.Image):
        return [image]
    if isinstance(image, str | Path):
        if not str(image).startswith(("http://", "https://")) and not Path(image).is_file():
            kind = "is a folder" if Path(image).is_dir() else "does not exist"
            raise ValueError(f"{name}: {image} {kind}; expected the name of an image file, or an http(s) URL")
        try:
            return [load_image(str(image))]
        except UnidentifiedImageError as error:
            raise ValueError(f"{name}: {image} is not an image. Give an image file that Pillow reads") from error
    if isinstance(image, torch.Tensor):
        if image.ndim not in (3, 4):
            raise ValueError(f"{name}: is a tensor of shape {[*image.shape]}; expected [C, H, W] or [N, C, H, W]")
        # NumPy has no bfloat16.
        floats = image.detach().float() if image.is_floating_point() else image
        return _from_arrays(floats.cpu().movedim(-3, -1).numpy(), name)
    if isinstance(image, np.ndarray):
        return _from_arrays(image, name)
    raise ValueError(
        f"{name}: is of type {type(image).__name__}; expected a PIL image, an array, a tensor or a file name"
    )


def _from_arrays(array: np.ndarray, name: str) -> list[Image.Image]:
    """Return an array [H, W], [H, W, C] or [N, H, W, C] as PIL images."""
    shaped = array[..., None] if array.ndim == 2 else array
    batch = shaped[None] if shaped.ndim == 3 else shaped
    if batch.ndim != 4 or batch.shape[-1] not in (1, 3) or 0 in batch.shape[1:]:
        raise ValueError(
            f"{name}: has the shape {[*array.shape]}; expected [H, W], [H, W, C] or [N, H, W, C], C 1 or 3"
        )
    if batch.dtype != np.uint8:
        if not np.issubdtype(batch.dtype, np.floating):
            raise ValueError(f"{name}: has values of {batch.dtype}; expected uint8, or floats on [0, 1]")
        if not ((batch >= 0) & (batch <= 1)).all():  # NaN fails both comparisons.
            raise ValueError(
                f"{name}: has values from {batch.min():.8g} to {batch.max():.8g}; expected floats on [0, 1], or uint8"
            )
        batch = (batch * 255).round().astype(np.uint8)
    return [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else np.ascontiguousarray(one)) for one in batch]
