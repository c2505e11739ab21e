"""Measure calls: seconds, peak memory, and the batch size with the fewest seconds per image."""

import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

NEAR = 1.02  # batch sizes within 2% of the fastest count as equally fast


def smallest_near_fastest(seconds: Mapping[int, float]) -> int:
    """Return the smallest batch size that is within 2% of the fastest, given the seconds per image of each size."""
    fastest = min(seconds.values())
    return min(size for size, taken in seconds.items() if taken <= NEAR * fastest)


def reset_memory_peak(device: torch.device) -> None:
    """Free unused memory and, on a GPU, reset the peak that `memory_peak` returns."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_peak(device: torch.device) -> int:
    """Return the peak memory in bytes: of the GPU since `reset_memory_peak`, or else of the process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def seconds_of(call: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Return the mean seconds of `times` calls, until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a call after a first one: the median of three runs of 0.2 s, or of one call from 1 s on."""
    seconds_of(call, device)
    once = seconds_of(call, device)
    return once if once > 1 else sorted(seconds_of(call, device, max(1, round(0.2 / once))) for _ in range(3))[1]
