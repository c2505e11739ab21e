"""The `image` section of an inversion."""

from typing import Literal

from pydantic import Field

from schemas.sampling import Strict


class ImageSpec(Strict):
    """The preprocessing of images for the model."""

    crop: Literal["center"] = Field(
        "center", description="Crop: the largest centred square, which is then resized to the model's own size."
    )
    resize: Literal["lanczos", "bicubic"] = Field("lanczos", description="Filter of the resizing.")
    posterior_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed for sampling the posterior of the VAE. null: the mode of the posterior is encoded.",
    )
