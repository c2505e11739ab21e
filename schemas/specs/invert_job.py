"""The spec of an inversion."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from schemas.sampling import Strict
from schemas.specs.fields import Dtype, Location, StoreLocation, check_not_input
from schemas.specs.image import ImageSpec
from schemas.specs.model import ModelSpec
from schemas.specs.rejects import RejectsSpec
from schemas.specs.sampler import SamplerSpec
from schemas.specs.workers import WorkerSpec

PRESETS: Mapping[str, dict[str, dict[str, Any]]] = {
    "paper": {  # the settings of EDICT_editing in edict_functions.py of the authors' code: github.com/salesforce/EDICT
        "sampler": {"steps": 50, "strength": 0.8, "guidance_scale": 3.0, "p": 0.93, "steps_offset": 0},
        "image": {"resize": "bicubic", "posterior_seed": 1},
    }
}


class InvertSpec(Strict):
    """Invert every image of the input shards once, to the noise pair from which it regenerates."""

    kind: Literal["invert"] = Field(description="The kind of job.")
    input: Location | Annotated[list[Location], Field(min_length=1)] = Field(
        description="WebDataset tar shards: one name or a list, local or URLs. Braces such as {00000..00031} expand."
    )
    output: StoreLocation = Field(description="The latent store to write: a folder or an object-store URL.")
    preset: Literal["paper"] | None = Field(
        None,
        description="Other defaults of sampler and image. paper: those of the authors' code. Fields in the spec "
        "override the preset.",
    )
    model: ModelSpec = Field(default_factory=ModelSpec, description="The model.")
    sampler: SamplerSpec = Field(default_factory=SamplerSpec, description="The sampler.")
    image: ImageSpec = Field(default_factory=ImageSpec, description="The preprocessing of images.")
    workers: WorkerSpec = Field(default_factory=WorkerSpec, description="The workers.")
    rejects: RejectsSpec = Field(default_factory=RejectsSpec, description="The limit on rejects.")

    @property
    def dtype(self) -> Dtype:
        """The precision of the network, with `auto` resolved."""
        if self.model.dtype == "auto":
            return "bfloat16" if self.workers.gpus else "float32"
        return self.model.dtype

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: str, info: ValidationInfo) -> str:
        given = info.data.get("input", [])
        return check_not_input(output, [given] if isinstance(given, str) else given, "input")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("preset"), str):
            return data
        merged = dict(data)
        for section, defaults in PRESETS.get(data["preset"], {}).items():
            written = data.get(section, {})
            if isinstance(written, dict):
                merged[section] = defaults | written
        return merged

    @model_validator(mode="after")
    def _check_tf32(self) -> Self:
        if self.model.vae_dtype == "tf32" and not self.workers.gpus:
            raise ValueError("model.vae_dtype tf32 needs GPUs, because CPUs have no TF32; set workers.gpus, or float32")
        return self
