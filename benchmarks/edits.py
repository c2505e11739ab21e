"""Edits against their ground truth: the held-out demo picture that a caption's change of one word really leads to.

`python -m benchmarks.edits`. Errors are mean squared distances to that picture, of 8-bit pictures on [-1, 1] pixels.
`--grid` chooses strength and guidance, for either method alike, on the first pairs of every kind; the rest test.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.record import parser, save, table
from benchmarks.truth import Edit, squared_error, truth
from edict import EDICT, Control, Pair, ddim
from edict.training.emoji import KINDS

SHEET = Path(__file__).parents[1] / "docs" / "pictures" / "edits.png"


class Setting(NamedTuple):
    """How an edit is made; the guidance scale is that of both directions."""

    strength: float
    guidance_scale: float


GRID = tuple(Setting(*pair) for pair in product((0.6, 0.8, 0.9, 1.0), (1.0, 3.0, 5.0)))
Method = Callable[[EDICT, Pair, list[str], list[str]], tuple[torch.Tensor, set[int]]]
"""(model, prepared clean end, source captions, target captions) -> edited latents [N, C, H, W], those that failed."""


def by_edict(model: EDICT, start: Pair, sources: list[str], targets: list[str]) -> tuple[torch.Tensor, set[int]]:
    """EDICT's inversion under the source's caption and generation under the target's."""
    noise, faults = model.move(start, sources, 0)
    edited, more = model.move(noise, targets, start.position)
    return edited.to_float()[0], {*faults, *more}


@torch.inference_mode()
def by_ddim(model: EDICT, start: Pair, sources: list[str], targets: list[str]) -> tuple[torch.Tensor, set[int]]:
    """The same with DDIM along the same schedule."""
    schedule, guidance_scale = start.schedule, start.guidance_scale
    latents = start.to_float()[0]
    noise = ddim.invert(latents, schedule, model.predictor(sources, guidance_scale), start=schedule.depth, stop=0)
    predict = model.predictor(targets, guidance_scale)
    return ddim.generate(noise, schedule, predict, start=0, stop=schedule.depth), set()


def by_control(model: EDICT, start: Pair, sources: list[str], targets: list[str]) -> tuple[torch.Tensor, set[int]]:
    """EDICT with prompt-to-prompt attention control: each source's attention is regenerated beside its edit."""
    noise, faults = model.move(start, sources, 0)
    both, more = model.edit(noise, sources, [[target] for target in targets], control=Control())
    # source, edit, source, edit, ...
    return both[1::2].to_float()[0], {*faults, *(i // 2 for i in more)}


@torch.inference_mode()
def by_sdedit(model: EDICT, start: Pair, sources: list[str], targets: list[str]) -> tuple[torch.Tensor, set[int]]:
    """SDEdit (Meng et al., 2108.01073): noised at random, with one seed, to the strength's depth; then DDIM."""
    schedule, alpha = start.schedule, start.schedule.alpha(0)
    latents = start.to_float()[0]
    noise = torch.randn(latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noised = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise.to(latents.device)
    predict = model.predictor(targets, start.guidance_scale)
    return ddim.generate(noised, schedule, predict, start=0, stop=schedule.depth), set()


METHODS: dict[str, Method] = {"EDICT": by_edict, "DDIM": by_ddim, "control": by_control, "SDEdit": by_sdedit}
"""By the names they are printed under; "control" is EDICT with attention control."""


def edited(
    model: EDICT, method: Method, edits: Sequence[Edit], setting: Setting, *, steps: int, batch: int
) -> tuple[list[Image.Image], np.ndarray]:
    """The edited pictures and each one's error, float64 [N], nan where the method failed."""
    images: list[Image.Image] = []
    failed: list[bool] = []
    for first in range(0, len(edits), batch):
        part = edits[first : first + batch]
        start = model.prepare(
            model.encode([edit.source.image for edit in part]), steps=steps, **setting._asdict(), batch_size=batch
        )
        latents, faults = method(
            model, start, [edit.source.caption for edit in part], [edit.target.caption for edit in part]
        )
        images += model.decode(latents)
        failed += [i in faults for i in range(len(part))]
    return images, np.where(failed, np.nan, squared_error(images, [edit.target.image for edit in edits]))


def choose(
    model: EDICT, method: Method, edits: Sequence[Edit], *, steps: int, batch: int
) -> tuple[Setting, list[dict[str, Any]]]:
    """The setting of GRID with the least mean error, and all of them; one that fails on any pair is not chosen."""
    tried = []
    for setting in GRID:
        _, errors = edited(model, method, edits, setting, steps=steps, batch=batch)
        tried.append({**setting._asdict(), "mse": float(errors.mean()), "failed": int(np.isnan(errors).sum())})
    if all(one["failed"] for one in tried):
        raise ArithmeticError("every setting of the grid fails on some pair; take fewer steps")
    best = min((one for one in tried if not one["failed"]), key=lambda one: one["mse"])
    return Setting(best["strength"], best["guidance_scale"]), tried


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of [N] and its 95 % interval by 10,000 bootstrap resamples, seeded; nan left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    means = values[np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def summary(kind: str, errors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The row of one kind: means with their intervals, and the share of pairs whose edit is nearer than the source."""
    row: dict[str, Any] = {"kind": kind, "n": len(errors["source"])}
    row |= {name: mean_interval(values) for name, values in errors.items()}
    row |= {f"EDICT - {name}": mean_interval(errors["EDICT"] - errors[name]) for name in METHODS if name != "EDICT"}
    row["nearer"] = {name: float((errors[name] < errors["source"]).mean()) for name in METHODS}
    row["failed"] = {name: int(np.isnan(errors[name]).sum()) for name in METHODS}
    return row


def compared() -> list[str]:
    """What is printed with an interval: every method, and EDICT less each other."""
    return [*METHODS, *(f"EDICT - {name}" for name in METHODS if name != "EDICT")]


def line(row: dict[str, Any]) -> list[object]:
    """A row as it is printed."""
    intervals = ["{:.4f} [{:.4f}, {:.4f}]".format(*row[name]) for name in compared()]
    shares = [f"{row['nearer'][name]:.0%}" for name in METHODS]
    failed = " + ".join(str(row["failed"][name]) for name in METHODS)
    return [
        row["kind"],
        row["n"],
        f"{row['source'][0]:.4f}",
        f"{row['autoencoder'][0]:.4f}",
        *intervals,
        *shares,
        failed,
    ]


def sheet(edits: Sequence[Edit], rows: dict[str, Sequence[Image.Image]]) -> Image.Image:
    """A contact sheet: a row for every name of `rows`, a column for every edit, pictures twice their size."""
    size, left, top = 2 * edits[0].source.image.width, 84, 48
    drawn = Image.new("RGB", (left + size * len(edits), top + size * len(rows)), "white")
    draw = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(11)
    for i, edit in enumerate(edits):
        before, after = (caption.replace(",", "").split() for caption in (edit.source.caption, edit.target.caption))
        old, new = [word for word in before if word not in after], [word for word in after if word not in before]
        draw.text((left + size * i + 3, 3), f"{edit.kind}:\n{' '.join(old)} >\n{' '.join(new)}", "black", font)
    for j, (name, images) in enumerate(rows.items()):
        draw.text((3, top + size * j + size // 2), name, "black", font)
        for i, image in enumerate(images):
            drawn.paste(image.resize((size, size), Image.Resampling.NEAREST), (left + size * i, top + size * j))
    return drawn


def setting(text: str) -> Setting:
    """An argument such as 0.8,3."""
    strength, guidance_scale = text.split(",")
    return Setting(float(strength), float(guidance_scale))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--per-kind", type=int, default=32, help="pairs of every kind to test, where there are as many"
    )
    arguments.add_argument("--tune", type=int, default=8, help="pairs of every kind, the first, that are not tested on")
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--grid", action="store_true", help="choose strength and guidance on the tuning pairs")
    for name in METHODS:
        arguments.add_argument(
            f"--{name.lower()}", type=setting, default=Setting(0.8, 3.0), help="STRENGTH,GUIDANCE without --grid"
        )
    arguments.add_argument("--columns", type=int, default=2, help="pairs of every kind on the contact sheet")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    model = EDICT.from_pretrained()
    by_kind = {kind: [edit for edit in truth() if edit.kind == kind] for kind in KINDS}
    tuning = [edit for edits in by_kind.values() for edit in edits[: given.tune]]
    test = [edit for edits in by_kind.values() for edit in edits[given.tune : given.tune + given.per_kind]]

    settings = {name: getattr(given, name.lower()) for name in METHODS}
    grids = {}
    if given.grid:
        for name, method in METHODS.items():
            settings[name], grids[name] = choose(model, method, tuning, steps=given.steps, batch=given.batch)
    for name, chosen in settings.items():
        how = "chosen" if given.grid else "given"
        print(f"{name}: strength {chosen.strength:g}, guidance {chosen.guidance_scale:g}, {how}", flush=True)

    targets = [edit.target.image for edit in test]
    rows: dict[str, list[Image.Image]] = {"source": [edit.source.image for edit in test]}
    rows["autoencoder"] = model.decode(model.encode(targets).to_float()[0])
    rows["truth"] = targets
    errors = {name: squared_error(rows[name], targets) for name in ("source", "autoencoder")}
    for name, method in METHODS.items():
        rows[name], errors[name] = edited(model, method, test, settings[name], steps=given.steps, batch=given.batch)

    kinds = np.array([edit.kind for edit in test])
    results = [summary(kind, {name: values[kinds == kind] for name, values in errors.items()}) for kind in KINDS]
    results.append(summary("all", errors))
    head = ["kind", "n", "source", "autoencoder", *(f"{name} [95 %]" for name in compared())]
    head += [*(f"{name} nearer" for name in METHODS), "failed"]
    print(table(head, [line(row) for row in results]))
    shown = [i for kind in KINDS for i in np.flatnonzero(kinds == kind)[: given.columns]]
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    sheet([test[i] for i in shown], {name: [images[i] for i in shown] for name, images in rows.items()}).save(SHEET)
    settings_used = {name: chosen._asdict() for name, chosen in settings.items()}
    print(f"\nwritten to {save('edits', given, settings=settings_used, grids=grids, rows=results)} and {SHEET}")


if __name__ == "__main__":
    main()
