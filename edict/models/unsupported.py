"""Error messages for features that a model does not support."""

from edict.models.base import Model

NO_CONTROL_IF_COMPILED = (
    "attention control changes the network's layers, which is not possible in a compiled network. Leave control out, "
    "or invert without compile"
)


def no_control(model: Model) -> str:
    """Return the error for attention control with a model that does not support it."""
    return (
        "attention control needs a UNet that attends to CLIP's tokens (Stable Diffusion 1, 2, XL), and "
        f"{model.folder} is a {type(model).__name__}: leave control out"
    )


def no_guidance_interval(model: Model) -> str:
    """Return the error for a guidance interval with a model that does not support it."""
    return (
        "guidance_interval needs a model that `EDICT` itself guides by classifier-free guidance, and "
        f"{model.folder} is not one. Leave it out"
    )
