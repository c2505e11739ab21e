"""The samplers by name, and what their parameters are.

A new one is a file here, a line in SAMPLERS and its name in schemas.specs.SamplerSpec.
"""

from collections.abc import Mapping
from fractions import Fraction

from edict.lattice import as_fraction
from edict.samplers.base import Sampler
from edict.samplers.ddim import DDIM, DDIM_EULER
from edict.samplers.edict import EDICT
from edict.samplers.two_step import BDIA, OBELM

SAMPLERS: dict[str, Sampler] = {
    "edict": EDICT,
    "bdia": BDIA,
    "obelm": OBELM,
    "ddim": DDIM,
    "ddim_euler": DDIM_EULER,
}


def named(name: str) -> Sampler:
    """Raises ValueError where there is no such sampler."""
    if name not in SAMPLERS:
        raise ValueError(f"no sampler {name!r}: give one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def resolve(name: str, executed_steps: int, given: Mapping[str, float | None]) -> dict[str, Fraction]:
    """The parameters of the sampler `name`: as given, or, where none is or it is None, their defaults.

    A default is the published value up to 50 steps; above, what expands the states' distance as much as 50 steps do.
    Raises ValueError where there is no such sampler or parameter, or it is out of range.
    """
    defaults = named(name).parameters
    if strange := given.keys() - defaults.keys():
        takes = " and ".join(defaults) or "no parameter"
        raise ValueError(f"{', '.join(sorted(strange))}: the sampler {name} takes {takes}")
    weights = dict[str, Fraction]()
    for parameter, default in defaults.items():
        value = given.get(parameter)
        if value is None:
            value = default if executed_steps <= 50 else round(default ** (50 / executed_steps), 4)
        weights[parameter] = as_fraction(value)
        if not 0.5 <= weights[parameter] <= 1:
            raise ValueError(f"{parameter} is {value}: it lies between 0.5 and 1")
    return weights
