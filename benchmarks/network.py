"""Time of a network call by dtype, batch size and layout, its error, and the operators that take the time.

`python -m benchmarks.network`. The network is the shipped model's UNet. The variants take turns; figures are medians of
rounds. A ratio compares the time per row with that of the first variant in the same round: float32 with 32 rows, which
is a batch of 16 under guidance. An error is the root mean square of the difference to the first variant's prediction,
divided by that of the prediction.

- channels last: the weights have this memory layout, and the states follow it
- oneDNN: linear layers run in oneDNN instead of the BLAS that torch uses for float32
- quantize_dynamic: torch's own int8 linear layers
- int8: linear layers quantized by torchao, if it is installed: the weights only, or also the activations ("int8 all")
- compiled: as `model.compile: true`. Only with --compile, because it needs a C++ compiler and minutes. It adds the time
  that a process takes to its first prediction
- blocks compiled: only the transformer blocks, each kind of block once
"""

import copy
import importlib
import os
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.profiler import ProfilerActivity, profile
from transformers.utils import logging

from benchmarks.harness import alternate, dtype_name, program, run, save, seconds, show, spread
from edict import EDICT
from edict.compilation import COMPILE_KWARGS
from edict.models.direct import timesteps_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INT8 = {"int8 weights": "Int8WeightOnlyConfig", "int8 all": "Int8DynamicActivationInt8WeightConfig"}
COMPILED = (torch.float32, torch.bfloat16)
ROWS = 32
CAPTION = "red heart, noto emoji on a blue background"
PROFILED = (("float32", ROWS), ("bfloat16", ROWS), ("float64", 1))
OPERATORS = 8  # operators that a profile names


class Variant(NamedTuple):
    """A network call: the network's dtype, the change to the network, and the rows of the call."""

    network: str
    change: str
    rows: int
    call: Callable[[], torch.Tensor]


class OneDNNLinear(nn.Module):
    """A linear layer with float32 weights in the order that oneDNN uses."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().clone())
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        made = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return made.reshape(*x.shape[:-1], -1)


def use_onednn(network: nn.Module) -> nn.Module:
    """Return a copy of a network with a OneDNNLinear for each linear layer."""
    changed = copy.deepcopy(network)
    for module in list(changed.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, OneDNNLinear(child))
    return changed


def quantize(network: nn.Module, config: str) -> Any:
    """Return a copy of a network with linear layers quantized by a configuration of torchao."""
    torchao = importlib.import_module("torchao.quantization")
    changed = copy.deepcopy(network)
    torchao.quantize_(changed, getattr(torchao, config)())
    return changed


def variants(network: nn.Module, text: torch.Tensor, compiled: bool) -> list[Variant]:
    """Return the variants of the float32 `network`, for the text's states [1, L, D]."""
    drawn = torch.randn(64, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    networks: dict[torch.dtype, Any] = {dtype: nn.Module.to(copy.deepcopy(network), dtype) for dtype in DTYPES}

    def variant(dtype: torch.dtype, rows: int, change: str = "", changed: Any = None) -> Variant:
        latents, called = drawn[:rows].to(dtype), changed or networks[dtype]
        states = text.to(dtype).expand(rows, -1, -1).contiguous()
        return Variant(
            dtype_name(dtype), change, rows, lambda: called(latents, timesteps_of(500, latents), states).sample
        )

    float32, bfloat16, float16, float64 = DTYPES
    sizes = {float32: (ROWS, 64, 16, 8, 2, 1), bfloat16: (ROWS, 64, 2, 1), float16: (2, 1), float64: (2, 1)}
    found = [variant(dtype, rows) for dtype, row_counts in sizes.items() for rows in row_counts]
    found.append(variant(float32, ROWS, "oneDNN", use_onednn(network)))
    dynamic = quantize_dynamic(copy.deepcopy(network), {nn.Linear}, torch.qint8)
    found.append(variant(float32, ROWS, "quantize_dynamic", dynamic))
    for dtype in COMPILED:
        own = networks[dtype]
        changed = {"channels last": copy.deepcopy(own).to(memory_format=torch.channels_last)}
        if compiled:
            changed["compiled"] = EDICT.from_pretrained(dtype=dtype, compile=True).network
            changed["blocks compiled"] = copy.deepcopy(own)
            changed["blocks compiled"].compile_repeated_blocks(**COMPILE_KWARGS)
        for change, config in INT8.items() if find_spec("torchao") else ():
            changed[change] = quantize(own, config)
            if compiled:
                changed[f"{change}, compiled"] = quantize(own, config)
                changed[f"{change}, compiled"].compile(**COMPILE_KWARGS)
        found += [variant(dtype, ROWS, change, variant_network) for change, variant_network in changed.items()]
    return found


def first_prediction(dtype: torch.dtype, threads: int) -> float:
    """Return the seconds to load and compile a model and to call it once with ROWS rows, in a new process."""
    torch.set_num_threads(threads)
    logging.disable_progress_bar()

    @torch.inference_mode()
    def call() -> None:
        model = EDICT.from_pretrained(dtype=dtype, compile=True).direct
        model.predict(torch.zeros(ROWS, 4, 16, 16), 500, model.condition([CAPTION] * ROWS))

    return seconds(call)


def first_predictions(dtype: torch.dtype, threads: int) -> dict[str, Any]:
    """Measure `first_prediction` without compiled code, and in another process with that of the first one."""
    with TemporaryDirectory() as cache, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
        taken = []
        for _ in range(2):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                taken.append(process.submit(first_prediction, dtype, threads).result())
    return {"network": dtype_name(dtype), "seconds": taken[0], "seconds_cached": taken[1]}


def error(predicted: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the relative error over the rows that both predictions have."""
    rows = min(len(predicted), len(reference))
    expected = reference[:rows].double()
    return float((predicted[:rows].double() - expected).norm() / expected.norm())


def profiled(call: Callable[[], object]) -> dict[str, float]:
    """Return the shares of a call's time that its OPERATORS longest operators take."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        call()
    spent = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    longest = sorted(spent, key=spent.__getitem__, reverse=True)[:OPERATORS]
    return {name: spent[name] / sum(spent.values()) for name in longest}


@program(batch=16, threads=1, rounds=9, compile=False)  # A CPU worker has one thread.
def network(given: Namespace) -> None:
    model = EDICT.from_pretrained()
    with torch.inference_mode():
        text = model.direct.condition([CAPTION])["encoder_hidden_states"]
        compared = variants(model.network, text, given.compile)
        reference, *others = [each.call() for each in compared]  # The first calls set things up.
        errors = [0.0, *(error(other, reference) for other in others)]
        calls = {i: partial(seconds, each.call) for i, each in enumerate(compared)}
        rounds = alternate(given.rounds, calls)
        encode = partial(model.direct.condition, [CAPTION] * given.batch)
        encoding = 1e3 * median(seconds(encode) for _ in range(given.rounds))
        plain = [each for each in compared if (each.network, each.rows) in PROFILED and not each.change]
        profiles = {f"{each.network}, {each.rows} rows": profiled(each.call) for each in plain}
    rows = []
    for i, each in enumerate(compared):
        faster = [first / ROWS / (own / each.rows) for first, own in zip(rounds[0], rounds[i], strict=True)]
        time = {"ms_a_row": 1e3 * median(rounds[i]) / each.rows, "ratio": median(faster), "ratios": faster}
        about = {"network": each.network, "with": each.change, "rows": each.rows}
        rows.append({**about, **time, "error": errors[i]})
    columns: dict[str, Any] = {"network": "network", "with": "with", "rows": "rows", "ms per row": "ms_a_row:.2f"}
    columns |= {"times as fast": lambda row: spread(row["ratios"]), "error": "error:.1e"}
    show(rows, columns)
    for name, shares in profiles.items():
        print(f"\n{name}: " + ", ".join(f"{operator} {share:.0%}" for operator, share in shares.items()))
    print(f"\ntext encoder, {given.batch} captions: {encoding:.1f} ms")
    starts = [first_predictions(dtype, given.threads) for dtype in COMPILED] if given.compile else []
    times = {"first prediction after, s": "seconds:.0f", "if compiled before, s": "seconds_cached:.0f"}
    show(starts, {"compiled network": "network"} | times) if starts else None
    torchao = version("torchao") if find_spec("torchao") else None
    measured = {"torchao": torchao, "calls": rows, "profiles": profiles, "ms_of_the_text_encoder": encoding}
    save("network", given, **measured, starts=starts)


if __name__ == "__main__":
    run(__doc__, network)
