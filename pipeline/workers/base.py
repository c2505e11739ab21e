"""What every worker shares: the loaded model, reading ahead, timing, and the commit."""

import os
import socket
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any, Generic, TypeVar

import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from edict import EDICT
from edict.compilation import reason
from edict.determinism import enough_memory
from edict.errors import ModelError
from edict.models import DirectModel, LoadOptions
from edict.samplers.base import BITS
from edict.schedule import Schedule
from pipeline.errors import JobError
from pipeline.messages import Machine, ModelFault, UnitResult, Weights
from pipeline.plan.job import checkpoint_of
from pipeline.store.errors import StoreError
from pipeline.store.job_record import JobKey
from pipeline.store.paths import attempt_name
from pipeline.store.plan import Unit
from pipeline.store.store import Store
from pipeline.workers.heartbeat import AUTOENCODER, HEARTBEAT, LOADING, NETWORK, TEXT, beat
from pipeline.workers.processor import gpu_versions, processor
from pipeline.workers.provenance import Environment, environment
from schemas.commit import Commit, File, Seconds
from schemas.errors import first_line
from schemas.rejects import Reject
from schemas.sampling import Sampling

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PACKAGES = ("edict-pipeline", "torch", "diffusers", "transformers")

# Rejects of these stages are caused by the model or the end of a worker, except those of the classes OF_THE_ROW, which
# are found before the model is called.
MODEL_STAGES = ("invert", "edit")
OF_THE_ROW = ("WordNotFound", "MaskError", "BadMemberName")

Loaded = TypeVar("Loaded")


class OtherWeights(JobError):
    """The model that a node has under a job's name for it is another one."""


class ScheduleChanged(JobError):
    """The model's noise schedule is not the one that the rows of the store have."""


class TooLarge(JobError):
    """A batch does not fit into the device's memory."""


class NotCompiled(JobError):
    """The network of a job that asks for it cannot be compiled."""


@contextmanager
def fitting(batch_size: int, device: torch.device) -> Iterator[None]:
    """Translate the errors that every batch of one shape would have: none is the fault of a sample.

    Raises:
        TooLarge: memory ran out, even if a library recovered from it (edict.determinism).
        NotCompiled: the compiler failed.
    """
    try:
        with enough_memory(device):
            yield
    except torch.OutOfMemoryError as error:
        raise TooLarge(
            f"a batch of {batch_size} does not fit into the device's memory: lower workers.batch_size, or take a "
            f"device that has more ({first_line(error)})"
        ) from error
    except Exception as error:
        if not _of_compiler(error):
            raise
        raise NotCompiled(
            f"the network could not be compiled for a batch of {batch_size}: leave model.compile out, and invert into "
            f"another store ({reason(error)})"
        ) from error


def _of_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _of_device(error: Exception) -> bool:
    """Return True for an error of a GPU or its memory: the GPU of another worker may not have it."""
    named = any(library in str(error) for library in ("CUDA", "cuDNN", "CUBLAS"))
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and named)


def load_model(weights: Weights, machine: Machine) -> EDICT:
    """Return the model of one worker. Raises OtherWeights, and the errors of EDICT.load."""
    for logging in (transformers_logging, diffusers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # Pipelines repeat the same warnings in every call.
    # Functions of diffusers that look up versions are cached, which does not matter.
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    checkpoint, spec = checkpoint_of(weights.model), weights.model
    beat(LOADING)
    if (found := checkpoint.digest()) != weights.digest:
        raise OtherWeights(
            f"{checkpoint.folder} on {socket.gethostname()} is not the model of this job (sha256 {found[:12]}, the "
            f"job's {weights.digest[:12]}): give every node the same files, or a hub id with a revision"
        )
    beat(LOADING)
    if machine.device == "cpu":
        torch.set_num_threads(machine.threads)
    elif weights.dtype == "bfloat16" and torch.cuda.get_device_capability() < (8, 0):
        raise ModelError(
            f"{torch.cuda.get_device_name()} on {socket.gethostname()} has no bfloat16: set model.dtype: float16 or "
            "float32, or use GPUs of compute capability 8.0 or more"
        )
    options = LoadOptions(
        dtype=DTYPES[weights.dtype],
        device=machine.device,
        quantization=spec.quantization,
        call=spec.call,
        compile=spec.compile,
        channels_last=spec.channels_last,
        vae_dtype=spec.vae_dtype,
    )
    model = EDICT.load(checkpoint, options)
    model.set_progress_bar_config(disable=True)
    if 0 < machine.gpus < 1:  # other workers use the rest of the GPU's memory
        torch.cuda.set_per_process_memory_fraction(machine.gpus)
    _beating(model)
    return model


def _beating(model: EDICT) -> None:
    """Make a loaded model beat at each network call, each image of its autoencoder and each batch of captions.

    A compiled network has no hook, because it would compile the hook too.
    """
    model.on_network_call = lambda: beat(NETWORK)
    component: Any
    for name, component in model.backend.components.items():
        if name == "vae":
            for half in (component.encoder, component.decoder):
                half.register_forward_pre_hook(lambda *_: beat(AUTOENCODER))
        elif name.startswith("text_encoder"):
            component.register_forward_pre_hook(lambda *_: beat(TEXT))
            component.register_forward_hook(lambda *_: beat(NETWORK))


@torch.inference_mode()
def check_model(model: EDICT, sampling: Sampling, batch_size: int, stored: Schedule | None = None) -> None:
    """Try each part of a job's model on a blank image and an empty caption, at the job's batch shape.

    Otherwise a fault of the model would reject every sample. With `model.compile` this also compiles the network, which
    takes minutes, before the first unit. `stored` is the schedule of the rows that the store already has.

    Raises:
        ScheduleChanged: the model's schedule is not the stored one.
        ModelFault: a component raises an error, or its output has a wrong shape, NaN or infinity.
        TooLarge, NotCompiled: see `fitting`.
    """
    inner, side = model.backend, model.size
    with fitting(batch_size, model.device), _trying(model, "the pipeline's call"):
        schedule = inner.schedule(sampling)
    if stored not in (None, schedule):
        raise ScheduleChanged(
            f"the schedule of {inner.folder} on {socket.gethostname()} is not that of the rows in the store, although "
            "the model's files are the same. Use the versions of the packages that made them (edict status), or give "
            "another output"
        )
    with fitting(batch_size, model.device):
        with _trying(model, "the autoencoder"):
            latents = inner.encode(torch.zeros(1, 3, side, side, device=model.device), None)
            _sound(latents, (1, *latents.shape[1:]))
        if isinstance(inner, DirectModel):
            _try_network(model, sampling, latents.double().expand(batch_size, *latents.shape[1:]))
        else:
            with _trying(model, "the pipeline's call"):
                blanks = [Image.new("RGB", (side, side))] * (batch_size if inner.supports_batches else 1)
                start = model.prepare(model.encode(blanks, bits=sampling.bits or BITS), sampling)
                _, faults = model.integrate(start, [""] * len(blanks), start.position - 1)
                for fault in faults.values():
                    raise fault
        with _trying(model, "the autoencoder"):
            _sound(inner.decode(latents), (1, 3, side, side))


def _try_network(model: EDICT, sampling: Sampling, latents: torch.Tensor) -> None:
    """Try the text encoder and the network of a direct model on a batch of latents."""
    schedule = model.backend.schedule(sampling)
    timesteps_without_cfg = schedule.timesteps_outside(sampling.guidance_interval)
    # One timestep with guidance and one without, because the batch of the network differs between them.
    timesteps = {
        timestep in timesteps_without_cfg: timestep for timestep in schedule.timesteps[: schedule.num_evaluated_steps]
    }.values()
    with _trying(model, "the tokenizer or the text encoder"):
        predict = model.direct.predictor(
            [""] * len(latents), sampling.known_guidance_scale, timesteps_without_cfg=timesteps_without_cfg
        )
    for timestep in timesteps:
        with _trying(model, f"the network ({model.backend.denoiser})"):
            _sound(predict(latents, timestep), tuple(latents.shape))


@contextmanager
def _trying(model: EDICT, part: str) -> Iterator[None]:
    """Raise ModelFault if a component fails. Errors of the machine, and those that `fitting` handles, are unchanged."""
    try:
        yield
    except Exception as error:
        if _of_compiler(error) or _of_device(error):
            raise
        said = " ".join(str(error).split()) or "without a message"
        raise ModelFault(
            f"the model {model.backend.folder} fails on a blank image and an empty caption, in {part}: "
            f"{type(error).__name__}: {said}. Check that its files are complete and belong together"
        ) from error


def _sound(values: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError if values do not have this shape or are not finite."""
    if tuple(values.shape) != shape:
        raise ValueError(f"its output has the shape {[*values.shape]}, expected {[*shape]}")
    if not values.isfinite().all():
        raise ValueError("its output has NaN or infinity; float16 overflows easily: use bfloat16 or float32")


@cache
def versions(device: str) -> dict[str, str]:
    """Return the versions on which a device's last bits depend: packages and, on a GPU, its libraries and driver."""
    return {name: version(name) for name in PACKAGES} | (gpu_versions() if device == "cuda" else {})


def here(device: str) -> Environment:
    """Where this worker's predictions are made."""
    return environment(processor(device), versions(device))


class Prefetcher(Generic[Loaded]):
    """Loads units in a thread of its own, one ahead of the model."""

    def __init__(self, load: Callable[[Unit], Loaded]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1)
        self._loading: dict[str, Future[Loaded]] = {}

    def take(self, unit: Unit, ahead: Unit | None) -> Loaded:
        """What was loaded of `unit`, waiting for it where need be; loading of `ahead` has begun on return."""
        current = self._loading.pop(unit.unit, None) or self._thread.submit(self._load, unit)
        self._loading = {ahead.unit: self._thread.submit(self._load, ahead)} if ahead else {}
        HEARTBEAT.prefetching()
        return current.result()


@dataclass
class Attempt:
    """One attempt at one unit of the job with this key: it names the files, measures the time, and commits."""

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
        """Write a file of this attempt. It counts once the attempt is committed."""
        self.files.append(self.store.stage(path, data).model_copy(update={"rows": rows}))

    def commit(self, *, count: int, ok: int, filtered: int, rejects: Sequence[Reject], device: str) -> UnitResult:
        """Put the commit, unless another attempt was first. Then publish the files of the commit that exists.

        Raises JobReplaced if the store is now another job's.
        """
        self.spent("write")
        commit = Commit(
            job=self.key.id,
            plan=self.key.plan,
            after=self.unit.after,
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
            versions=versions(device),
        )
        try:
            self.store.check_key(self.key, device)
            if self.unit.after is not None:
                self.store.check_follows(self.unit.unit, self.unit.retry, self.unit.after)
            won = self.store.has_staged(self.files) and self.store.commit(commit)
        except StoreError:
            self.store.delete_staged(self.files)
            raise
        if not won:
            self.store.delete_staged(self.files)
            commit = self.store.read_commit(self.unit.unit, self.unit.retry)
        self.store.publish(commit.files)
        lost = not won and commit.errors != self.unit.errors
        by_model = [reject.error for reject in commit.rejects if reject.stage in MODEL_STAGES]
        model_errors = Counter(error for error in by_model if error not in OF_THE_ROW)
        return UnitResult(commit.ok, commit.rejected, commit.filtered, self.seconds["compute"], lost, model_errors)
