"""The kinds of model: checkpoints whose network is called directly, and every other pipeline of diffusers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edict.checkpoint import Checkpoint, read_index
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
"""The families of pipelines that differ from the common convention."""


def describe(checkpoint: Path | Checkpoint, options: LoadOptions | None = None) -> Model:
    """Return the model of a checkpoint, not loaded: only its configurations are read.

    A model of any kind runs by its pipeline if the checkpoint is a single file or has textual inversions, or if the
    options have a quantization or arguments of the pipeline's call.

    Raises:
        ModelError: the checkpoint is not complete, or diffusers does not have its pipeline.
    """
    given, more = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint), options or LoadOptions()
    kind = str(read_index(given.folder).get("_class_name"))  # a list, if the checkpoint has code of its own
    if kind in MODELS and not (given.file or given.embeddings or more.quantization or more.call):
        return MODELS[kind](given.folder)
    return family_of(kind)(given.folder, None, more.call)


def from_pipeline(pipe: Any, call: Mapping[str, Any] | None = None) -> PipelineModel:
    """Return a pipeline of diffusers as a model."""
    return family_of(*(kind.__name__ for kind in type(pipe).__mro__))(None, pipe, call)


def family_of(*names: Any) -> type[PipelineModel]:
    """Return the class for the first of these names of pipelines that has one of its own."""
    families = {name: family for family in FAMILIES for name in family.pipelines}
    return next((families[name] for name in names if name in families), PipelineModel)


__all__ = ["MODELS", "Conditions", "DirectModel", "LoadOptions", "Model", "PipelineModel", "describe", "from_pipeline"]
