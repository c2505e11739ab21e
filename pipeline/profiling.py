"""What a call costs, in seconds and in memory at its peak, and the batch at which a picture costs least."""

import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

NEAR = 1.02  # the best batch is the smallest that is within 2 % of the fastest


def smallest_near_fastest(seconds: Mapping[int, float]) -> int:
    """Of batch sizes, each with its seconds a picture, the smallest that is within 2 % of the fastest."""
    fastest = min(seconds.values())
    return min(size for size, taken in seconds.items() if taken <= NEAR * fastest)


def reset_memory_peak(device: torch.device) -> None:
    """Give back the memory that nothing uses any more, and begin its peak anew where that can be done, on a GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_peak(device: torch.device) -> int:
    """Bytes at most: of the GPU's memory since `fresh`, on a CPU those of the process that were ever resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def seconds_of(call: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Seconds of a call, until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call that is not the first: the median of three runs of .2 s, or one call where it takes 1 s."""
    seconds_of(call, device)
    once = seconds_of(call, device)
    return once if once > 1 else sorted(seconds_of(call, device, max(1, round(0.2 / once))) for _ in range(3))[1]
