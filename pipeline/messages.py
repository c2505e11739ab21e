"""The messages between the pool and its workers. The module imports no model, so that a driver starts fast."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import JobError
from schemas.specs import Dtype, ModelSpec


@dataclass(frozen=True)
class Machine:
    """What a worker runs the model on. Kept with a store, because a prediction's last bits depend on it."""

    device: str
    threads: int
    gpus: float


def machine_for(gpus: float) -> Machine:
    """What a worker runs on: a GPU or a share of one, or else one CPU core.

    A worker has one core, because a float32 prediction depends on the number of threads, and with several threads more
    often on the sample's slot (docs/guarantees.md). To use more cores, start more workers.
    """
    return Machine("cuda" if gpus else "cpu", 1, gpus)


@dataclass(frozen=True)
class Weights:
    """The model of a job, as each worker finds it on its node: its spec with absolute paths, and the files' digest.

    `dtype` is the precision of the network, with `auto` resolved.
    """

    model: ModelSpec
    digest: str
    dtype: Dtype


@dataclass(frozen=True)
class Fault:
    """Why a sample is left out, in the words of a reject."""

    error: str
    message: str


class ModelFault(JobError):
    """The model fails on a blank image and an empty caption, so it would fail on every sample and every worker."""


@dataclass(frozen=True)
class UnitResult:
    """The result of a unit: its images by result, and the seconds that the worker's model computed.

    `lost` is true if a retry of other rejects of the unit was committed first, so that this one has to be tried again.
    `model_errors` counts the rejects that the model or the end of a worker caused, by class of error.
    """

    ok: int
    rejected: int
    filtered: int
    compute: float
    lost: bool = False
    model_errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return self.ok + self.rejected + self.filtered


ExcludedSamples = Mapping[int, Fault]
"""The samples to leave out of a unit, by their place in it: each killed, hung or failed its worker when tried alone."""
