"""The kinds of model: checkpoints whose network is called directly, and every other pipeline of diffusers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edict.checkpoint import read_index
from edict.models.direct import Conditions, DirectModel
from edict.models.flux import Flux
from edict.models.flux2 import Flux2
from edict.models.model import Model
from edict.models.packed import PackedPipeline
from edict.models.pipeline import PipelineModel
from edict.models.pixart_sigma import PixArtSigma
from edict.models.pixels import Pixels
from edict.models.qwen_image import QwenImage
from edict.models.stable_diffusion import StableDiffusion
from edict.models.stable_diffusion_3 import StableDiffusion3
from edict.models.stable_diffusion_xl import StableDiffusionXL

MODELS: dict[str, type[DirectModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "PixArtSigmaPipeline": PixArtSigma,
    "DDPMPipeline": Pixels,
    "DDIMPipeline": Pixels,
}
FAMILIES: tuple[type[PipelineModel], ...] = (Flux2, PackedPipeline, QwenImage)
"""The families of pipelines that differ from the common convention."""


def describe(folder: Path, call: Mapping[str, Any] | None = None, *, by_pipeline: bool = False) -> Model:
    """Return the model of a checkpoint's folder, not loaded: only its configurations are read.

    `call` are further arguments of the pipeline's call. With them, or `by_pipeline`, a model of any kind runs by its
    pipeline.

    Raises:
        ModelError: the checkpoint is not complete, or diffusers does not have its pipeline.
    """
    kind = read_index(folder).get("_class_name")
    if kind in MODELS and not call and not by_pipeline:
        return MODELS[kind](folder)
    return family_of(kind)(folder, None, call)


def of_pipeline(pipe: Any, call: Mapping[str, Any] | None = None) -> PipelineModel:
    """Return a pipeline of diffusers as a model."""
    return family_of(*(kind.__name__ for kind in type(pipe).__mro__))(None, pipe, call)


def family_of(*names: Any) -> type[PipelineModel]:
    """Return the class for the first of these names of pipelines that has one of its own."""
    families = {name: family for family in FAMILIES for name in family.pipelines}
    return next((families[name] for name in names if name in families), PipelineModel)


__all__ = ["MODELS", "Conditions", "DirectModel", "Model", "PipelineModel", "describe", "of_pipeline"]
