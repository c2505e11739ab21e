"""The `rejects` section of a job."""

from pydantic import Field

from schemas.sampling import Strict
from schemas.specs.fields import Share


class RejectsSpec(Strict):
    """The limit on rejected images, above which a job does not count as a success."""

    max_share: Share | None = Field(
        None,
        description="Largest share of images that may be rejected. If more are rejected, the exit status is 1. "
        "Filtered images do not count. null: no limit.",
    )
