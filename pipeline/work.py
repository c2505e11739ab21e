"""What passes between the pool and its workers. Imports no model, so that whoever only drives starts fast."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray import cloudpickle

from pipeline.errors import JobError
from pipeline.heartbeat import HEARTBEAT, WORK, Report


@dataclass(frozen=True)
class Machine:
    """What a worker runs the model on. Kept with a store, because a prediction's last bits depend on it."""

    device: str
    threads: int
    gpus: float


@dataclass(frozen=True)
class Weights:
    """The model of a job, as each worker finds it on its own node: by where it is, with this very digest."""

    path: str
    revision: str | None
    digest: str
    dtype: str
    variant: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    compile: bool = False
    channels_last: bool = False
    vae_dtype: Literal["float32", "tf32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Fault:
    """Why a sample is left out, in the words of a reject."""

    error: str
    message: str


class ModelFault(JobError):
    """The model fails on a blank image and an empty caption, so it would fail on every sample and every worker."""


@dataclass(frozen=True)
class Done:
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


Poison = Mapping[int, Fault]
"""The samples to leave out of a unit, by their place in it: each killed, hung or failed its worker when tried alone."""


class Ready:
    """An actor that answers when its constructor is through."""

    def ready(self) -> str:
        """The node it runs on."""
        return _node()


class Host:
    """The actor of a pool: it makes a worker, calls it, and reports its heartbeat while the worker is busy.

    `load` and `call` run in one thread, the only one of the actor's default concurrency group. So settings that a
    worker's constructor makes for its thread, as torch.set_num_threads does for OpenMP, apply to everything that it
    computes. Ray runs the constructor of an actor with concurrency groups in another thread, so the worker is not made
    in the constructor of Host.
    """

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    @staticmethod
    def pack(worker: type, task: Any) -> bytes:
        """Pack a worker's class and its task into the argument of the constructor.

        `load` unpacks them, because unpacking imports the model's libraries, which takes long and can fail.
        """
        return bytes(cloudpickle.dumps((worker, task)))

    def node(self) -> str:
        """Return the node on which the actor runs, once Ray has started it."""
        return _node()

    def load(self) -> None:
        """Make the worker."""
        HEARTBEAT.own()
        worker, task = cloudpickle.loads(self._packed)
        self._worker = worker(task)
        HEARTBEAT.idle()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker."""
        HEARTBEAT.beat(WORK)
        try:
            return getattr(self._worker, method)(*arguments)
        finally:
            HEARTBEAT.idle()

    @ray.method(concurrency_group="heartbeat")
    def heartbeat(self) -> Report:
        """Return the worker's progress."""
        return HEARTBEAT.report()


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())
