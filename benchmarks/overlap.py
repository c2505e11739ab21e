"""What the threads beside the network take from it: reading ahead and encoding, without end, while it is called.

`python -m benchmarks.overlap`, on two cores or more. A worker decodes the next unit's pictures and encodes those of its
edits in threads of its own. Python lets one thread run at a time except where a library lets go of it, which decoders
and encoders do or do not; so each kind of work is done alone and beside the network, the network alone and beside it.
Of photos as `benchmarks.dataplane` has them, and of calls of the shipped network for two rows, of many small operators.
"""

import threading
import time
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np
import torch

from benchmarks.dataplane import CAPTION, FILES, FileFormat, photo
from benchmarks.record import parser, save
from edict import EDICT
from jobs.evaluation.record import table
from jobs.evaluation.truth import pictures
from pipeline.io.images import encode, prepare

SIDE = 512

Rates = dict[str, float]


def rate(do: Callable[[], object], seconds: float) -> float:
    """How often a second."""
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        do()
        done += 1
    return done / spent


def beside(work: Callable[[], object], call: Callable[[], object], seconds: float) -> tuple[float, float]:
    """How often a second each, work in a thread and calls in this one, at once."""
    found = list[float]()
    thread = threading.Thread(target=lambda: found.append(rate(work, seconds)))
    thread.start()
    called = rate(call, seconds)
    thread.join()
    return found[0], called


def kinds() -> Mapping[str, Callable[[], object]]:
    """What threads do, to one picture."""
    [picture] = pictures(count=1)
    file = photo(picture.image, np.random.default_rng(0))
    square = prepare(file, SIDE, "center").image

    def encoded(format: FileFormat) -> Callable[[], object]:
        return lambda: encode(square, format)

    return {
        "decode, crop, resize": lambda: prepare(file, SIDE, "center"),
        **{f"encode {format}": encoded(format) for format in FILES},
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(threads=1, batch=2)
    arguments.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    model = EDICT.from_pretrained()
    latents = torch.randn(given.batch, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        predict = model.predictor([CAPTION] * given.batch, 1.0)

        def call() -> torch.Tensor:
            return predict(latents, 500)

        found = dict[str, Rates]()
        for name, work in kinds().items():
            rounds = [
                (rate(work, given.seconds), rate(call, given.seconds), *beside(work, call, given.seconds))
                for _ in range(given.rounds)
            ]
            found[name] = {
                "alone": median(alone for alone, *_ in rounds),
                "beside": median(work_beside for *_, work_beside, _ in rounds),
                "network_kept": median(call_beside / called for _, called, _, call_beside in rounds),
            }
    for rates in found.values():
        rates["network_lost_a_picture_ms"] = 1e3 * (1 - rates["network_kept"]) / rates["beside"]
    head = ("in a thread", "a second, alone", "beside the network", "of the network's rate left", "ms of it a picture")
    lines = [
        [
            name,
            f"{rates['alone']:.0f}",
            f"{rates['beside']:.0f}",
            f"{rates['network_kept']:.3f}",
            f"{rates['network_lost_a_picture_ms']:.2f}",
        ]
        for name, rates in found.items()
    ]
    print(table(head, lines))
    print(f"\nwritten to {save('overlap', given, work=found)}")


if __name__ == "__main__":
    main()
