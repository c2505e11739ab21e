"""The network compiled by torch.compile: other last bits than without, and the same ones in every process of a machine.

It is compiled whole, once for each shape of its inputs, and where it is not, that is an error: torch would else run
some of it, or from a ninth shape on all of it, as it was, with other last bits. No kernel is chosen by how long it
takes, which another process may measure otherwise; in torch 2.10 and later.
"""

from typing import Any

import torch
from torch import nn

from edict.checkpoint import ModelError

COMPILE_KWARGS: dict[str, Any] = {"fullgraph": True, "dynamic": False, "options": {"deterministic": True}}


def compile_network(network: nn.Module) -> None:
    """Compile a network in place: at its first call of each shape, so that only the compiler is tried here.

    Raises ModelError where there is none.
    """
    wanted = "compile: no network can be compiled here"
    weight = next(network.parameters())
    try:
        compiled = bool(torch.compile(_compiled, **COMPILE_KWARGS)(weight.new_zeros(1)))
    except Exception as error:  # of many kinds
        raise ModelError(
            f"{wanted} ({reason(error)}): torch.compile needs torch 2.10 and, on a CPU, a C++ compiler such as g++, "
            "on a GPU Triton and a C compiler; install them on every node, or leave compile out"
        ) from error
    if not compiled:
        raise ModelError(f"{wanted}: torch.compile is turned off, as by TORCHDYNAMO_DISABLE; unset it")
    network.compile(**COMPILE_KWARGS)


def reason(error: Exception) -> str:
    """Why the compiler failed, in a line of at most 200 characters."""
    inner = getattr(error, "inner_exception", error)
    return next((line.strip() for line in str(inner).splitlines() if line.strip()), type(inner).__name__)[:200]


def _compiled(number: torch.Tensor) -> torch.Tensor:
    """Of zero: one, if this is compiled."""
    return number + torch.compiler.is_compiling()
