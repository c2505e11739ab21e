"""The `model` of an inversion."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator

from schemas.sampling import Strict
from schemas.specs.fields import Location, Text

RESERVED_ARGUMENTS = {
    "prompt",
    "negative_prompt",
    "guidance_scale",
    "true_cfg_scale",
    "prompt_embeds",
    "generator",
}
"""The arguments of a pipeline's call that the job sets: from captions, prompts, guidance and seed."""


class LoRASpec(Strict):
    """LoRA weights that are added to the weights of the model."""

    path: Location = Field(description="A .safetensors file, a folder with one, or a hub id.")
    scale: float = Field(1.0, ge=-100, le=100, description="Factor of the LoRA weights.")


class ModelSpec(Strict):
    """The diffusion model: a checkpoint of any text-to-image or text-to-video pipeline of diffusers."""

    path: Location = Field(
        "default",
        description="'default' for the model that ships with the package, a folder in the layout of diffusers, a hub "
        "id, or a .safetensors file (with `config`).",
    )
    config: Location | None = Field(
        None,
        description="Only for a .safetensors file: the folder or hub id with its configurations, and with the "
        "components that the file does not have.",
    )
    revision: Text | None = Field(
        None, description="Branch, tag or commit of a hub id. null: the default branch of the hub."
    )
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None,
        description="Variant of the weight files, such as fp16. Components without this variant use their plain files. "
        "null: the plain files.",
    )
    lora: LoRASpec | None = Field(None, description="LoRA weights. null: none.")
    textual_inversion: Location | Annotated[list[Location], Field(min_length=1)] | None = Field(
        None,
        description="Textual inversions: a .safetensors file, a folder with one, a hub id, or a list of these. "
        "null: none.",
    )
    quantization: Literal["int8", "int8_dynamic", "float8", "int4"] | None = Field(
        None,
        description="Quantize the weights of the network with torchao. int8_dynamic also quantizes the activations. "
        "The round trip is exact. null: no quantization.",
    )
    call: dict[Text, JsonValue] = Field(
        default_factory=dict,
        description="Further arguments of the pipeline's call, such as height, width and max_sequence_length.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the network and the text encoders. The round trip is exact in all three. auto: "
        "bfloat16 on GPUs, float32 on CPUs.",
    )
    vae_dtype: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="Precision of the autoencoder. tf32 is float32 with the inputs of products rounded to TF32, and "
        "needs GPUs.",
    )
    channels_last: bool = Field(
        False,
        description="Lay out the weights of convolutions as [out, height, width, in], in the network and the "
        "autoencoder. This may be faster on GPUs.",
    )
    compile: bool = Field(
        False,
        description="Compile the network with torch.compile. Every node needs a compiler, and the start takes longer. "
        "The round trip is exact. Attention control is not available.",
    )

    @field_validator("call")
    @classmethod
    def _check_call(cls, call: dict[str, Any]) -> dict[str, Any]:
        if reserved := sorted(call.keys() & RESERVED_ARGUMENTS):
            raise ValueError(f"the job itself sets {', '.join(reserved)} in the pipeline's call; remove it here")
        return call
