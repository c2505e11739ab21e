"""The model of a worker: load it, check it before the first unit, and describe errors that affect whole batches."""

import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from edict import EDICT
from edict.compilation import compiler_error_reason
from edict.determinism import enough_memory
from edict.errors import ModelError
from edict.models import DirectModel, LoadOptions
from edict.samplers.base import BITS
from edict.schedule import Schedule
from pipeline.errors import JobError
from pipeline.messages import Machine, ModelFault, Weights
from pipeline.plan.invert_task import locate_checkpoint
from pipeline.workers.heartbeat import AUTOENCODER, LOADING, NETWORK, TEXT, beat
from schemas.errors import first_line
from schemas.sampling import Sampling

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class OtherWeights(JobError):
    """A node has another model than the job under the same path."""


class ScheduleChanged(JobError):
    """The model's noise schedule is not that of the rows in the store."""


class TooLarge(JobError):
    """A batch does not fit into the device's memory."""


class NotCompiled(JobError):
    """The network of a job with `model.compile` cannot be compiled."""


@contextmanager
def batch_errors(batch_size: int, device: torch.device) -> Iterator[None]:
    """Raise a JobError for an error that every batch of this size would have, because no sample causes it.

    Raises:
        TooLarge: Memory ran out, even if a library recovered from it (edict.determinism).
        NotCompiled: The compiler failed.
    """
    try:
        with enough_memory(device):
            yield
    except torch.OutOfMemoryError as error:
        raise TooLarge(
            f"a batch of {batch_size} does not fit into the device's memory ({first_line(error)}); lower "
            "workers.batch_size, or use a device with more memory"
        ) from error
    except Exception as error:
        if not _is_compiler_error(error):
            raise
        raise NotCompiled(
            f"the network could not be compiled for a batch of {batch_size}: leave model.compile out, and invert into "
            f"another store ({compiler_error_reason(error)})"
        ) from error


def load_model(weights: Weights, machine: Machine) -> EDICT:
    """Return the model of a worker.

    Raises:
        OtherWeights: The model's files on this node are not those of the job.
        ModelError: The model cannot be loaded, or the GPU has no bfloat16.
    """
    for logging in (transformers_logging, diffusers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # Pipelines repeat the same warnings in every call.
    # Functions of diffusers that look up versions are cached, which does not matter.
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    checkpoint, spec = locate_checkpoint(weights.model), weights.model
    beat(LOADING)
    if (digest := checkpoint.digest()) != weights.digest:
        raise OtherWeights(
            f"{checkpoint.folder} on {socket.gethostname()} is not the model of this job (its sha256 is {digest[:12]}, "
            f"the job's {weights.digest[:12]}); give every node the same files, or use a hub id with a revision"
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
    if 0 < machine.gpus < 1:  # Other workers use the rest of the GPU's memory.
        torch.cuda.set_per_process_memory_fraction(machine.gpus)
    _report_progress(model)
    return model


@torch.inference_mode()
def check_model(model: EDICT, sampling: Sampling, batch_size: int, stored: Schedule | None = None) -> None:
    """Try each component of a job's model on a blank image and an empty caption, in a batch of the job's size.

    Otherwise a fault of the model would reject every sample. With `model.compile` this also compiles the network, which
    takes minutes, before the first unit. `stored` is the schedule of the rows that the store already has.

    Raises:
        ScheduleChanged: The model's schedule is not the stored one.
        ModelFault: A component raises an error, or its output has a wrong shape, NaN or infinity.
        TooLarge: See `batch_errors`.
        NotCompiled: See `batch_errors`.
    """
    inner, side = model.backend, model.size
    with batch_errors(batch_size, model.device), _component(model, "the pipeline's call"):
        schedule = inner.schedule(sampling)
    if stored not in (None, schedule):
        raise ScheduleChanged(
            f"the schedule of {inner.folder} on {socket.gethostname()} is not that of the rows in the store, although "
            "the model's files are the same. Use the versions of the packages that made them (edict status), or give "
            "another output"
        )
    with batch_errors(batch_size, model.device):
        with _component(model, "the autoencoder"):
            latents = inner.encode(torch.zeros(1, 3, side, side, device=model.device), None)
            _check_output(latents, (1, *latents.shape[1:]))
        if isinstance(inner, DirectModel):
            _check_network(model, sampling, latents.double().expand(batch_size, *latents.shape[1:]))
        else:
            with _component(model, "the pipeline's call"):
                blanks = [Image.new("RGB", (side, side))] * (batch_size if inner.supports_batches else 1)
                start = model.prepare(model.encode(blanks, bits=sampling.bits or BITS), sampling)
                _, faults = model.integrate(start, [""] * len(blanks), start.position - 1)
                for fault in faults.values():
                    raise fault
        with _component(model, "the autoencoder"):
            _check_output(inner.decode(latents), (1, 3, side, side))


def _check_network(model: EDICT, sampling: Sampling, latents: torch.Tensor) -> None:
    """Try the text encoder and the network of a direct model on a batch of latents, float64 [N, ...]."""
    schedule = model.backend.schedule(sampling)
    timesteps_without_cfg = schedule.timesteps_outside(sampling.guidance_interval)
    # One timestep with guidance and one without, because the batch of the network differs between them.
    timesteps = {
        timestep in timesteps_without_cfg: timestep for timestep in schedule.timesteps[: schedule.num_evaluated_steps]
    }.values()
    with _component(model, "the tokenizer or the text encoder"):
        predict = model.direct.predictor(
            [""] * len(latents), sampling.known_guidance_scale, timesteps_without_cfg=timesteps_without_cfg
        )
    for timestep in timesteps:
        with _component(model, f"the network ({model.backend.denoiser})"):
            _check_output(predict(latents, timestep), tuple(latents.shape))


def _check_output(values: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError if values do not have this shape or are not finite."""
    if tuple(values.shape) != shape:
        raise ValueError(f"its output has the shape {[*values.shape]}, expected {[*shape]}")
    if not values.isfinite().all():
        raise ValueError("its output has NaN or infinity; float16 overflows easily: use bfloat16 or float32")


@contextmanager
def _component(model: EDICT, name: str) -> Iterator[None]:
    """Raise ModelFault if a component fails. Errors of the device, and those of `batch_errors`, stay as they are."""
    try:
        yield
    except Exception as error:
        if _is_compiler_error(error) or _is_device_error(error):
            raise
        message = " ".join(str(error).split()) or "without a message"
        raise ModelFault(
            f"the model {model.backend.folder} fails on a blank image and an empty caption, in {name}: "
            f"{type(error).__name__}: {message}. Check that its files are complete and belong together"
        ) from error


def _report_progress(model: EDICT) -> None:
    """Make a loaded model beat at each network call, each image of its autoencoder and each batch of captions.

    A compiled network has no hook, because the hook would be compiled too.
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


def _is_compiler_error(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _is_device_error(error: Exception) -> bool:
    """Return True for an error of a GPU or its memory. Another worker's GPU may not have it."""
    is_named = any(library in str(error) for library in ("CUDA", "cuDNN", "CUBLAS"))
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and is_named)
