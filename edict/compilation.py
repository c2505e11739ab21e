"""Compilation of the network by torch.compile, with the same bits in every process of a machine.

The predictions of a compiled network and an uncompiled one differ in their last bits. So the whole network is compiled,
once per input shape, and every failure is an error. Otherwise torch would run a part of the network uncompiled, or,
from a ninth shape on, all of it. Kernels are not chosen by their measured time, because it differs between processes.
This option of torch.compile needs torch 2.10.
"""

from typing import Any

import torch
from torch import nn

from edict.errors import ModelError
from schemas.errors import first_line

COMPILE_KWARGS: dict[str, Any] = {"fullgraph": True, "dynamic": False, "options": {"deterministic": True}}


def compile_network(network: nn.Module) -> None:
    """Set a network to be compiled at its first call of each shape, after a test of the compiler.

    Raises:
        ModelError: There is no compiler, or torch.compile is turned off.
    """
    problem = "compile: no network can be compiled here"
    weight = next(network.parameters())
    try:
        compiled = bool(torch.compile(_compiled, **COMPILE_KWARGS)(weight.new_zeros(1)))
    except Exception as error:  # The compiler raises errors of many kinds.
        raise ModelError(
            f"{problem} ({compiler_error_reason(error)}). torch.compile needs torch 2.10 and a C++ compiler such as "
            "g++ on a CPU, or Triton and a C compiler on a GPU. Install them on every node, or leave compile out"
        ) from error
    if not compiled:
        raise ModelError(
            f"{problem}: torch.compile is turned off, for example by TORCHDYNAMO_DISABLE. Unset that variable, or "
            "leave compile out"
        )
    network.compile(**COMPILE_KWARGS)


def compiler_error_reason(error: Exception) -> str:
    """Return the reason of a failure of the compiler, in one line of at most 200 characters."""
    return first_line(getattr(error, "inner_exception", error))[:200]


def _compiled(number: torch.Tensor) -> torch.Tensor:
    """Return 1 for the number 0 if this function is compiled, else 0."""
    return number + torch.compiler.is_compiling()
