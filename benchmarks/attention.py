"""What prompt-to-prompt attention control does to edits, against their ground truth, by the windows it acts in.

`python -m benchmarks.attention`. Errors are mean squared distances of 8-bit pictures on [-1, 1] pixels: `truth` to the
picture that the edit should lead to, `outside` to the same where source and truth agree, so that nothing should change.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from benchmarks.record import parser, save
from edict import EDICT, Blend, Control
from edict.samplers import sampling
from jobs.demo import KINDS
from jobs.evaluation.edits import Setting, mean_interval
from jobs.evaluation.record import table
from jobs.evaluation.truth import ReferenceEdit, outside_error, squared_error, truth


def setting(text: str) -> Setting:
    """An argument such as 0.8,1,3."""
    return Setting(*map(float, text.split(",")))


def control(text: str) -> Control:
    """An argument such as 0.4,0.6 (cross, self) or 0.4,0.6,0.3 (and the threshold of a mask of the changed words)."""
    cross, self_, *threshold = (float(number) for number in text.split(","))
    return Control(cross, self_, blend=Blend(threshold=threshold[0]) if threshold else None)


def edited(
    model: EDICT,
    edits: Sequence[ReferenceEdit],
    given: Setting,
    controls: dict[str, Control],
    *,
    steps: int,
    batch: int,
) -> dict[str, list[Image.Image]]:
    """The edited pictures under each control, and the sources regenerated; inverted once. A fault raises."""
    start = model.encode([edit.source.image for edit in edits])
    scale = given.inverted_at
    ready = model.prepare(start, sampling(steps=steps, strength=given.strength, guidance_scale=scale), batch)
    sources = [edit.source.caption for edit in edits]
    noise, faults = model.integrate(ready, sources, 0)
    made = {}
    everywhere = torch.ones(len(edits), *start.x.shape[2:], dtype=torch.bool)
    for name, one in controls.items():
        if not (one.cross or one.self_ or one.blend):  # The plain edit: a control without effect is an error.
            one = replace(one, blend=everywhere)
        prompts = [[edit.target.caption] for edit in edits]
        both, met = model.edit(noise, sources, prompts, control=one, guidance_scale=given.edited_at)
        if faults or met:
            raise next(iter((faults | met).values()))
        if both[0::2].digests() != start.digests():
            raise ArithmeticError(f"control {name}: the sources did not come back exactly")
        for rows, pairs in (("regenerated", both[0::2]), (name, both[1::2])):
            parts = [pairs[first : first + batch] for first in range(0, len(pairs), batch)]
            made[rows] = [image for part in parts for image in model.decode(part.to_float()[0])]
    return made


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--skip", type=int, default=0, help="pairs of every kind, the first, that are left out")
    arguments.add_argument("--per-kind", type=int, default=8, help="pairs of every kind")
    arguments.add_argument("--steps", type=int, default=25)
    arguments.add_argument(
        "--setting", type=setting, default=Setting(1.0, 1.0, 1.0), help="STRENGTH,INVERTED_AT,EDITED_AT"
    )
    windows = ["0,0", "0.4,0", "0.8,0", "0,0.2", "0,0.4", "0.4,0.6", "0,0,0.3", "0.4,0.6,0.3"]
    arguments.add_argument("--controls", nargs="+", default=windows, help="CROSS,SELF or CROSS,SELF,THRESHOLD")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    model = EDICT.from_pretrained()
    part = slice(given.skip, given.skip + given.per_kind)
    test = [edit for kind in KINDS for edit in [edit for edit in truth() if edit.kind == kind][part]]
    controls = {text: control(text) for text in given.controls}
    made = edited(model, test, given.setting, controls, steps=given.steps, batch=given.batch)
    targets = [edit.target.image for edit in test]
    to_truth = {name: squared_error(images, targets) for name, images in made.items()}
    outside = {name: outside_error(images, test) for name, images in made.items()}
    kinds = np.array([edit.kind for edit in test])
    of_kind = {**{kind: kinds == kind for kind in KINDS}, "all": np.ones(len(test), dtype=bool)}
    plain = given.controls[0]
    rows, results = [], []
    for name in made:
        for measure, errors in (("truth", to_truth), ("outside", outside)):
            means = {kind: float(np.nanmean(errors[name][chosen])) for kind, chosen in of_kind.items()}
            difference = mean_interval(errors[name] - errors[plain])
            results.append({"control": name, "measure": measure, "mse": means, f"minus {plain}": difference})
            interval = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*difference)
            rows.append([name, measure, *(f"{mean:.4f}" for mean in means.values()), interval])
    strength, inverted_at, edited_at = given.setting
    print(f"{len(test)} pairs, strength {strength:g}, inverted at guidance {inverted_at:g}, edited at {edited_at:g}")
    print(table(("cross,self[,mask]", "error", *of_kind, f"all - ({plain}) [95 %]"), rows))
    print(f"\nwritten to {save('attention', given, rows=results)}")


if __name__ == "__main__":
    main()
