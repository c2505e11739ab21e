"""The samplers by their names, and their settings.

To add a sampler, add a file here, an entry in SAMPLERS, and its name in schemas.sampling.
"""

from fractions import Fraction
from typing import Any

import numpy as np
from pydantic import ValidationError

from edict.lattice import as_fraction
from edict.samplers.base import Sampler
from edict.samplers.ddim import DDIM, DDIM_EULER
from edict.samplers.edict import EDICT
from edict.samplers.two_step import BDIA, OBELM
from schemas.errors import expected, is_sentence
from schemas.sampling import Sampling

SAMPLERS: dict[str, Sampler] = {
    "edict": EDICT,
    "bdia": BDIA,
    "obelm": OBELM,
    "ddim": DDIM,
    "ddim_euler": DDIM_EULER,
}
PUBLISHED_STEPS = 50
"""The number of steps for which p and gamma were published. Fewer steps have the same default."""


def sampling(**settings: Any) -> Sampling:
    """Return the validated settings of a sampler, given as the fields of `Sampling`. Numbers can be NumPy's.

    Raises:
        ValueError: A setting is unknown, out of its range, or belongs to another sampler.
    """
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    if isinstance(interval := plain.get("guidance_interval"), tuple):
        plain["guidance_interval"] = list(interval)
    try:
        return Sampling(**plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:  # settings that do not go together
            raise ValueError(expected(first)) from error
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise ValueError(f"no setting {name!r}: expected one of {', '.join(Sampling.model_fields)}") from error
        shown = "sampler" if name == "name" else name
        wanted = expected(first) if is_sentence(first) else f"expected {expected(first)}"
        raise ValueError(f"{shown} is {plain[name]!r}: {wanted}") from error


def with_defaults(given: Sampling, executed_steps: int) -> Sampling:
    """Return settings with defaults for the parameters of the sampler that are None.

    The default of p and gamma is the published value up to PUBLISHED_STEPS steps. For more steps, it is the value that
    expands the difference of the states as much as PUBLISHED_STEPS steps do.
    """
    sampler, found = SAMPLERS[given.name], dict[str, float | int]()
    for name, default in sampler.parameters.items():
        value = getattr(given, name)
        if value is None:
            value = (
                default
                if executed_steps <= PUBLISHED_STEPS
                else round(default ** (PUBLISHED_STEPS / executed_steps), 4)
            )
        found[name] = float(as_fraction(value))
    return given.model_copy(update={**found, "bits": given.bits or sampler.bits})


def parameters(given: Sampling) -> dict[str, Fraction]:
    """Return the parameters of a sampler, p or gamma, in settings from `with_defaults`, as fractions."""
    return {name: as_fraction(value) for name, value in given.parameters.items()}
