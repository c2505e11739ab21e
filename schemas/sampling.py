"""The settings of an inversion: the same object in a spec, a noise pair, a fingerprint and a part's footer."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SamplerName = Literal["edict", "bdia", "obelm", "ddim", "ddim_euler"]
OWNERS = {"p": "edict", "gamma": "bdia"}
"""The sampler that each sampler's parameter belongs to."""

Steps = Annotated[int, Field(ge=1)]
Strength = Annotated[float, Field(gt=0, le=1)]
Guidance = Annotated[float, Field(ge=0)]
Level = Annotated[float, Field(ge=0)]
Weight = Annotated[float, Field(ge=0.5, le=1)]


class Strict(BaseModel):
    """A model that is immutable and strict, with no unknown fields, NaN or infinity.

    The messages of pydantic do not show the input, because a refused location may have a password in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class Sampling(Strict):
    """The sampler, and the steps of the noise schedule that it executes."""

    name: SamplerName = Field(
        "edict",
        description="The sampling method, which edits follow: edict, two coupled states; bdia and obelm, two-step "
        "methods at half the network's work; ddim and ddim_euler, baselines whose round trip is not exact. Their "
        "inversions differ: ddim evaluates the network at the timestep that a step leads to, ddim_euler at the one "
        "that it starts from.",
    )
    steps: Steps = Field(50, description="Steps of the whole schedule; steps * strength of them are executed.")
    strength: Strength = Field(
        1.0,
        description="How far up the schedule to invert; 1 is all the way to noise, and serves edits at any strength.",
    )
    guidance_scale: Guidance | None = Field(
        3.0, description="Classifier-free guidance; 1 turns it off and halves the network's work."
    )
    """None for a pair of a scheduler, which does not know the guidance of the pipeline's call."""
    guidance_interval: list[Level] | None = Field(
        None,
        json_schema_extra={"minItems": 2, "maxItems": 2},
        description="Guidance applies to the steps that begin at noise levels above the first and up to the second, "
        "in sqrt((1 - alpha) / alpha), of a flow its sigma; elsewhere the caption is followed at scale 1, by half the "
        "network's work. null: everywhere.",
    )
    p: Weight | None = Field(
        None,
        description="Of edict: mixing weight of the two states, taken to four decimals. "
        "null: 0.93 up to 50 executed steps, 0.93^(50/executed) above.",
    )
    gamma: Weight | None = Field(
        None,
        description="Of bdia: weight of the step before, taken to four decimals. "
        "null: 0.96 up to 50 executed steps, 0.96^(50/executed) above.",
    )
    steps_offset: int | None = Field(
        None,
        ge=0,
        description="Added to the timesteps of a schedule with leading spacing; null: the checkpoint's own, which is 1 "
        "for Stable Diffusion.",
    )
    bits: int | None = Field(
        None,
        ge=1,
        le=52,
        description="Fractional bits of the integer lattice; the round trip is exact at any number. How near the noise "
        "is to that of real numbers goes with them. null: 12, of obelm 16.",
    )

    @property
    def executed_steps(self) -> int:
        """The number of steps that run."""
        return executed(self.steps, self.strength)

    @property
    def known_guidance_scale(self) -> float:
        """The guidance scale. Raises ValueError if it is unknown."""
        if self.guidance_scale is None:
            raise ValueError(
                "the pair was made by a scheduler in a pipeline's call, whose guidance scale it does not know: give "
                "guidance_scale"
            )
        return self.guidance_scale

    @property
    def parameters(self) -> Mapping[str, float]:
        """The sampler's own parameters that are given."""
        return {name: value for name in OWNERS if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _takes_its_own(self) -> Self:
        for parameter in self.parameters:
            if OWNERS[parameter] != self.name:
                owner = OWNERS[parameter]
                raise ValueError(
                    f"no {parameter}, which is only valid for the sampler {owner}; the sampler is {self.name}"
                )
        return self

    @field_validator("guidance_interval")
    @classmethod
    def _rises(cls, interval: list[float] | None) -> list[float] | None:
        if interval is not None and (len(interval) != 2 or not interval[0] < interval[1]):
            raise ValueError("two noise levels, the lower one first")
        return interval

    @model_validator(mode="after")
    def _executes_a_step(self) -> Self:
        if self.executed_steps < 1:
            raise ValueError(
                f"steps * strength of at least 1, but {self.steps} * {self.strength:g} = "
                f"{self.steps * self.strength:g} executes no step; raise steps or strength"
            )
        return self


def executed(steps: int, strength: float) -> int:
    """Return how many of `steps` are executed at `strength`: floor(steps * strength), as in the paper's code.

    There is room for the rounding of binary fractions, such as 50 * 0.58.
    """
    return math.floor(steps * strength + 1e-9)
