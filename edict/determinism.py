"""Deterministic networks: the settings of torch, and a guard against libraries that change their algorithm."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import torch

from edict.errors import ModelError

REQUIRED_ENVIRONMENT = {"DIFFUSERS_ATTN_BACKEND": "native", "NVIDIA_TF32_OVERRIDE": "0"}
"""Environment variables that change a network's last bits and that no store records, with their required values.

The first chooses the attention kernels of diffusers. The second overrides, in cuBLAS and cuDNN, the rounding of the
inputs of float32 products to TF32.
"""

_algorithm_changed = Event()
"""Set after a library continued with another algorithm on a GPU of this process."""


def make_deterministic() -> None:
    """Set torch's backends, for the whole process, so that a network's bits depend on its arguments only.

    Raises:
        ModelError: A variable in REQUIRED_ENVIRONMENT has another value.
    """
    for name, required in REQUIRED_ENVIRONMENT.items():
        if (value := os.environ.get(name, required)) != required:
            raise ModelError(
                f"The environment variable {name} is {value!r}: it changes the last bits of a network, and a store "
                f"does not record it. Unset {name}"
            )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    # Attention then uses flash, memory-efficient and math kernels, in this order. Otherwise torch 2.13 puts cuDNN's
    # first on some GPUs, depending on the version of cuDNN that it finds at run time.
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid GPUs to round the inputs of float32 products to TF32 within the block."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """Guard the block against a GPU whose memory runs short without an error.

    If cuDNN's workspace does not fit, torch takes another algorithm for the convolution, with other last bits, and
    keeps it for the rest of the process. Then every later block on a GPU raises the error, too.

    Raises:
        torch.OutOfMemoryError: The memory of `device` ran out in the block, or in an earlier one, and a library
            recovered from it.
    """
    if device.type != "cuda":
        yield
        return
    if not _algorithm_changed.is_set():
        raised, before = 0, _out_of_memory_count(device)
        try:
            yield
        except torch.OutOfMemoryError:
            raised = 1
            raise
        finally:
            if _out_of_memory_count(device) > before + raised:
                _algorithm_changed.set()
        if not _algorithm_changed.is_set():
            return
    raise torch.OutOfMemoryError(
        "the memory of the GPU ran out, and cuDNN continued with another algorithm, which changes the last bits. Use a "
        "smaller batch in a new process"
    )


def _out_of_memory_count(device: torch.device) -> int:
    """Return the number of failed allocations on a GPU in this process."""
    return int(torch.cuda.memory_stats(device).get("num_ooms", 0))
