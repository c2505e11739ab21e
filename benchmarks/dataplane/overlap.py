"""Effect of reading ahead and encoding on the network, in one process."""

import threading
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.dataplane.data import CAPTION, FILES, SIDE, photos
from benchmarks.harness import alternate, program, ratios, save, show
from edict import EDICT
from pipeline.io.images import encode, prepare


def rate(call: Callable[[], object], seconds: float) -> float:
    """Return the calls per second."""
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        call()
        count += 1
    return count / spent


def concurrent_rates(work: Callable[[], object], call: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Return the rates of `work` in another thread and of `call` in this one, at the same time."""
    found = list[float]()
    thread = threading.Thread(target=lambda: found.append(rate(work, seconds)))
    thread.start()
    called = rate(call, seconds)
    thread.join()
    return found[0], called


@program(batch=2, threads=1, seconds=4.0, rounds=3)
def overlap(given: Namespace) -> None:
    """Measure how much the network and the other threads of a worker slow each other down, on two cores or more.

    A worker decodes the images of the next unit and encodes those of its edits in other threads. Python runs one thread
    at a time, except where a library releases its lock. So each kind of work runs with and without the network. Network
    calls have two rows, so their operators are small and many.
    """
    [file] = photos(1)
    square = prepare(file, SIDE, "center").image
    kinds: dict[str, Callable[[], object]] = {"decode, crop, resize": lambda: prepare(file, SIDE, "center")}
    kinds |= {f"encode {format}": partial(encode, square, format) for format in FILES}
    latents = torch.randn(given.batch, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        call = partial(EDICT.from_pretrained().direct.predictor([CAPTION] * given.batch, 1.0), latents, 500)
        for name, work in kinds.items():
            contenders: dict[str, Callable[[], Any]] = {
                "work": partial(rate, work, given.seconds),
                "call": partial(rate, call, given.seconds),
                "both": partial(concurrent_rates, work, call, given.seconds),
            }
            rounds = alternate(given.rounds, contenders)
            work_rates, call_rates = zip(*rounds["both"], strict=True)
            kept, both = median(ratios(call_rates, rounds["call"])), median(work_rates)
            found[name] = {"alone": median(rounds["work"]), "with_network": both, "network_kept": kept}
            found[name]["network_ms_per_image"] = 1e3 * (1 - kept) / both
    columns = {
        "in a thread": "name",
        "per second, without the network": "alone:.0f",
        "with the network": "with_network:.0f",
        "share of the network's rate that is left": "network_kept:.3f",
        "ms of the network per image": "network_ms_per_image:.2f",
    }
    show([{"name": name, **rates} for name, rates in found.items()], columns)
    save("overlap", given, work=found)
