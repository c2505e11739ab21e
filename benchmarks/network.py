"""What a call of the network takes in other types, shapes and layouts, how far off it is, and where its time goes.

`python -m benchmarks.network`. The shipped model's UNet; contenders take turns, figures are medians of rounds, and a
ratio is to the first's time a row in the same round: float32, 32 rows, which is a batch of 16 under guidance. An error
is the root mean square of the difference to the first's prediction, over that of the prediction.

- channels last: weights in that memory layout, in which the states then are
- oneDNN: linear layers by oneDNN, and not by the BLAS that torch has for float32
- int8: linear layers of int8 weights by torch's quantize_dynamic; where torchao is installed, by it too, with
  activations that stay as they are, or are rounded to int8 as well
- compiled: as `model.compile: true` does; only with --compile, since it needs a C++ compiler and minutes. It adds how
  long a process takes to its first prediction
- blocks compiled: the transformer blocks alone, each kind of them once
"""

import copy
import importlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.profiler import ProfilerActivity, profile
from transformers.utils import logging

from benchmarks.oracle import named
from benchmarks.record import parser, save
from edict import EDICT
from edict.compilation import COMPILE_KWARGS
from edict.models.direct import timesteps_of
from jobs.evaluation.record import table

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INT8 = {"int8 weights": "Int8WeightOnlyConfig", "int8 all": "Int8DynamicActivationInt8WeightConfig"}
COMPILED = (torch.float32, torch.bfloat16)
ROWS = 32
CAPTION = "red heart, noto emoji on a blue background"
PROFILED = (("float32", ROWS), ("bfloat16", ROWS), ("float64", 1))
OPERATORS = 8  # told of a profile

Contender = tuple[str, str, int, Callable[[], torch.Tensor]]
"""The network's type, what is done to it, rows, and a call."""


class OneDNN(nn.Module):
    """A linear layer of float32 weights, reordered for oneDNN."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().clone())
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        made = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return made.reshape(*x.shape[:-1], -1)


def by_onednn(network: nn.Module) -> nn.Module:
    """A copy of a network with OneDNN for each linear layer."""
    changed = copy.deepcopy(network)
    for module in list(changed.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, OneDNN(child))
    return changed


def by_torchao(network: nn.Module, config: str) -> nn.Module:
    """A copy of a network with linear layers quantized as one of torchao's configurations says."""
    torchao = importlib.import_module("torchao.quantization")
    changed = copy.deepcopy(network)
    torchao.quantize_(changed, getattr(torchao, config)())
    return changed


def contenders(network: nn.Module, text: torch.Tensor, compiled: bool) -> list[Contender]:
    """What is compared; `network` is float32, `text` [1, L, D]."""
    drawn = torch.randn(64, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    types = {dtype: nn.Module.to(copy.deepcopy(network), dtype) for dtype in DTYPES}

    def contender(
        dtype: torch.dtype, rows: int, done: str = "", changed: Callable[..., Any] | None = None
    ) -> Contender:
        latents = drawn[:rows].to(dtype)
        states = text.to(dtype).expand(rows, -1, -1).contiguous()
        asked = types[dtype] if changed is None else changed
        return named(dtype), done, rows, lambda: asked(latents, timesteps_of(500, latents), states).sample

    found = [contender(torch.float32, rows) for rows in (ROWS, 64, 16, 8, 2, 1)]
    found += [contender(torch.bfloat16, rows) for rows in (ROWS, 64, 2, 1)]
    found += [contender(dtype, rows) for dtype in (torch.float16, torch.float64) for rows in (2, 1)]
    found += [contender(torch.float32, ROWS, "oneDNN", by_onednn(network))]
    dynamic = quantize_dynamic(copy.deepcopy(network), {nn.Linear}, torch.qint8)
    found += [contender(torch.float32, ROWS, "quantize_dynamic", dynamic)]
    for dtype in COMPILED:
        last: Any = copy.deepcopy(types[dtype])
        found.append(contender(dtype, ROWS, "channels last", last.to(memory_format=torch.channels_last)))
        if compiled:
            found.append(contender(dtype, ROWS, "compiled", EDICT.from_pretrained(dtype=dtype, compile=True).network))
            blocks: Any = copy.deepcopy(types[dtype])
            blocks.compile_repeated_blocks(**COMPILE_KWARGS)
            found.append(contender(dtype, ROWS, "blocks compiled", blocks))
        for done, config in INT8.items() if find_spec("torchao") else ():
            changed: Any = by_torchao(types[dtype], config)
            found.append(contender(dtype, ROWS, done, changed))
            if compiled:
                other: Any = by_torchao(types[dtype], config)
                other.compile(**COMPILE_KWARGS)
                found.append(contender(dtype, ROWS, f"{done}, compiled", other))
    return found


def start(dtype: torch.dtype, threads: int) -> float:
    """Seconds in which a model is loaded, compiled and called for the first time, of ROWS rows, by a new process."""
    torch.set_num_threads(threads)
    logging.disable_progress_bar()

    @torch.inference_mode()
    def call() -> None:
        model = EDICT.from_pretrained(dtype=dtype, compile=True).direct
        model.predict(torch.zeros(ROWS, 4, 16, 16), 500, model.condition([CAPTION] * ROWS))

    return seconds(call)


def starts(dtype: torch.dtype, threads: int) -> dict[str, Any]:
    """`start` with nothing compiled yet, and in another process, which finds what the first one compiled."""
    with TemporaryDirectory() as cache, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
        taken = []
        for _ in range(2):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                taken.append(process.submit(start, dtype, threads).result())
    return {"network": named(dtype), "seconds": taken[0], "seconds_cached": taken[1]}


def seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def error(predicted: torch.Tensor, reference: torch.Tensor) -> float:
    """Of as many rows as both have."""
    rows = min(len(predicted), len(reference))
    of = reference[:rows].double()
    return float((predicted[:rows].double() - of).norm() / of.norm())


def profiled(do: Callable[[], object]) -> dict[str, float]:
    """The shares of a call's time that its OPERATORS longest operators take."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        do()
    spent = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    longest = sorted(spent, key=spent.__getitem__, reverse=True)[:OPERATORS]
    return {name: spent[name] / sum(spent.values()) for name in longest}


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(threads=1)  # as a CPU worker has
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--compile", action="store_true")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    model = EDICT.from_pretrained()
    with torch.inference_mode():
        text = model.direct.condition([CAPTION])["encoder_hidden_states"]
        compared = contenders(model.network, text, given.compile)
        reference, *others = [do() for *_, do in compared]  # the first calls, in which much is set up
        errors = [0.0, *(error(other, reference) for other in others)]
        rounds = [[seconds(do) for *_, do in compared] for _ in range(given.rounds)]
        encoding = median(seconds(lambda: model.direct.condition([CAPTION] * given.batch)) for _ in rounds)
        profiles = {
            f"{dtype}, {rows} rows": profiled(do)
            for dtype, done, rows, do in compared
            if (dtype, rows) in PROFILED and not done
        }
    found: list[dict[str, Any]] = []
    for (dtype, done, rows, _), taken, off in zip(compared, zip(*rounds, strict=True), errors, strict=True):
        ratios = [one[0] / ROWS / (own / rows) for one, own in zip(rounds, taken, strict=True)]
        each = 1e3 * median(taken) / rows
        found.append(
            {
                "network": dtype,
                "with": done,
                "rows": rows,
                "ms_a_row": each,
                "ratio": median(ratios),
                "ratios": ratios,
                "error": off,
            }
        )
    lines = [
        [
            row["network"],
            row["with"],
            row["rows"],
            f"{row['ms_a_row']:.2f}",
            f"{row['ratio']:.2f} [{min(row['ratios']):.2f}, {max(row['ratios']):.2f}]",
            f"{row['error']:.1e}",
        ]
        for row in found
    ]
    print(table(("network", "with", "rows", "ms a row", "x as fast", "error"), lines))
    for name, shares in profiles.items():
        print(f"\n{name}: " + ", ".join(f"{operator} {share:.0%}" for operator, share in shares.items()))
    print(f"\nthe text encoder, {given.batch} captions: {1e3 * encoding:.1f} ms")
    started = [starts(dtype, given.threads) for dtype in COMPILED] if given.compile else []
    for of in started:
        print(f"\n{of['network']}, compiled: the first prediction after {of['seconds']:.0f} s", end="")
        print(f", or {of['seconds_cached']:.0f} where another process compiled it before")
    torchao = version("torchao") if find_spec("torchao") else None
    written = save(
        "network",
        given,
        torchao=torchao,
        calls=found,
        profiles=profiles,
        ms_of_the_text_encoder=1e3 * encoding,
        starts=started,
    )
    print(f"\nwritten to {written}")


if __name__ == "__main__":
    main()
