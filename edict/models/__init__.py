"""The kinds of model: those with a network that is called directly, and every other pipeline of diffusers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edict.checkpoint import Checkpoint
from edict.model_files import read_index
from edict.models.base import LoadOptions, Model
from edict.models.direct import Conditions, DirectModel
from edict.models.flux import Flux
from edict.models.flux2 import BriaFibo2, Flux2, Flux2Klein, PatchNorm
from edict.models.guider import GuiderPipeline, HunyuanImage
from edict.models.packed import PackedPipeline, TokenPipeline
from edict.models.pipeline import PipelineModel
from edict.models.pixart_sigma import PixArtSigma
from edict.models.pixels import Pixels
from edict.models.qwen_image import QwenImage, QwenImage21
from edict.models.stable_diffusion import StableDiffusion
from edict.models.stable_diffusion_3 import StableDiffusion3
from edict.models.stable_diffusion_xl import StableDiffusionXL
from edict.models.unscaled import Kandinsky3, PixelPipeline, Unscaled
from edict.models.video import LTX, CogVideoX, Cosmos3, FramePipeline, Kandinsky5, Kandinsky6, TextToVideo
from edict.models.z_image import Krea2, ZImage

MODELS: dict[str, type[DirectModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "PixArtSigmaPipeline": PixArtSigma,
    "DDPMPipeline": Pixels,
    "DDIMPipeline": Pixels,
}
FAMILIES: tuple[type[PipelineModel], ...] = (
    BriaFibo2,
    CogVideoX,
    Cosmos3,
    Flux2,
    Flux2Klein,
    FramePipeline,
    GuiderPipeline,
    HunyuanImage,
    Kandinsky3,
    Kandinsky5,
    Kandinsky6,
    Krea2,
    LTX,
    PackedPipeline,
    PatchNorm,
    PixelPipeline,
    QwenImage,
    QwenImage21,
    TextToVideo,
    TokenPipeline,
    Unscaled,
    ZImage,
)
"""The families of pipelines that differ from the common convention of `PipelineModel`."""


def describe(checkpoint: Path | Checkpoint, options: LoadOptions | None = None) -> Model:
    """Return the model of a checkpoint, not loaded: only its configurations are read.

    A model of any kind runs in its pipeline for a single-file checkpoint, textual inversions, a quantization or
    arguments of the pipeline's call.

    Raises:
        ModelError: The checkpoint is not complete, or diffusers does not have its pipeline.
    """
    if isinstance(checkpoint, Path):
        checkpoint = Checkpoint(checkpoint)
    options = options or LoadOptions()
    kind = str(read_index(checkpoint.folder).get("_class_name"))  # It is a list if the checkpoint has its own code.
    needs_pipeline = checkpoint.file or checkpoint.embeddings or options.quantization or options.call
    if kind in MODELS and not needs_pipeline:
        return MODELS[kind](checkpoint.folder)
    return family_of(kind)(checkpoint.folder, None, options.call)


def from_pipeline(pipe: Any, call: Mapping[str, Any] | None = None) -> PipelineModel:
    """Return a pipeline of diffusers as a model."""
    return family_of(*(kind.__name__ for kind in type(pipe).__mro__))(None, pipe, call)


def family_of(*names: Any) -> type[PipelineModel]:
    """Return the class of the first of these pipelines that has its own, or `PipelineModel`."""
    families = {name: family for family in FAMILIES for name in family.pipelines}
    return next((families[name] for name in names if name in families), PipelineModel)


__all__ = ["MODELS", "Conditions", "DirectModel", "LoadOptions", "Model", "PipelineModel", "describe", "from_pipeline"]
