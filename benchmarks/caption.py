"""Edits that need no source image: SDEdit against generating the target from its caption and pure noise.

`python -m benchmarks.caption`. Where both are equally far from the truth, SDEdit took nothing from the source at the
strength that the grid chose. The edits are the test edits of `edict eval edits`.
"""

from argparse import Namespace
from functools import partial

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import program, run, save, show
from edict import EDICT, Pair
from edict.integration import solve_floats
from jobs.evaluation.bootstrap import format_interval, mean_interval
from jobs.evaluation.methods import Edited, Setting, apply_method, by_sdedit
from jobs.evaluation.truth import reference_edits, split, squared_error


@torch.inference_mode()
def by_caption(model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float) -> Edited:
    """Generate by DDIM from noise of one seed, under the target's caption. The source is not used."""
    latents = start.to_float()[0]
    noise = torch.randn(latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    predict = model.direct.predictor(targets, guidance_scale)
    return solve_floats(noise, "ddim", start.schedule, predict, 0, start.schedule.num_steps), set()


@program(batch=16, threads=torch.get_num_threads(), tune=6, steps=25, strength=1.0, guidance=3.0)
def caption(given: Namespace) -> None:
    setting = Setting(given.strength, given.guidance, given.guidance)
    edit = partial(apply_method, EDICT.from_pretrained(), steps=given.steps, batch=given.batch)
    _, test = split(reference_edits(), given.tune)
    rows = []
    for kind in ("colour", "person"):
        edits = [edit for edit in test if edit.kind == kind]
        errors: dict[str, np.ndarray] = {}
        for name, method in (("SDEdit", by_sdedit), ("caption alone", by_caption)):
            images: list[Image.Image] = []
            for first in range(0, len(edits), given.batch):
                images += edit(method, setting, edits[first : first + given.batch])[0]
            errors[name] = squared_error(images, [edit.target.image for edit in edits])
        errors["SDEdit - caption alone"] = errors["SDEdit"] - errors["caption alone"]
        drawings = np.array([edit.drawings for edit in edits])
        intervals = {name: mean_interval(values, drawings) for name, values in errors.items()}
        rows.append({"kind": kind, "n": len(edits), **intervals})
    columns = {f"{name} [95%]": lambda row, name=name: format_interval(row[name]) for name in errors}
    show(rows, {"kind": "kind", "edits": "n", **columns})
    save("caption", given, rows=rows)


if __name__ == "__main__":
    run(__doc__, caption)
