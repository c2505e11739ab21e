"""EDICT, Exact Diffusion Inversion via Coupled Transformations, exact to the bit: the model.

>>> from edict import EDICT
>>> model = EDICT.from_pretrained()
>>> pair = model.invert(images, captions)
>>> pictures = model.generate(pair, new_captions)
"""

from edict.attention import Blend, Control
from edict.checkpoint import ModelError
from edict.lattice import LatticeOverflow, NonFinite
from edict.model import EDICT
from edict.pair import Pair

__all__ = ["EDICT", "Blend", "Control", "LatticeOverflow", "ModelError", "NonFinite", "Pair"]
