"""EDICT: Exact Diffusion Inversion via Coupled Transformations, on integers, so that a round trip is exact to the bit.

>>> from edict import EDICT
>>> model = EDICT.from_pretrained()
>>> pair = model.invert(images, captions)
>>> edited = model.generate(pair, new_captions)
"""

import logging
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edict.control import Blend, Control
    from edict.errors import ModelError
    from edict.inversion import EDICT
    from edict.lattice import LatticeOverflow, NonFinite
    from edict.pair import Pair
    from edict.schedulers import BDIAScheduler, EDICTScheduler, OBELMScheduler

    __version__: str

# If torchao is installed, transformers imports it. The import warns about kernels for other machines.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao"):
    logging.getLogger(_name).setLevel(logging.ERROR)

__all__ = [
    "EDICT",
    "BDIAScheduler",
    "Blend",
    "Control",
    "EDICTScheduler",
    "LatticeOverflow",
    "ModelError",
    "NonFinite",
    "OBELMScheduler",
    "Pair",
]

_MODULES = {
    "BDIAScheduler": "schedulers",
    "EDICT": "inversion",
    "EDICTScheduler": "schedulers",
    "OBELMScheduler": "schedulers",
    "Blend": "control",
    "Control": "control",
    "LatticeOverflow": "lattice",
    "ModelError": "errors",
    "NonFinite": "lattice",
    "Pair": "pair",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: torch and diffusers take seconds, and `edict status` needs neither."""
    if name == "__version__":
        return metadata.version("edict-pipeline")
    if name not in _MODULES:
        raise AttributeError(f"module 'edict' has no attribute {name!r}")
    return getattr(import_module(f"edict.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, for completion in a shell or a notebook."""
    return sorted([*__all__, "__version__"])
