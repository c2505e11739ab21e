"""The kinds of checkpoint, one file each, by the `_class_name` of their model_index.json."""

from pathlib import Path

from edict.checkpoint import ModelError, read_index
from edict.models.flux import Flux
from edict.models.model import Conditions, Model
from edict.models.pixart_sigma import PixArtSigma
from edict.models.pixels import Pixels
from edict.models.stable_diffusion import StableDiffusion
from edict.models.stable_diffusion_3 import StableDiffusion3
from edict.models.stable_diffusion_xl import StableDiffusionXL

MODELS: dict[str, type[Model]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "PixArtSigmaPipeline": PixArtSigma,
    "DDPMPipeline": Pixels,
    "DDIMPipeline": Pixels,
}


def describe(folder: Path) -> Model:
    """The model of a checkpoint's folder, not loaded: its configurations alone are read.

    Raises ModelError where it is of no kind that is supported, or not whole.
    """
    kind = read_index(folder).get("_class_name")
    if kind not in MODELS:
        raise ModelError(
            f"model {folder} is a {kind}, but only {', '.join(MODELS)} are supported. If its parts are those "
            "of one of these, write that class into model_index.json"
        )
    return MODELS[kind](folder)


__all__ = ["MODELS", "Conditions", "Model", "describe"]
