"""The processor that a worker runs on, in words."""

import platform
import re
from functools import cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # flags of units that add up in another order than those without


@cache
def processor(device: str) -> str:
    """The GPU's name; or the CPU's, the instructions torch uses of it and its units for bfloat16.

    "AMD EPYC 9654, AVX512, avx512_bf16": CPUs of one name may have others, as virtual machines keep them back.
    """
    if device == "cuda":
        return torch.cuda.get_device_name()
    flags = _cpuinfo("flags|Features").split()
    return ", ".join((cpu(), torch.backends.cpu.get_cpu_capability(), *(name for name in BFLOAT16 if name in flags)))


def cpu() -> str:
    """The CPU's name; Python itself knows it on no Linux."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """What Linux says of the first core, "" where it says nothing."""
    told = re.search(rf"^(?:{field})\s*: (.*)$", CPUINFO.read_text(), re.MULTILINE) if CPUINFO.exists() else None
    return told[1] if told else ""
