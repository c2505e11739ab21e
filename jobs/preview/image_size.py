"""The image size of a model that is not loaded."""

import inspect
from typing import Any

import diffusers
import torch

from edict.errors import ModelError
from edict.model_files import read_config, read_index
from edict.models import Model, PipelineModel
from edict.models.loading import DENOISERS, as_model_errors, networks_of


def planned_image_size(model: Model) -> int | None:
    """Return the side of a model's images in pixels, or None if it is only known after loading.

    For a pipeline without `model.call`, the size is the default of the pipeline. Its class computes it from the
    configurations of its components, so the pipeline is built without weights, on torch's meta device.
    """
    if model.planned_size is not None or not isinstance(model, PipelineModel):
        return model.planned_size
    try:
        with as_model_errors(f"model {model.folder}", model.kind):
            return PipelineModel(model.folder, _pipeline_without_weights(model), model.call).size
    except ModelError:  # The class needs a component that is not built here.
        return None


def _pipeline_without_weights(model: PipelineModel) -> Any:
    """Return the pipeline with its denoiser, autoencoder and scheduler only."""
    with torch.device("meta"):
        networks = {
            component: kind.from_config(read_config(model.folder, component))
            for component, kind in networks_of(model.folder).items()
            if component in (*DENOISERS, "vae")
        }
    _, scheduler = read_index(model.folder)["scheduler"]
    networks["scheduler"] = getattr(diffusers, scheduler).from_config(read_config(model.folder, "scheduler"))
    parameters = inspect.signature(model.kind.__init__).parameters.values()
    missing = {
        parameter.name: None
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.name not in {"self", *networks}
    }
    return model.kind(**missing, **networks)
