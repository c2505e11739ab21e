"""What can be done to a network to make it faster: contexts, in which it runs so, and after which it is as it was."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from edict.compilation import HOW

Forward = Callable[..., Any]
Variant = Callable[[nn.Module], AbstractContextManager[None]]


@contextmanager
def forward_as(network: nn.Module, change: Callable[[Forward], Forward]) -> Iterator[None]:
    """The network with its forward changed."""
    network.forward = change(network.forward)
    try:
        yield
    finally:
        del network.forward
        torch.compiler.reset()


def halved(forward: Forward) -> Forward:
    """A call for each branch of guidance in the place of one for both."""

    def call(*given: Any, **named: Any) -> Any:
        def half(i: int) -> Any:
            rest, more = tree_map(lambda a: a.chunk(2)[i] if isinstance(a, torch.Tensor) else a, (given, named))
            return forward(*rest, **more)

        one, other = half(0), half(1)
        return type(one)(sample=torch.cat([one.sample, other.sample]))

    return call


def graphed(forward: Forward) -> Forward:
    """One CUDA graph, captured at the first call, whose inputs the later ones are copied into."""
    captured: list[tuple[list[torch.Tensor], torch.cuda.CUDAGraph, Any]] = []

    def capture(given: Any, named: Any) -> tuple[list[torch.Tensor], torch.cuda.CUDAGraph, Any]:
        given, named = tree_map(torch.clone, (given, named))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                forward(*given, **named)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = forward(*given, **named)
        return tree_leaves((given, named)), graph, output

    def call(*given: Any, **named: Any) -> Any:
        if not captured:
            captured.append(capture(given, named))
        inputs, graph, output = captured[0]
        for held, new in zip(inputs, tree_leaves((given, named)), strict=True):
            held.copy_(new)
        graph.replay()
        return type(output)(sample=output.sample.clone())

    return call


def answered(forward: Forward) -> Forward:
    """Its first answer again and again: what is left of a step is all that is not the network."""
    answers: list[Any] = []

    def call(*given: Any, **named: Any) -> Any:
        if not answers:
            answers.append(forward(*given, **named))
        return answers[0]

    return call


@contextmanager
def channels_last(network: nn.Module) -> Iterator[None]:
    """Weights of convolutions as [out, height, width, in], which their outputs follow."""
    _lay_out(network, torch.channels_last)
    try:
        yield
    finally:
        _lay_out(network, torch.contiguous_format)


def _lay_out(network: nn.Module, memory_format: torch.memory_format) -> None:
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=memory_format)


@contextmanager
def tf32(network: nn.Module | None = None) -> Iterator[None]:
    """float32 products rounded to TF32 on the matrix units, which EDICT turns off."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@contextmanager
def int8(network: nn.Module) -> Iterator[None]:
    """int8 weights, by torchao. This alone is for good: the network is of no other use after it."""
    torchao = importlib.import_module("torchao.quantization")
    torchao.quantize_(network, torchao.Int8WeightOnlyConfig())
    yield


VARIANTS: dict[str, Variant] = {
    "two calls": partial(forward_as, change=halved),
    "CUDA graph": partial(forward_as, change=graphed),
    "compile": partial(forward_as, change=partial(torch.compile, **HOW)),
    "compile, max-autotune": partial(
        forward_as, change=partial(torch.compile, dynamic=False, mode="max-autotune-no-cudagraphs")
    ),
    "channels_last": channels_last,
    "TF32": tf32,
    "int8": int8,
}
