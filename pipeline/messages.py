"""Messages between the driver and its workers. The module imports no model, so that a driver starts fast."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import JobError
from schemas.specs import Dtype, ModelSpec


@dataclass(frozen=True)
class Machine:
    """The device, CPU threads and GPUs of one worker. A prediction's last bits depend on them, so job.json has them."""

    device: str
    threads: int
    gpus: float


def machine_for(gpus: float) -> Machine:
    """Return the machine of a worker with `gpus` GPUs (or a share of one), or with one CPU core if that is 0.

    A CPU worker has one core, because a float32 prediction depends on the number of threads. With several threads it
    also depends more often on the sample's slot (docs/guarantees.md). To use more cores, start more workers.
    """
    return Machine("cuda" if gpus else "cpu", 1, gpus)


@dataclass(frozen=True)
class Weights:
    """The model that workers load: its spec with absolute paths, and the digest of its files.

    `dtype` is the precision of the network, with `auto` resolved.
    """

    model: ModelSpec
    digest: str
    dtype: Dtype


@dataclass(frozen=True)
class Fault:
    """The `error` and the `message` of a reject."""

    error: str
    message: str


def to_fault(error: Exception) -> Fault:
    """Return the fault of a sample that raised an error."""
    return Fault(type(error).__name__, str(error))


class ModelFault(JobError):
    """The model fails on a blank image and an empty caption, so it would fail on every sample and every worker."""


@dataclass(frozen=True)
class UnitResult:
    """The numbers of images of a unit by result, and the seconds that the worker's model computed.

    `superseded` is true if a retry of other rejects of the unit was committed first, so that this retry has to be tried
    again. `model_errors` counts the rejects that the model or the end of a worker caused, by class of error.
    """

    ok: int
    rejected: int
    filtered: int
    compute: float
    superseded: bool = False
    model_errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return self.ok + self.rejected + self.filtered


ExcludedSamples = Mapping[int, Fault]
"""The samples to leave out of a unit, by their position in it. Each one by itself made a worker fail."""
