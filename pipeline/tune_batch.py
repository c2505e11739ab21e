"""The batch size of an inversion, found by measuring: one worker as the job would have it, at 1, 2, 4 and so on.

Pictures and captions are made up, so no input is read; a network's speed and memory do not depend on them.
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
from edict.pair import Pair
from edict.samplers import SAMPLERS
from pipeline.errors import JobError
from pipeline.execute.cluster import connected
from pipeline.execute.pool import WorkersFailed, cause
from pipeline.messages import Machine
from pipeline.plan.job import Job, resolve
from pipeline.profiling import NEAR, memory_peak, reset_memory_peak, smallest_near_fastest, timed
from pipeline.workers.actor import WorkerBase
from pipeline.workers.base import TooLarge, fitting, load_model
from pipeline.workers.invert import clean_pair
from schemas.specs import InvertSpec

CAPTION = "a picture"


@dataclass(frozen=True)
class BatchTiming:
    """What a worker takes at a batch size: seconds, and bytes of its memory.

    `begin` are the seconds before the network is asked, of encoding pictures and captions; `call` those of a call, in
    the mean of the `calls` of an inversion. `peak` is all that the worker has taken so far, `weights` what of that is
    the model's.
    """

    size: int
    begin: float
    call: float
    calls: int
    peak: int
    weights: int

    @property
    def seconds(self) -> float:
        """Of a picture's inversion."""
        return (self.begin + self.calls * self.call) / self.size

    @property
    def memory_at_double_size(self) -> int:
        """What the worker takes at most at twice the size: all but the weights doubles."""
        return 2 * self.peak - self.weights


@dataclass(frozen=True)
class BatchSweep:
    """The sizes that fit, ascending, and why no larger one was tried, or taken."""

    timings: Sequence[BatchTiming]
    ended: str

    @property
    def best(self) -> BatchTiming:
        """The one to take."""
        size = smallest_near_fastest({timing.size: timing.seconds for timing in self.timings})
        return next(timing for timing in self.timings if timing.size == size)


class BatchWorker(WorkerBase):
    """A Ray actor's body: a worker of an inversion, to be measured."""

    def __init__(self, task: Job) -> None:
        self.task = task
        self.model = load_model(task.weights, task.machine)

    @torch.inference_mode()
    def measure(self, size: int) -> BatchTiming:
        """A batch of this size. Raises TooLarge."""
        device, side = self.model.device, self.model.size
        pixels = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), dtype=np.uint8)
        pictures = [Image.fromarray(picture) for picture in pixels]

        def begin() -> tuple[Pair, Predict]:
            start = clean_pair(self.model, self.task, pictures)
            return start, self.model.direct.predictor(
                [CAPTION] * size, start.guidance_scale, timesteps_without_cfg=start.timesteps_without_cfg
            )

        reset_memory_peak(device)
        with fitting(size, device):
            before = timed(begin, device)
            start, predict = begin()
            x, timesteps_without_cfg, schedule = start.to_float()[0], start.timesteps_without_cfg, start.schedule
            timesteps = SAMPLERS[start.sampling.name].evaluated_timesteps(schedule, schedule.num_steps, 0)
            one_of_each = {timestep in timesteps_without_cfg: timestep for timestep in timesteps}
            seconds = {kind: timed(partial(predict, x, timestep), device) for kind, timestep in one_of_each.items()}
        call = sum(seconds[timestep in timesteps_without_cfg] for timestep in timesteps) / len(timesteps)
        parts = [part for part in vars(self.model.backend).values() if isinstance(part, nn.Module)]
        weights = sum(weight.nbytes for part in parts for weight in part.parameters())
        return BatchTiming(size, before, call, len(timesteps), memory_peak(device), weights)


def run_batch(spec: InvertSpec, *, largest: int, report: Callable[[BatchTiming], None]) -> BatchSweep:
    """Measure a spec's batch sizes up to `largest` on one worker, and `report` each that fits as soon as it is known.

    Raises ModelError, NoSchedule, ResourcesError, WorkersFailed; TooLarge where not even one picture fits.
    """
    task = resolve(spec)
    machine = task.machine
    with connected(spec.workers.count, machine, needed=min(spec.workers.needed, 1)):
        actor: Any = ray.remote(num_cpus=machine.threads, num_gpus=machine.gpus, max_restarts=0)(BatchWorker)
        worker = actor.remote(task)
        print("waiting for a worker to start", file=sys.stderr)
        try:
            node = ray.get(worker.ready.remote())
        except RayError as error:
            raise WorkersFailed(f"a worker could not start: {cause(error)}") from error
        memory = available_memory(node, machine, spec.workers.count)
        try:
            return sweep(partial(measured, worker), largest=largest, memory=memory, report=report)
        finally:
            ray.kill(worker)


def measured(worker: Any, size: int) -> BatchTiming:
    """A worker's answer. Raises TooLarge where it does not fit or the worker died of it, else WorkersFailed."""
    try:
        timing: BatchTiming = ray.get(worker.measure.remote(size))
    except RayTaskError as error:
        if isinstance(error.cause, JobError):
            raise error.cause from None
        raise WorkersFailed(f"a batch of {size} failed: {cause(error)}") from error
    except RayError as error:
        raise TooLarge(f"a batch of {size} ended its worker: {cause(error)}") from error
    return timing


def available_memory(node: str, machine: Machine, count: int) -> float:
    """Bytes a worker has of its node's memory, as Ray counts it, where as many of `count` as find memory are at work.

    No bound for a GPU's: there it is tried.
    """
    if machine.gpus:
        return math.inf
    has = next(known["Resources"] for known in ray.nodes() if known["NodeID"] == node)
    return float(has["memory"]) / min(count, int(has["CPU"] / machine.threads))


def sweep(
    measure: Callable[[int], BatchTiming],
    *,
    largest: int,
    memory: float,
    report: Callable[[BatchTiming], None] = lambda timing: None,
) -> BatchSweep:
    """1, 2, 4, ... until `ending` has a reason, or one does not fit. Raises TooLarge where that is the first."""
    timings: list[BatchTiming] = []
    ended: str | None = None
    while ended is None:
        try:
            timing = measure(2 * timings[-1].size if timings else 1)
            if timing.peak > memory:
                raise TooLarge(f"a batch of {timing.size} takes {_gib(timing.peak)}, and {_has(memory)}")
        except TooLarge as error:
            if not timings:
                raise
            return BatchSweep(timings, str(error))
        report(timing)
        timings.append(timing)
        ended = ending(timings, largest=largest, memory=memory)
    return BatchSweep(timings, ended)


def ending(timings: Sequence[BatchTiming], *, largest: int, memory: float) -> str | None:
    """Why no larger batch is tried after these; None where one is."""
    last = timings[-1]
    if 2 * last.size > largest:
        return f"no batch of more than {largest} was to be tried"
    if last.memory_at_double_size > memory:
        return f"a batch of {2 * last.size} may take {_gib(last.memory_at_double_size)}, and {_has(memory)}"
    seconds = [timing.seconds for timing in timings]
    if len(seconds) > 2 and min(seconds[:-2]) <= NEAR * min(seconds[-2:]):
        return f"batches of {last.size // 2} and {last.size} bring no gain"
    return None


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _has(memory: float) -> str:
    return f"each worker of a node has {_gib(memory)}: with fewer workers.count it has more"
