"""Find the batch size of an inversion by measuring one worker at batch sizes 1, 2, 4 and so on.

Images and captions are generated, so no input is read. A network's speed and memory do not depend on them.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from ray.exceptions import RayError, RayTaskError
from torch import nn

from edict.integration import Predict
from edict.models import DirectModel
from edict.pair import Pair
from edict.samplers import SAMPLERS
from pipeline.errors import JobError
from pipeline.execute.cluster import connected
from pipeline.execute.pool import WorkersFailed, worker_error
from pipeline.messages import Machine
from pipeline.plan.invert_task import InvertTask, invert_task
from pipeline.profiling import NEAR, memory_peak, reset_memory_peak, smallest_near_fastest, timed
from pipeline.workers.actor import WorkerBase
from pipeline.workers.invert import start_pair
from pipeline.workers.model import TooLarge, batch_errors, load_model
from schemas.specs import InvertSpec

CAPTION = "an image"


class NoNetworkCalls(JobError):
    """The model's network calls cannot be measured one by one."""


@dataclass(frozen=True)
class BatchTiming:
    """The seconds and the bytes of memory that a worker needs for a batch of `size` images.

    `begin` is the time before the first network call, which encodes images and captions. `call` is the mean time of one
    of the `calls` network calls of an inversion. `peak` is the most memory that the worker has used so far, `weights`
    the part of it that the model's weights use.
    """

    size: int
    begin: float
    call: float
    calls: int
    peak: int
    weights: int

    @property
    def seconds(self) -> float:
        """Return the seconds per image of an inversion."""
        return (self.begin + self.calls * self.call) / self.size

    @property
    def memory_at_double_size(self) -> int:
        """Return an upper bound of the bytes at twice the size: everything doubles, except the weights."""
        return 2 * self.peak - self.weights


@dataclass(frozen=True)
class BatchSweep:
    """The sizes that fit, ascending, and the reason why no larger size was tried or taken."""

    timings: Sequence[BatchTiming]
    ended: str

    @property
    def best(self) -> BatchTiming:
        """Return the timing of the recommended size."""
        size = smallest_near_fastest({timing.size: timing.seconds for timing in self.timings})
        return next(timing for timing in self.timings if timing.size == size)


class BatchWorker(WorkerBase):
    """A Ray actor that measures batches with the model of an inversion."""

    def __init__(self, task: InvertTask) -> None:
        self.task = task
        self.model = load_model(task.weights, task.machine)

    @torch.inference_mode()
    def measure(self, size: int) -> BatchTiming:
        """Measure a batch of this size.

        Raises:
            TooLarge: The batch does not fit into the device's memory.
        """
        device, side = self.model.device, self.model.size
        pixels = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), dtype=np.uint8)
        images = [Image.fromarray(image) for image in pixels]

        def begin() -> tuple[Pair, Predict]:
            start = start_pair(self.model, self.task, images)
            return start, self.model.direct.predictor(
                [CAPTION] * size, start.guidance_scale, timesteps_without_cfg=start.timesteps_without_cfg
            )

        reset_memory_peak(device)
        with batch_errors(size, device):
            begin_seconds = timed(begin, device)
            start, predict = begin()
            x, timesteps_without_cfg, schedule = start.to_float()[0], start.timesteps_without_cfg, start.schedule
            timesteps = SAMPLERS[start.sampling.name].evaluated_timesteps(schedule, schedule.num_steps, 0)
            one_of_each = {timestep in timesteps_without_cfg: timestep for timestep in timesteps}
            seconds = {kind: timed(partial(predict, x, timestep), device) for kind, timestep in one_of_each.items()}
        call = sum(seconds[timestep in timesteps_without_cfg] for timestep in timesteps) / len(timesteps)
        components = [component for component in vars(self.model.backend).values() if isinstance(component, nn.Module)]
        weights = sum(weight.nbytes for component in components for weight in component.parameters())
        return BatchTiming(size, begin_seconds, call, len(timesteps), memory_peak(device), weights)


def run_batch(spec: InvertSpec, *, largest: int, report: Callable[[BatchTiming], None]) -> BatchSweep:
    """Measure a spec's batch sizes up to `largest` on one worker. Call `report` after each size that fits.

    Raises:
        ModelError, NoSchedule: See `invert_task`.
        NoNetworkCalls: The model is a pipeline without network calls of its own.
        ResourcesError, NoCluster, NotStarted: See `connected`.
        WorkersFailed: The worker cannot start, or a batch fails.
        TooLarge: Not even one image fits.
    """
    task = invert_task(spec)
    if not isinstance(task.model(), DirectModel):
        raise NoNetworkCalls(
            f"model {task.checkpoint.folder}: `edict batch` measures single network calls, and this model runs inside "
            "its pipeline's call. Measure whole runs instead: run the job on a few images with workers.batch_size 1, "
            "2, 4 and so on, each into another output, and compare the images per second of `edict status`"
        )
    machine = task.machine
    with connected(spec.workers.count, machine, needed=min(spec.workers.needed, 1)):
        actor: Any = ray.remote(num_cpus=machine.threads, num_gpus=machine.gpus, max_restarts=0)(BatchWorker)
        worker = actor.remote(task)
        print("waiting for a worker to start", file=sys.stderr)
        try:
            node = ray.get(worker.ready.remote())
        except RayError as error:
            raise WorkersFailed(f"a worker could not start: {worker_error(error)}") from error
        memory = available_memory(node, machine, spec.workers.count)
        try:
            return sweep(partial(measure_on, worker), largest=largest, memory=memory, report=report)
        finally:
            ray.kill(worker)


def measure_on(worker: Any, size: int) -> BatchTiming:
    """Measure a batch on a worker.

    Raises:
        TooLarge: The batch does not fit, or the worker died.
        WorkersFailed: The batch fails for another reason.
    """
    try:
        timing: BatchTiming = ray.get(worker.measure.remote(size))
    except RayTaskError as error:
        if isinstance(error.cause, JobError):
            raise error.cause from None
        raise WorkersFailed(f"a batch of {size} failed: {worker_error(error)}") from error
    except RayError as error:
        raise TooLarge(f"a batch of {size} ended its worker: {worker_error(error)}") from error
    return timing


def available_memory(node: str, machine: Machine, count: int) -> float:
    """Return the bytes of a node's memory for each worker, as Ray counts it, if `count` workers share the cluster.

    The result is infinite for a GPU, whose memory is only tried.
    """
    if machine.gpus:
        return math.inf
    nodes: list[dict[str, Any]] = ray.nodes()
    resources = next(known["Resources"] for known in nodes if known["NodeID"] == node)
    return float(resources["memory"]) / min(count, int(resources["CPU"] / machine.threads))


def sweep(
    measure: Callable[[int], BatchTiming],
    *,
    largest: int,
    memory: float,
    report: Callable[[BatchTiming], None] = lambda timing: None,
) -> BatchSweep:
    """Measure the sizes 1, 2, 4, ... until `end_reason` gives a reason to end, or a size does not fit.

    Raises:
        TooLarge: The first size does not fit.
    """
    timings: list[BatchTiming] = []
    ended: str | None = None
    while ended is None:
        try:
            timing = measure(2 * timings[-1].size if timings else 1)
            if timing.peak > memory:
                raise TooLarge(f"a batch of {timing.size} takes {_gib(timing.peak)}, and {_memory_note(memory)}")
        except TooLarge as error:
            if not timings:
                raise
            return BatchSweep(timings, str(error))
        report(timing)
        timings.append(timing)
        ended = end_reason(timings, largest=largest, memory=memory)
    return BatchSweep(timings, ended)


def end_reason(timings: Sequence[BatchTiming], *, largest: int, memory: float) -> str | None:
    """Return the reason why no larger batch is tried after these, or None to try one."""
    last = timings[-1]
    if 2 * last.size > largest:
        return f"the largest batch to try is {largest}"
    if last.memory_at_double_size > memory:
        return f"a batch of {2 * last.size} may take {_gib(last.memory_at_double_size)}, and {_memory_note(memory)}"
    seconds = [timing.seconds for timing in timings]
    if len(seconds) > 2 and min(seconds[:-2]) <= NEAR * min(seconds[-2:]):
        return f"batches of {last.size // 2} and {last.size} bring no gain"
    return None


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _memory_note(memory: float) -> str:
    return f"each worker of a node has {_gib(memory)}; lower workers.count to give each more"
