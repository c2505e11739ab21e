"""Context managers that make a network faster and restore it at the end."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from edict.compilation import COMPILE_KWARGS
from edict.determinism import tf32

Forward = Callable[..., Any]
Variant = Callable[[nn.Module], AbstractContextManager[None]]


@contextmanager
def forward_as(network: nn.Module, change: Callable[[Forward], Forward]) -> Iterator[None]:
    """Change the forward method of a network within the block."""
    network.forward = change(network.forward)
    try:
        yield
    finally:
        del network.forward
        torch.compiler.reset()


def compiled(network: nn.Module) -> AbstractContextManager[None]:
    """Compile a network as `model.compile` does."""
    return forward_as(network, lambda forward: torch.compile(forward, **COMPILE_KWARGS))


def repeating(forward: Forward) -> Forward:
    """Return the first prediction for every call. A step then has everything except the network."""
    first: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not first:
            first.append(forward(*args, **kwargs))
        return first[0]

    return call


@contextmanager
def channels_last(network: Any) -> Iterator[None]:
    """Lay out the weights of convolutions as [out, height, width, in], which their outputs follow."""
    network.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        network.to(memory_format=torch.contiguous_format)


@contextmanager
def cudnn_attention(network: nn.Module) -> Iterator[None]:
    """Allow cuDNN's attention, which torch then prefers on some GPUs with some versions of cuDNN."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def bfloat16(network: nn.Module) -> Iterator[None]:
    """Run a float32 network in bfloat16 within the block."""
    nn.Module.to(network, torch.bfloat16)
    try:
        yield
    finally:
        nn.Module.to(network, torch.float32)


VARIANTS: dict[str, Variant] = {
    "channels_last": channels_last,
    "compile": compiled,
    "cuDNN attention": cudnn_attention,
    "TF32": lambda network: tf32(True),
    "bfloat16": bfloat16,
}
