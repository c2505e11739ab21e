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
from pipeline.profiling import NEAR, fresh, peak, smallest, timed
from pipeline.workers.actor import Ready
from pipeline.workers.base import TooLarge, fitting, load_model
from pipeline.workers.invert import clean_pair
from schemas.specs import InvertSpec

CAPTION = "a picture"


@dataclass(frozen=True)
class Trial:
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
    def doubled(self) -> int:
        """What the worker takes at most at twice the size: all but the weights doubles."""
        return 2 * self.peak - self.weights


@dataclass(frozen=True)
class Swept:
    """The sizes that fit, ascending, and why no larger one was tried, or taken."""

    trials: Sequence[Trial]
    ended: str

    @property
    def best(self) -> Trial:
        """The one to take."""
        size = smallest({trial.size: trial.seconds for trial in self.trials})
        return next(trial for trial in self.trials if trial.size == size)


class BatchWorker(Ready):
    """A Ray actor's body: a worker of an inversion, to be measured."""

    def __init__(self, task: Job) -> None:
        self.task = task
        self.model = load_model(task.weights, task.machine)

    @torch.inference_mode()
    def measure(self, size: int) -> Trial:
        """A batch of this size. Raises TooLarge."""
        device, side = self.model.device, self.model.size
        pixels = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), dtype=np.uint8)
        pictures = [Image.fromarray(picture) for picture in pixels]

        def begin() -> tuple[Pair, Predict]:
            start = clean_pair(self.model, self.task, pictures)
            return start, self.model.predictor([CAPTION] * size, start.guidance_scale, unguided=start.unguided)

        fresh(device)
        with fitting(size, device):
            before = timed(begin, device)
            start, predict = begin()
            x, unguided, schedule = start.to_float()[0], start.unguided, start.schedule
            timesteps = SAMPLERS[start.sampling.name].evaluated_timesteps(schedule, schedule.num_steps, 0)
            one_of_each = {timestep in unguided: timestep for timestep in timesteps}
            seconds = {kind: timed(partial(predict, x, timestep), device) for kind, timestep in one_of_each.items()}
        call = sum(seconds[timestep in unguided] for timestep in timesteps) / len(timesteps)
        parts = [part for part in vars(self.model.model).values() if isinstance(part, nn.Module)]
        weights = sum(weight.nbytes for part in parts for weight in part.parameters())
        return Trial(size, before, call, len(timesteps), peak(device), weights)


def run_batch(spec: InvertSpec, *, largest: int, tell: Callable[[Trial], None]) -> Swept:
    """Measure a spec's batch sizes up to `largest` on one worker, and `tell` each that fits as soon as it is known.

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
        room = room_of(node, machine, spec.workers.count)
        try:
            return sweep(partial(measured, worker), largest=largest, room=room, tell=tell)
        finally:
            ray.kill(worker)


def measured(worker: Any, size: int) -> Trial:
    """A worker's answer. Raises TooLarge where it does not fit or the worker died of it, else WorkersFailed."""
    try:
        trial: Trial = ray.get(worker.measure.remote(size))
    except RayTaskError as error:
        if isinstance(error.cause, JobError):
            raise error.cause from None
        raise WorkersFailed(f"a batch of {size} failed: {cause(error)}") from error
    except RayError as error:
        raise TooLarge(f"a batch of {size} ended its worker: {cause(error)}") from error
    return trial


def room_of(node: str, machine: Machine, count: int) -> float:
    """Bytes a worker has of its node's memory, as Ray counts it, where as many of `count` as find room are at work.

    No bound for a GPU's: there it is tried.
    """
    if machine.gpus:
        return math.inf
    has = next(known["Resources"] for known in ray.nodes() if known["NodeID"] == node)
    return float(has["memory"]) / min(count, int(has["CPU"] / machine.threads))


def sweep(
    measure: Callable[[int], Trial], *, largest: int, room: float, tell: Callable[[Trial], None] = lambda trial: None
) -> Swept:
    """1, 2, 4, ... until `ending` has a reason, or one does not fit. Raises TooLarge where that is the first."""
    trials: list[Trial] = []
    ended: str | None = None
    while ended is None:
        try:
            trial = measure(2 * trials[-1].size if trials else 1)
            if trial.peak > room:
                raise TooLarge(f"a batch of {trial.size} takes {_gib(trial.peak)}, and {_has(room)}")
        except TooLarge as error:
            if not trials:
                raise
            return Swept(trials, str(error))
        tell(trial)
        trials.append(trial)
        ended = ending(trials, largest=largest, room=room)
    return Swept(trials, ended)


def ending(trials: Sequence[Trial], *, largest: int, room: float) -> str | None:
    """Why no larger batch is tried after these; None where one is."""
    last = trials[-1]
    if 2 * last.size > largest:
        return f"no batch of more than {largest} was to be tried"
    if last.doubled > room:
        return f"a batch of {2 * last.size} may take {_gib(last.doubled)}, and {_has(room)}"
    seconds = [trial.seconds for trial in trials]
    if len(seconds) > 2 and min(seconds[:-2]) <= NEAR * min(seconds[-2:]):
        return f"batches of {last.size // 2} and {last.size} bring no gain"
    return None


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _has(room: float) -> str:
    return f"each worker of a node has {_gib(room)}: with fewer workers.count it has more"
