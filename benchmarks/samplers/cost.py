"""Cost of an image by each sampler: network calls, counted at the network, and seconds.

`python -m benchmarks.samplers.cost`. The samplers take turns, round after round, on the same batch.
"""

import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch

from benchmarks.harness import alternate, program, ratios, run, save
from benchmarks.samplers import tables
from benchmarks.samplers.drawings import drawings
from edict import EDICT, Pair
from edict.samplers import SAMPLERS, sampling

DIRECTIONS = ("inversion", "generation")


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[Counter[str]]:
    """Count the `calls` of a network within the block, and the `rows` of their batches."""
    counts = Counter[str]()

    def count(_: torch.nn.Module, __: object, output: Any) -> None:
        counts["calls"] += 1
        counts["rows"] += len(output[0])

    hook = network.register_forward_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


def round_trip(model: EDICT, start: Pair, captions: list[str]) -> Iterator[str]:
    """Invert and generate. Yield the name of each direction when it has ended.

    Raises:
        ArithmeticError: A sample left the lattice (LatticeOverflow), or its prediction is not finite (NonFinite).
    """
    noise, faults = model.integrate(start, captions, 0)
    yield "inversion"
    _, more = model.integrate(noise, captions, start.position)
    yield "generation"
    if faults or more:
        raise next(iter((faults | more).values()))


def directions(walk: Iterator[str], network: torch.nn.Module) -> dict[str, dict[str, float]]:
    """Return the `calls`, `rows` and `seconds` of each direction of a round trip."""
    found, began = {}, time.perf_counter()
    with counted(network) as counts:
        for direction in walk:
            found[direction] = {**counts, "seconds": time.perf_counter() - began}
            counts.clear()
            began = time.perf_counter()
    return found


@program(batch=8, threads=torch.get_num_threads(), guidance=3.0, steps=[10, 20, 50, 100], timed_steps=20, rounds=5)
def cost(given: Namespace) -> None:
    model = EDICT.from_pretrained()
    shown = [first for first, _ in drawings()[: given.batch]]
    captions, clean = [image.caption for image in shown], model.encode([image.image for image in shown])

    def measure(name: str, steps: int, count: int) -> dict[str, dict[str, float]]:
        settings = sampling(steps=steps, strength=1.0, guidance_scale=given.guidance, name=name)
        return directions(round_trip(model, model.prepare(clean[:count], settings), captions[:count]), model.network)

    calls: list[dict[str, Any]] = []
    for steps, name in product(given.steps, SAMPLERS):
        found = measure(name, steps, 1)
        counts = {direction: {key: found[direction][key] for key in ("calls", "rows")} for direction in DIRECTIONS}
        calls.append({"sampler": name, "steps": steps, **counts})
    rounds = alternate(given.rounds, {name: partial(measure, name, given.timed_steps, len(shown)) for name in SAMPLERS})
    seconds: list[dict[str, Any]] = []
    for name in SAMPLERS:
        row: dict[str, Any] = {"sampler": name, "steps": given.timed_steps}
        for direction in DIRECTIONS:
            ours, ddim = (
                [one[direction]["seconds"] / len(shown) for one in rounds[sampler]] for sampler in (name, "ddim")
            )
            to_ddim = median(ratios(ours, ddim))
            row[direction] = {"seconds_per_image": median(ours), "to_ddim": to_ddim, "rounds": ours}
        seconds.append(row)
    costs = {"calls": calls, "seconds": seconds}
    tables.cost(costs)
    save("samplers/cost", given, **costs)


if __name__ == "__main__":
    run(__doc__, cost)
