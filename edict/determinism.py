"""Same bits for the same arguments: the settings of torch, and a guard against a library that changes its algorithm."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edict.checkpoint import ModelError


def make_deterministic() -> None:
    """Set torch's backends, for the whole process, so that a network's bits depend on its arguments only.

    Raises:
        ModelError: DIFFUSERS_ATTN_BACKEND chooses an attention kernel that no fingerprint records.
    """
    if (backend := os.environ.get("DIFFUSERS_ATTN_BACKEND", "native")) != "native":
        raise ModelError(
            f"DIFFUSERS_ATTN_BACKEND is {backend!r}: another attention kernel gives other last bits, and a store does "
            "not record it. Unset DIFFUSERS_ATTN_BACKEND"
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    # Attention is then by flash, memory-efficient and math kernels, in this order. Otherwise torch 2.13 puts cuDNN's
    # first on some GPUs, depending on the version of cuDNN that it finds at run time.
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let GPUs round the inputs of float32 products to TF32 in the block, if `allowed`; not after it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """Guard the block against a GPU whose memory runs short without an error.

    Where cuDNN's workspace does not fit, torch takes another algorithm for the convolution, with other last bits, and
    keeps it for the rest of the process. Such a process must not compute anything more.

    Raises:
        torch.OutOfMemoryError: the memory of `device` ran out in the block, and a library recovered from it.
    """
    before = _out_of_memory_count(device)
    yield
    if _out_of_memory_count(device) > before:
        raise torch.OutOfMemoryError(
            "the GPU's memory ran out and cuDNN continued with another algorithm, which gives other last bits: use a "
            "smaller batch in a new process"
        )


def _out_of_memory_count(device: torch.device) -> int:
    """Return how often an allocation on `device` failed in this process; 0 on a CPU."""
    return int(torch.cuda.memory_stats(device).get("num_ooms", 0)) if device.type == "cuda" else 0
