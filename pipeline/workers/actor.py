"""The Ray actors that workers run in."""

from typing import Any

import ray
from ray import cloudpickle

from pipeline.workers.heartbeat import HEARTBEAT, WORK, Report


class WorkerBase:
    """An actor that answers once its constructor has finished."""

    def ready(self) -> str:
        """Return the id of the node on which it runs."""
        return _node()


class WorkerActor:
    """The actor of a pool: it makes a worker, calls it, and reports its heartbeat while the worker is busy.

    `load` and `call` run in one thread, the only one of the actor's default concurrency group. So settings that a
    worker's constructor makes for its thread, as torch.set_num_threads does for OpenMP, apply to everything that it
    computes. Ray runs the constructor of an actor with concurrency groups in another thread, so the worker is not made
    in the constructor of this class.
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
        """Return the id of the node on which the actor runs, once Ray has started it."""
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
