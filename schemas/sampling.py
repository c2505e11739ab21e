"""The settings of an inversion: the same object in a spec, a noise pair, a fingerprint and the footer of a part."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SamplerName = Literal["edict", "bdia", "obelm", "ddim", "ddim_euler"]
OWNERS = {"p": "edict", "gamma": "bdia"}
"""The sampler of each parameter that only one sampler has."""

Steps = Annotated[int, Field(ge=1)]
Strength = Annotated[float, Field(gt=0, le=1)]
Guidance = Annotated[float, Field(ge=0)]
Level = Annotated[float, Field(ge=0)]
Weight = Annotated[float, Field(ge=0.5, le=1)]


class Strict(BaseModel):
    """Base class of all specs and records: immutable and strictly typed, without unknown fields, NaN or infinity.

    The messages of pydantic do not show the input, because an invalid location may contain a password.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class Sampling(Strict):
    """The sampler, and the steps of the noise schedule that it executes."""

    name: SamplerName = Field(
        "edict",
        description="Sampling method of the inversion and of its edits. edict: two coupled states. bdia and obelm: "
        "two-step methods with half the network calls. ddim and ddim_euler: baselines whose round trip is not exact. "
        "In an inversion, ddim calls the network at the timestep where a step ends, and ddim_euler where it begins.",
    )
    steps: Steps = Field(
        50, description="Number of steps of the whole schedule. Of these, steps * strength are executed."
    )
    strength: Strength = Field(
        1.0,
        description="Share of the schedule that is inverted. 1 inverts all of it, and allows edits at any strength.",
    )
    guidance_scale: Guidance | None = Field(
        3.0, description="Scale of classifier-free guidance. 1 turns it off, which halves the work of the network."
    )
    """None for a noise pair of a scheduler, because a scheduler cannot see the guidance of the pipeline's call."""
    guidance_interval: list[Level] | None = Field(
        None,
        json_schema_extra={"minItems": 2, "maxItems": 2},
        description="Noise levels with guidance: guidance applies to steps that begin above the first level and up to "
        "the second. The level is sqrt((1 - alpha) / alpha), or the sigma of a flow. Other steps have guidance scale "
        "1, with half the work of the network. null: all steps.",
    )
    p: Weight | None = Field(
        None,
        description="Only for edict: mixing weight of the two states, rounded to four decimals. "
        "null: 0.93 up to 50 executed steps, 0.93^(50/executed) above.",
    )
    gamma: Weight | None = Field(
        None,
        description="Only for bdia: weight of the previous step, rounded to four decimals. "
        "null: 0.96 up to 50 executed steps, 0.96^(50/executed) above.",
    )
    steps_offset: int | None = Field(
        None,
        ge=0,
        description="Offset that is added to the timesteps of a schedule with leading spacing. null: the checkpoint's "
        "own, which is 1 for Stable Diffusion.",
    )
    bits: int | None = Field(
        None,
        ge=1,
        le=52,
        description="Fractional bits of the integer lattice. The round trip is exact with any number of bits. With "
        "more bits, the noise is closer to that of real numbers. null: 12, and 16 for obelm.",
    )

    @property
    def executed_steps(self) -> int:
        """The number of steps of the schedule that are executed."""
        return count_executed_steps(self.steps, self.strength)

    @property
    def known_guidance_scale(self) -> float:
        """The guidance scale.

        Raises:
            ValueError: It is unknown.
        """
        if self.guidance_scale is None:
            raise ValueError(
                "the guidance scale of the noise pair is unknown, because a scheduler made it in a pipeline's call; "
                "give guidance_scale"
            )
        return self.guidance_scale

    @property
    def parameters(self) -> Mapping[str, float]:
        """The given parameters that only this sampler has."""
        return {name: value for name in OWNERS if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _check_parameters(self) -> Self:
        for parameter in self.parameters:
            if OWNERS[parameter] != self.name:
                owner = OWNERS[parameter]
                raise ValueError(
                    f"{parameter} is only valid for the sampler {owner}, and the sampler is {self.name}; remove it, or "
                    f"use {owner}"
                )
        return self

    @field_validator("guidance_interval")
    @classmethod
    def _check_interval(cls, interval: list[float] | None) -> list[float] | None:
        if interval is not None and (len(interval) != 2 or not interval[0] < interval[1]):
            raise ValueError("give two noise levels, the lower one first")
        return interval

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.executed_steps < 1:
            raise ValueError(
                f"steps * strength must be at least 1, but {self.steps} * {self.strength:g} = "
                f"{self.steps * self.strength:g} executes no step; raise steps or strength"
            )
        return self


def count_executed_steps(steps: int, strength: float) -> int:
    """Return the number of `steps` that are executed at `strength`: floor(steps * strength), as in the paper's code.

    A small margin absorbs the rounding of binary fractions, such as 50 * 0.58.
    """
    return math.floor(steps * strength + 1e-9)
