"""The processor that a worker runs on, in words, and the versions of a GPU's libraries."""

import platform
import re
from functools import cache
from pathlib import Path

import torch
from torch.utils import collect_env

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # flags of units that add up in another order than those without


@cache
def processor(device: str) -> str:
    """Return the GPU's name and multiprocessors, or the CPU's name, torch's instructions and its units for bfloat16.

    "NVIDIA H200, 132 SMs": a part of a GPU (MIG) has fewer, and kernels are chosen by their number. "AMD EPYC 9654,
    AVX512, avx512_bf16": CPUs of the same name can differ, because virtual machines hide instructions.
    """
    if device == "cuda":
        properties = torch.cuda.get_device_properties()
        return f"{properties.name}, {properties.multi_processor_count} SMs"
    flags = _cpuinfo("flags|Features").split()
    return ", ".join((cpu(), torch.backends.cpu.get_cpu_capability(), *(name for name in BFLOAT16 if name in flags)))


def gpu_versions() -> dict[str, str]:
    """Return the versions of CUDA and cuDNN that torch uses, and of the GPU's driver if nvidia-smi is there."""
    found = {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": collect_env.get_nvidia_driver_version(collect_env.run),
    }
    return {name: str(version) for name, version in found.items() if version is not None}


def cpu() -> str:
    """The CPU's name; Python itself knows it on no Linux."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """What Linux says of the first core, "" where it says nothing."""
    told = re.search(rf"^(?:{field})\s*: (.*)$", CPUINFO.read_text(), re.MULTILINE) if CPUINFO.exists() else None
    return told[1] if told else ""
