"""Compilation of the network by torch.compile, with the same bits in every process of a machine.

A compiled network has other last bits than an uncompiled one. So the whole network is compiled, once for each shape of
its inputs, and every failure is an error. Otherwise torch would run a part of the network uncompiled, or, from a ninth
shape on, all of it. Kernels are not chosen by their measured time, which differs between processes. That needs torch
2.10.
"""

from typing import Any

import torch
from torch import nn

from edict.errors import ModelError
from schemas.errors import first_line

COMPILE_KWARGS: dict[str, Any] = {"fullgraph": True, "dynamic": False, "options": {"deterministic": True}}


def compile_network(network: nn.Module) -> None:
    """Compile a network in place, at its first call of each shape. Only the compiler is tried here.

    Raises:
        ModelError: There is no compiler, or torch.compile is turned off.
    """
    problem = "compile: no network can be compiled here"
    weight = next(network.parameters())
    try:
        compiled = bool(torch.compile(_compiled, **COMPILE_KWARGS)(weight.new_zeros(1)))
    except Exception as error:  # The compiler raises errors of many kinds.
        raise ModelError(
            f"{problem} ({reason(error)}). torch.compile needs torch 2.10 and a C++ compiler such as g++ on a CPU, or "
            "Triton and a C compiler on a GPU. Install them on every node, or leave compile out"
        ) from error
    if not compiled:
        raise ModelError(
            f"{problem}: torch.compile is turned off, as by TORCHDYNAMO_DISABLE. Unset it, or leave compile out"
        )
    network.compile(**COMPILE_KWARGS)


def reason(error: Exception) -> str:
    """Return the reason of a failure of the compiler, in one line of at most 200 characters."""
    return first_line(getattr(error, "inner_exception", error))[:200]


def _compiled(number: torch.Tensor) -> torch.Tensor:
    """Return 1 for the number 0 if this function is compiled, else 0."""
    return number + torch.compiler.is_compiling()
