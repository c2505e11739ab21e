"""What a call of the network takes in other types, shapes and layouts, and where its time goes.

`python -m benchmarks.network`. The shipped model's UNet; contenders take turns, figures are medians of rounds, and a
ratio is to the first's time a row in the same round: float32, 32 rows, which is a batch of 16 under guidance.

- channels last: weights in that memory layout, in which the states then are
- oneDNN: linear layers by oneDNN, and not by the BLAS that torch has for float32
- compiled: torch.compile with frozen weights; only with --compile, since it needs a C++ compiler and a minute
"""

import copy
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.oracle import named
from benchmarks.record import parser, save
from edict import EDICT
from jobs.evaluation.record import table

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ROWS = 32
CAPTION = "red heart, noto emoji on a blue background"
PROFILED = (("float32", ROWS), ("bfloat16", ROWS), ("float64", 1))
OPERATORS = 8  # told of a profile

Contender = tuple[str, str, int, Callable[[], object]]
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


def contenders(network: nn.Module, text: torch.Tensor, compiled: bool) -> list[Contender]:
    """What is compared; `network` is float32, `text` [1, L, D]."""
    types = {dtype: nn.Module.to(copy.deepcopy(network), dtype) for dtype in DTYPES}

    def contender(
        dtype: torch.dtype, rows: int, done: str = "", changed: Callable[..., Any] | None = None
    ) -> Contender:
        latents = torch.randn(rows, 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
        states = text.to(dtype).expand(rows, -1, -1).contiguous()
        asked = types[dtype] if changed is None else changed
        return named(dtype), done, rows, lambda: asked(latents, 500, states).sample

    found = [contender(torch.float32, rows) for rows in (ROWS, 64, 16, 8, 2, 1)]
    found += [contender(torch.bfloat16, rows) for rows in (ROWS, 64, 2, 1)]
    found += [contender(dtype, rows) for dtype in (torch.float16, torch.float64) for rows in (2, 1)]
    found += [contender(torch.float32, ROWS, "oneDNN", by_onednn(network))]
    for dtype in (torch.float32, torch.bfloat16):
        last: Any = copy.deepcopy(types[dtype])
        found.append(contender(dtype, ROWS, "channels last", last.to(memory_format=torch.channels_last)))
        if compiled:
            found.append(contender(dtype, ROWS, "compiled", torch.compile(types[dtype], options={"freezing": True})))
    return found


def seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


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
        text = model.model.condition([CAPTION])["encoder_hidden_states"]
        compared = contenders(model.network, text, given.compile)
        for *_, do in compared:
            do()  # what is set up at the first call
        rounds = [[seconds(do) for *_, do in compared] for _ in range(given.rounds)]
        encoding = median(seconds(lambda: model.model.condition([CAPTION] * given.batch)) for _ in rounds)
        profiles = {
            f"{dtype}, {rows} rows": profiled(do)
            for dtype, done, rows, do in compared
            if (dtype, rows) in PROFILED and not done
        }
    found: list[dict[str, Any]] = []
    for (dtype, done, rows, _), taken in zip(compared, zip(*rounds, strict=True), strict=True):
        ratios = [one[0] / ROWS / (own / rows) for one, own in zip(rounds, taken, strict=True)]
        each = 1e3 * median(taken) / rows
        found.append(
            {"network": dtype, "with": done, "rows": rows, "ms_a_row": each, "ratio": median(ratios), "ratios": ratios}
        )
    lines = [
        [
            row["network"],
            row["with"],
            row["rows"],
            f"{row['ms_a_row']:.2f}",
            f"{row['ratio']:.2f} [{min(row['ratios']):.2f}, {max(row['ratios']):.2f}]",
        ]
        for row in found
    ]
    print(table(("network", "with", "rows", "ms a row", "x as fast"), lines))
    for name, shares in profiles.items():
        print(f"\n{name}: " + ", ".join(f"{operator} {share:.0%}" for operator, share in shares.items()))
    print(f"\nthe text encoder, {given.batch} captions: {1e3 * encoding:.1f} ms")
    written = save("network", given, calls=found, profiles=profiles, ms_of_the_text_encoder=1e3 * encoding)
    print(f"\nwritten to {written}")


if __name__ == "__main__":
    main()
