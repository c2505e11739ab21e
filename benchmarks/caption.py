"""Which edits need the picture at all: SDEdit against drawing the target from its caption alone, out of noise.

`python -m benchmarks.caption`. Where both are as far from the truth, SDEdit, at the strength that the grid chose,
took nothing from the source, and the caption was enough. On the edits that `edict eval edits` tests on.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from benchmarks.record import parser, save
from edict import EDICT, Pair
from edict.integration import solve_floats
from jobs.demo import KINDS
from jobs.evaluation.edits import Edited, Method, Setting, by_sdedit, edit_batch, interval, mean_interval
from jobs.evaluation.record import table
from jobs.evaluation.truth import ReferenceEdit, split, squared_error, truth


@torch.inference_mode()
def by_caption(model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float) -> Edited:
    """DDIM from pure noise, of one seed, under the target's caption; the source is not looked at."""
    latents = start.to_float()[0]
    noise = torch.randn(latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    predict = model.predictor(targets, guidance_scale)
    return solve_floats(noise, "ddim", start.schedule, predict, 0, start.schedule.num_steps), set()


def errors(
    model: EDICT, method: Method, edits: Sequence[ReferenceEdit], setting: Setting, *, steps: int, batch: int
) -> np.ndarray:
    """The mean squared distances to the truth, float64 [N]."""
    images: list[Image.Image] = []
    for first in range(0, len(edits), batch):
        images += edit_batch(model, method, setting, edits[first : first + batch], steps=steps, batch=batch)[0]
    return squared_error(images, [edit.target.image for edit in edits])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--kinds", nargs="+", choices=KINDS, default=["colour", "person"])
    arguments.add_argument("--tune", type=int, default=6, help="as with `edict eval edits`")
    arguments.add_argument("--steps", type=int, default=25)
    arguments.add_argument("--setting", type=float, nargs=2, default=(1.0, 3.0), help="STRENGTH GUIDANCE of SDEdit")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    strength, guidance_scale = given.setting
    model, setting = EDICT.from_pretrained(), Setting(strength, guidance_scale, guidance_scale)
    _, test = split(truth(), given.tune)
    rows, results = [], []
    for kind in given.kinds:
        edits = [edit for edit in test if edit.kind == kind]
        drawings = np.array([edit.drawings for edit in edits])
        made = {
            name: errors(model, method, edits, setting, steps=given.steps, batch=given.batch)
            for name, method in (("SDEdit", by_sdedit), ("caption alone", by_caption))
        }
        made["SDEdit - caption alone"] = made["SDEdit"] - made["caption alone"]
        found = {name: mean_interval(values, drawings) for name, values in made.items()}
        results.append({"kind": kind, "n": len(edits), **found})
        rows.append([kind, len(edits), *map(interval, found.values())])
    print(table(("kind", "edits", *(f"{name} [95 %]" for name in found)), rows))
    print(f"\nwritten to {save('caption', given, rows=results)}")


if __name__ == "__main__":
    main()
