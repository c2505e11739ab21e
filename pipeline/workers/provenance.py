"""The environment in which rows are made: the processor and the versions on which a prediction's last bits depend.

The functions that need torch import it, because reading commits does not need it.
"""

import platform
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from schemas.commit import Commit

PACKAGES = ("edict-pipeline", "torch", "diffusers", "transformers")
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # flags of CPUs that sum in another order than those without

Environment = frozenset[tuple[str, str]]
"""The `processor`, and the version of each package by its name."""


def environment_here(device: str) -> Environment:
    """Return the environment of this process for a device, "cpu" or "cuda"."""
    return to_environment(processor(device), versions(device))


def environment_of(commit: Commit) -> Environment:
    """Return the environment in which a unit was processed. Commits of earlier versions have no processor."""
    return to_environment(commit.worker.get("processor"), commit.versions)


def to_environment(processor: str | None, versions: Mapping[str, str]) -> Environment:
    """Return the environment with this processor (None: unknown) and these versions."""
    return frozenset({**versions, **({"processor": processor} if processor else {})}.items())


def differences(environments: Sequence[Environment]) -> list[str]:
    """Describe each environment by its differences from the others, such as "on NVIDIA H200 with torch 2.14.0"."""
    common = frozenset.intersection(*environments)
    names = {name for environment in environments for name, _ in environment - common}
    packages = sorted(names - {"processor"})
    descriptions = []
    for known in map(dict, environments):
        on = [f"on {known.get('processor', 'an unrecorded processor')}"] if "processor" in names else []
        with_versions = ", ".join(f"{name} {known.get(name, 'unrecorded')}" for name in packages)
        descriptions.append(" ".join(on + ([f"with {with_versions}"] if with_versions else [])))
    return descriptions


@cache
def versions(device: str) -> dict[str, str]:
    """Return the versions on which a device's last bits depend: packages and, on a GPU, its libraries and driver."""
    return {name: version(name) for name in PACKAGES} | (gpu_versions() if device == "cuda" else {})


@cache
def processor(device: str) -> str:
    """Describe the processor of a device: of a GPU its name and its number of multiprocessors, of a CPU its name,
    torch's instruction set and its flags for bfloat16.

    "NVIDIA H200, 132 SMs": a part of a GPU (MIG) has fewer, and kernels are chosen by their number. "AMD EPYC 9654,
    AVX512, avx512_bf16": CPUs of the same name can differ, because virtual machines hide instructions.
    """
    import torch

    if device == "cuda":
        properties = torch.cuda.get_device_properties()
        return f"{properties.name}, {properties.multi_processor_count} SMs"
    flags = _cpuinfo("flags|Features").split()
    bfloat16 = (flag for flag in BFLOAT16_FLAGS if flag in flags)
    return ", ".join((cpu(), torch.backends.cpu.get_cpu_capability(), *bfloat16))


def gpu_versions() -> dict[str, str]:
    """Return the versions of CUDA and cuDNN that torch uses, and of the GPU's driver if nvidia-smi is installed."""
    import torch
    from torch.utils import collect_env

    found = {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": collect_env.get_nvidia_driver_version(collect_env.run),
    }
    return {name: str(version) for name, version in found.items() if version is not None}


def cpu() -> str:
    """Return the CPU's name. It is read from /proc/cpuinfo, because Python's `platform` does not know it on Linux."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """Return a field of the first core in /proc/cpuinfo, or "" if it is missing."""
    found = re.search(rf"^(?:{field})\s*: (.*)$", CPUINFO.read_text(), re.MULTILINE) if CPUINFO.exists() else None
    return found[1] if found else ""
