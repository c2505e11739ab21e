"""The `workers` of an inversion and of an edit."""

from typing import Self

from pydantic import Field, model_validator

from schemas.sampling import Strict


class Workers(Strict):
    """Worker processes, each with its own copy of the model."""

    count: int = Field(1, ge=1, description="Number of workers. On a cluster that grows, this is the maximum.")
    min_count: int | None = Field(
        None,
        ge=0,
        description="Number of workers that must fit into the cluster at the start; otherwise the job does not start. "
        "null: all of them. Use 0 on a cluster that starts machines on demand.",
    )

    @property
    def needed(self) -> int:
        """The number of workers that must fit into the cluster at once."""
        return self.count if self.min_count is None else self.min_count

    @model_validator(mode="after")
    def _check_min_count(self) -> Self:
        if self.needed > self.count:
            raise ValueError(f"min_count is {self.min_count}, but count is {self.count}; reduce min_count")
        return self


class WorkerSpec(Workers):
    """Workers of an inversion."""

    gpus: float = Field(
        0.0, ge=0, description="GPUs per worker. With a fraction, workers share a GPU; with 0, they run on the CPU."
    )
    batch_size: int = Field(
        16,
        ge=1,
        le=1024,
        description="Images per batch. It is a part of the store's fingerprint, because regeneration is only exact "
        "with the same batch size.",
    )


class EditWorkers(Workers):
    """Workers of an edit."""

    gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs per worker. With a fraction, workers share a GPU; with 0, they run on the CPU. null: as "
        "many as the store's inversion had, so that regeneration is exact.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Images per batch. null: the batch size of the store, so that regeneration is exact.",
    )
