"""What a picture costs by each sampler: calls of the network, counted at the network, and seconds, side by side.

`python -m benchmarks.samplers.cost`. The samplers take turns, round after round, on the same batch.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks.record import numbers, parser, save
from benchmarks.samplers.drawings import drawings
from edict import EDICT, Pair
from edict.samplers import SAMPLERS, sampling
from jobs.evaluation.record import table

DIRECTIONS = ("inversion", "generation")


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[Counter[str]]:
    """How often a network is called meanwhile, and on how many rows of batches in all."""
    counts = Counter[str]()

    def count(_: torch.nn.Module, __: object, output: Any) -> None:
        counts["calls"] += 1
        counts["rows"] += len(output[0])

    hook = network.register_forward_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


def there_and_back(model: EDICT, start: Pair, captions: list[str]) -> Iterator[str]:
    """Each direction's name, when it is done. A fault raises."""
    noise, lost = model.integrate(start, captions, 0)
    yield "inversion"
    _, more = model.integrate(noise, captions, start.position)
    yield "generation"
    if lost or more:
        raise next(iter((lost | more).values()))


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(batch=8)
    arguments.add_argument("--guidance", type=float, default=3.0)
    arguments.add_argument("--steps", type=numbers, default=[10, 20, 50, 100], help="that calls are counted at")
    arguments.add_argument("--timed-steps", type=int, default=20)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    model = EDICT.from_pretrained()
    shown = [first for first, _ in drawings()[: given.batch]]
    captions = [picture.caption for picture in shown]
    clean = model.encode([picture.image for picture in shown])

    def ready(name: str, steps: int, start: Pair) -> Pair:
        return model.prepare(start, sampling(steps=steps, strength=1.0, guidance_scale=given.guidance, name=name))

    counts = []
    for steps, name in product(given.steps, SAMPLERS):
        row: dict[str, Any] = {"sampler": name, "steps": steps}
        with counted(model.network) as met:
            for direction in there_and_back(model, ready(name, steps, clean[:1]), captions[:1]):
                row[direction] = dict(met)
                met.clear()
        counts.append(row)
    seconds: dict[tuple[str, str], list[float]] = {}
    for _, name in product(range(given.rounds), SAMPLERS):
        start = ready(name, given.timed_steps, clean)
        began = time.perf_counter()
        for direction in there_and_back(model, start, captions):
            seconds.setdefault((name, direction), []).append((time.perf_counter() - began) / len(shown))
            began = time.perf_counter()
    timed = []
    for name in SAMPLERS:
        row = {"sampler": name, "steps": given.timed_steps}
        for direction in DIRECTIONS:
            took, ddims = np.array(seconds[name, direction]), np.array(seconds["ddim", direction])
            row[direction] = {
                "seconds_per_image": float(np.median(took)),
                "to_ddim": float(np.median(took / ddims)),
                "rounds": took.tolist(),
            }
        timed.append(row)
    print(table(("sampler", "steps", *DIRECTIONS), [list(row.values()) for row in counts]))
    head = ("sampler", "steps", *(f"{what} {unit}" for what in DIRECTIONS for unit in ("s/image", "to ddim")))
    cells = [
        [
            row["sampler"],
            row["steps"],
            *(f"{row[d][u]:.3f}" for d in DIRECTIONS for u in ("seconds_per_image", "to_ddim")),
        ]
        for row in timed
    ]
    print("\n" + table(head, cells))
    print(f"\nwritten to {save('samplers/cost', given, calls=counts, seconds=timed)}")


if __name__ == "__main__":
    main()
