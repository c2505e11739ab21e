"""The `sampler` of an inversion."""

from pydantic import Field

from schemas.sampling import Sampling
from schemas.specs.fields import Guidance, Steps


class SamplerSpec(Sampling):
    """The sampler, and the steps of the noise schedule that it executes."""

    steps: Steps = Field(50, description=Sampling.model_fields["steps"].description)
    guidance_scale: Guidance = Field(3.0, description=Sampling.model_fields["guidance_scale"].description)
    steps_offset: int | None = Field(None, ge=0, lt=1000, description=Sampling.model_fields["steps_offset"].description)
    bits: int | None = Field(None, ge=4, le=20, description=Sampling.model_fields["bits"].description)
