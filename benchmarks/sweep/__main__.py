"""Steps, p, gamma, the lattice's bits, strength and guidance, swept on the default model.

`python -m benchmarks.sweep`. Results are written after every setting, and those that are there, made with the same
arguments and weights, are not made again. In the end the plots of docs/choosing.md are drawn. Pictures and edits are
those that `edict eval edits` chooses on.
"""

import json
from argparse import Namespace
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.record import RESULTS, parser, save
from benchmarks.sweep import edits, guidance, lattice, noise, plots
from edict import EDICT
from edict.checkpoint import locate, weights_digest
from jobs.evaluation.edits import interval
from jobs.evaluation.record import table
from jobs.evaluation.truth import split, truth
from pipeline.progress import Progress

SWEEPS = {"lattice": lattice, "noise": noise, "edits": edits, "guidance": guidance}


def kept(given: Namespace) -> dict[str, list[dict[str, Any]]]:
    """The rows of each sweep that an earlier run of the same arguments and weights left."""
    file = RESULTS / "sweep.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    same = found.get("arguments") == vars(given) and found.get("weights") == weights_digest(locate())
    return {name: found.get(name, []) if same else [] for name in SWEEPS}


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(batch=12, threads=1)
    arguments.add_argument("--tune", type=int, default=6, help="drawings of every kind, as with `edict eval edits`")
    arguments.add_argument("--count", type=int, default=8, help="pictures of the noise and the lattice, of these edits")
    arguments.add_argument("--steps", type=int, default=50, help="of the lattice")
    arguments.add_argument("--guidance", type=float, default=3.0, help="of the lattice")
    arguments.add_argument("--strength", type=float, default=0.8, help="of the lattice's edits")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    logging.disable_progress_bar()
    model = EDICT.from_pretrained()
    tuning, _ = split(truth(), given.tune)
    few = tuning[:: len(tuning) // given.count][: given.count]
    rows = kept(given)
    tried = [(name, one) for name, sweep in SWEEPS.items() for one in sweep.tries()]
    missing = [(name, one) for name, one in tried if not any(one.items() <= row.items() for row in rows[name])]
    with Progress("sweep", len(missing), "settings") as progress:
        for name, one in missing:
            rows[name] += SWEEPS[name].measure(model, few if name in ("lattice", "noise") else tuning, one, given)
            save("sweep", given, **rows)
            progress.advance(1, name)
    compared = edits.compare(rows["edits"], [edit.drawings for edit in tuning])
    source = edits.unedited(tuning)
    file = save("sweep", given, **rows, compared=compared, source=source)
    for name, sweep in SWEEPS.items():
        print(f"{name}\n\n{table(sweep.HEAD, [sweep.line(row) for row in rows[name]])}\n")
    settings = [[" ".join(f"{value:g}" for value in row[side].values()) for side in ("of", "less")] for row in compared]
    head = (", ".join(edits.SETTING), "less", "to the truth [95 %]")
    print(table(head, [[*pair, interval(row["truth"])] for pair, row in zip(settings, compared, strict=True)]))
    plots.draw(rows)
    print(f"\nthe source to the truth: {interval(source)}, {len(tuning)} edits")
    print(f"\nwritten to {file} and {plots.FOLDER}")


if __name__ == "__main__":
    main()
