"""What every worker shares: the loaded model, reading ahead, timing, and the commit."""

import os
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Generic, TypeVar

import torch
from transformers.utils import logging as transformers_logging

from edict import EDICT
from edict.checkpoint import locate, locate_lora, weights_digest
from edict.compilation import reason
from pipeline.errors import JobError
from pipeline.place import Place, place
from pipeline.plan import Unit
from pipeline.processor import processor
from pipeline.store import JobKey, Store, StoreError, attempt_name
from pipeline.work import Done, Machine, Weights
from schemas.commit import Commit, File, Seconds
from schemas.rejects import Reject

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VERSIONS = {name: version(name) for name in ("edict-pipeline", "torch", "diffusers", "transformers")}

Loaded = TypeVar("Loaded")


class OtherWeights(JobError):
    """The model that a node has under a job's name for it is another one."""


class TooLarge(JobError):
    """A batch does not fit into the device's memory."""


class NotCompiled(JobError):
    """The network of a job that asks for it cannot be compiled."""


@contextmanager
def fitting(batch_size: int) -> Iterator[None]:
    """Raises TooLarge where memory runs out, NotCompiled where the compiler fails.

    Every batch has one shape, so that no sample is at fault in either.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TooLarge(
            f"a batch of {batch_size} does not fit into the device's memory: lower workers.batch_size, or take a "
            f"device that has more ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise NotCompiled(
            f"the network could not be compiled for a batch of {batch_size}: leave model.compile out, and invert into "
            f"another store ({reason(error)})"
        ) from error


def load_model(weights: Weights, machine: Machine) -> EDICT:
    """The model of one worker. Raises OtherWeights, ModelError, and what EDICT.from_pretrained raises."""
    transformers_logging.disable_progress_bar()
    # what diffusers looks up by such a function, of versions, stays as it is
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    folder = locate(weights.path, weights.revision, weights.variant)
    lora = None if weights.lora is None else locate_lora(weights.lora, weights.lora_scale)
    if (found := weights_digest(folder, weights.variant, lora)) != weights.digest:
        raise OtherWeights(
            f"{folder} on {socket.gethostname()} is not the model of this job (sha256 {found[:12]}, the job's "
            f"{weights.digest[:12]}): give every node the same files, or a hub id with a revision"
        )
    if machine.device == "cpu":
        torch.set_num_threads(machine.threads)
    model = EDICT.from_pretrained(
        folder,
        variant=weights.variant,
        lora=weights.lora,
        lora_scale=weights.lora_scale,
        dtype=DTYPES[weights.dtype],
        device=machine.device,
        compile=weights.compile,
    )
    if 0 < machine.gpus < 1:  # the others have the rest
        torch.cuda.set_per_process_memory_fraction(machine.gpus)
    return model


def here(device: str) -> Place:
    """Where this worker's predictions are made."""
    return place(processor(device), VERSIONS)


class Ahead(Generic[Loaded]):
    """Loads units in a thread of its own, one ahead of the model."""

    def __init__(self, load: Callable[[Unit], Loaded]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1)
        self._loading: dict[str, Future[Loaded]] = {}

    def take(self, unit: Unit, ahead: Unit | None) -> Loaded:
        """What was loaded of `unit`, waiting for it where need be; loading of `ahead` has begun on return."""
        current = self._loading.pop(unit.unit, None) or self._thread.submit(self._load, unit)
        self._loading = {ahead.unit: self._thread.submit(self._load, ahead)} if ahead else {}
        return current.result()


@dataclass
class Attempt:
    """One attempt at one unit of the job with this key: names its files, times it, and commits it."""

    store: Store
    unit: Unit
    number: int
    key: JobKey
    started: float = field(default_factory=time.time)
    files: list[File] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "compute": 0.0, "write": 0.0})

    def __post_init__(self) -> None:
        unit, job = self.unit, self.key.id
        self.name = attempt_name(unit.unit, unit.retry, self.number, job, uuid.uuid4().hex[:8])
        self._clock = time.monotonic()

    def spent(self, on: str) -> None:
        """Count the time since the last call as spent on reading, computing or writing."""
        now = time.monotonic()
        self.seconds[on] += now - self._clock
        self._clock = now

    def write(self, path: str, data: bytes, rows: int = 0) -> None:
        """Write a file of this attempt, which counts once it is committed."""
        self.files.append(self.store.stage(path, data).model_copy(update={"rows": rows}))

    def commit(self, *, count: int, ok: int, filtered: int, rejects: Sequence[Reject], device: str) -> Done:
        """Put the commit, unless another attempt was first; then publish the files of the one that stands.

        Raises JobReplaced where the store became another job's.
        """
        self.spent("write")
        commit = Commit(
            job=self.key.id,
            plan=self.key.plan,
            unit=self.unit.unit,
            retry=self.unit.retry,
            errors=self.unit.errors,
            attempt=self.name,
            source=self.unit.source,
            input=count,
            ok=ok,
            rejected=len(rejects),
            filtered=filtered,
            files=tuple(self.files),
            rejects=tuple(rejects),
            seconds=Seconds(**self.seconds),
            started=self.started,
            finished=time.time(),
            worker={
                "host": socket.gethostname(),
                "pid": str(os.getpid()),
                "device": device,
                "processor": processor(device),
            },
            versions=VERSIONS,
        )
        try:
            self.store.check_key(self.key)
            won = self.store.commit(commit)
        except StoreError:
            self.store.withdraw(self.files)
            raise
        if not won:
            self.store.withdraw(self.files)
            commit = self.store.commit_at(self.unit.unit, self.unit.retry)
        self.store.publish(commit.files)
        lost = not won and commit.errors != self.unit.errors
        return Done(commit.ok, commit.rejected, commit.filtered, self.seconds["compute"], lost)
