"""Every round trip of a grid on the default model: which come back integer for integer, and which leave the lattice.

`python -m benchmarks.exactness`. Steps 1 to 200, strengths .3, .8, 1, guidance 1 to 15, p .9 to 1, two network dtypes.
A round trip that leaves the lattice is an error with a name (LatticeOverflow); it is counted, by sample.
"""

import time
from itertools import product

import torch

from benchmarks.record import numbers, parser, save
from edict import EDICT, Pair
from edict.inversion import Faults
from edict.samplers import sampling
from jobs.evaluation.record import table
from jobs.evaluation.truth import pictures
from schemas.sampling import executed

STRENGTHS = (0.3, 0.8, 1.0)
GUIDANCE = (1.0, 3.0, 7.0, 15.0)
MIXING = (0.9, 0.93, 0.97, 1.0)
DTYPES = (torch.float32, torch.bfloat16)


def differing(one: Pair, other: Pair, faults: Faults) -> int:
    """How many integers differ over the samples that have no fault."""
    sound = [i for i in range(len(one)) if i not in faults]
    return int((one.x[sound] != other.x[sound]).sum() + (one.y[sound] != other.y[sound]).sum())


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--count", type=int, default=2, help="pictures a round trip")
    arguments.add_argument("--steps", type=numbers, default=[1, 2, 7, 25, 50, 51, 200])
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    shown = pictures()[: given.count]
    captions = [picture.caption for picture in shown]
    rows = []
    began = time.monotonic()
    for dtype in DTYPES:
        model = EDICT.from_pretrained(dtype=dtype)
        clean = model.encode([picture.image for picture in shown])
        for steps, strength, guidance, p in product(given.steps, STRENGTHS, GUIDANCE, MIXING):
            if executed(steps, strength) == 0:
                continue
            start = model.prepare(clean, sampling(steps=steps, strength=strength, guidance_scale=guidance, p=p))
            noise, lost = model.integrate(start, captions, 0)
            again, more = model.integrate(noise, captions, start.position)
            faults = lost | more
            rows.append(
                {
                    "dtype": str(dtype),
                    "steps": steps,
                    "strength": strength,
                    "guidance": guidance,
                    "p": p,
                    "left_the_lattice": len(faults),
                    "integers_differing": differing(again, start, faults),
                }
            )
    head = ("network", "steps", "round trips", "samples", "left the lattice", "integers differing")
    lines = []
    for dtype, steps in product(DTYPES, given.steps):
        cells = [row for row in rows if row["dtype"] == str(dtype) and row["steps"] == steps]
        lost_samples, wrong = (
            sum(int(row[name]) for row in cells) for name in ("left_the_lattice", "integers_differing")
        )
        lines.append([str(dtype), steps, len(cells), len(cells) * len(shown), lost_samples, wrong])
    print(table(head, lines))
    print(f"\n{time.monotonic() - began:.0f} s; written to {save('exactness', given, rows=rows)}")


if __name__ == "__main__":
    main()
