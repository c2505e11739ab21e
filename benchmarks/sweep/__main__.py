"""Sweep steps, p, gamma, the bits of the lattice, strength and guidance on the shipped model.

`python -m benchmarks.sweep`. The results are written after every setting. A setting that an earlier run measured with
the same arguments and weights is kept. At the end the plots of docs/choosing.md are drawn. The images and edits are
those that `edict eval edits` chooses settings on.
"""

import json
from argparse import Namespace
from typing import Any

from transformers.utils import logging

from benchmarks.harness import RESULTS, program, run, save, show
from benchmarks.sweep import edits, guidance, lattice, noise, plots
from edict import EDICT
from edict.checkpoint import locate
from edict.model_files import weights_digest
from jobs.evaluation.bootstrap import format_interval
from jobs.evaluation.truth import reference_edits, split
from pipeline.progress import Progress

SWEEPS = {"lattice": lattice, "noise": noise, "edits": edits, "guidance": guidance}


def kept(given: Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of an earlier run with the same arguments and weights, by sweep."""
    file = RESULTS / "sweep.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    same = found.get("arguments") == vars(given) and found.get("weights") == weights_digest(locate())
    return {name: found.get(name, []) if same else [] for name in SWEEPS}


@program(
    batch=12,
    threads=1,
    tune=6,
    count=8,  # images of the noise and the lattice
    steps=50,  # of the lattice, as are the next two
    guidance=3.0,
    strength=0.8,
)
def sweep(given: Namespace) -> None:
    logging.disable_progress_bar()
    model = EDICT.from_pretrained()
    tuning, _ = split(reference_edits(), given.tune)
    few = tuning[:: len(tuning) // given.count][: given.count]
    rows = kept(given)
    settings = [(name, one) for name, module in SWEEPS.items() for one in module.settings()]
    missing = [(name, one) for name, one in settings if not any(one.items() <= row.items() for row in rows[name])]
    with Progress("sweep", len(missing), "settings") as progress:
        for name, one in missing:
            rows[name] += SWEEPS[name].measure(model, few if name in ("lattice", "noise") else tuning, one, given)
            save("sweep", given, **rows)
            progress.advance(1, name)
    compared, source = edits.compare(rows["edits"], tuning), edits.unedited(tuning)
    save("sweep", given, **rows, compared=compared, source=source)
    for name, module in SWEEPS.items():
        show(rows[name], module.COLUMNS, name)
    columns: dict[str, Any] = {side: lambda row, side=side: [*row[side].values()] for side in ("of", "less")}
    columns["to the truth [95%]"] = lambda row: format_interval(row["truth"])
    show(compared, columns, f"differences; settings are {', '.join(edits.SETTING)}")
    print(f"\nthe source to the truth: {format_interval(source)}, {len(tuning)} edits")
    plots.draw(rows)


if __name__ == "__main__":
    run(__doc__, sweep)
