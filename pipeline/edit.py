"""Editing: rows of a latent store regenerated under other prompts; a tar of pictures, an index and a commit out."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol

import pyarrow as pa

from edict.model import Faults
from edict.schedule import executed
from pipeline.errors import JobError
from pipeline.images import ImageError, encode, prepare
from pipeline.latents import Latents, read_latents
from pipeline.parts import to_parquet
from pipeline.plan import Unit, read_entries, read_units
from pipeline.shards import Sample, read_samples, write_shard
from pipeline.store import Store
from pipeline.worker import Ahead, Attempt, Machine, load_model
from schemas.edits import EDITS
from schemas.pictures import PICTURES
from schemas.rejects import Reject
from schemas.specs import EditSpec


class Variant(Protocol):
    """One way to edit: its name, and what differs from the store's own parameters (None: nothing)."""

    @property
    def name(self) -> str: ...
    @property
    def guidance_scale(self) -> float | None: ...
    @property
    def strength(self) -> float | None: ...
    @property
    def steps(self) -> int | None: ...


Prompts = Callable[[str], Sequence[tuple[Variant, str]]]
"""The variants that change a caption, each with its prompt."""


class EditError(JobError):
    """Edits that a latent store cannot serve; the message names the edit and says what can be asked."""


@dataclass(frozen=True)
class EditTask:
    """All that a worker needs to edit units of a latent store. `shown`: how many rows of a unit go to the sheet."""

    spec: EditSpec
    prompts: Prompts
    variants_per_row: int
    shown: dict[str, int]
    model_folder: str
    dtype: str
    crop: str
    schedule_steps: int
    machine: Machine


@dataclass(frozen=True)
class Change:
    """One picture to make: row `row` of the unit under `prompt`, its last `steps` steps run under it."""

    row: int
    variant: Variant
    prompt: str
    guidance_scale: float
    steps: int


def executed_steps(variant: Variant, schedule_steps: int, depth: int) -> int:
    """How many steps run under the variant's prompt, in a store of `depth` of `schedule_steps` steps.

    Raises EditError where the store is not that deep.
    """
    steps = variant.steps
    if steps is None:
        steps = depth if variant.strength is None else executed(schedule_steps, variant.strength)
    if not 1 <= steps <= depth:
        raise EditError(
            f"edit {variant.name!r} asks for {steps} steps under its prompt; the latent store holds {depth} of "
            f"{schedule_steps}: ask for a strength up to {depth / schedule_steps:g}, or {depth} steps, or invert deeper"
        )
    return steps


class EditWorker:
    """A Ray actor's body: holds the model, edits the rows of one unit after the other."""

    def __init__(self, task: EditTask) -> None:
        self.task = task
        self.store, self.latents = Store(task.spec.output), Store(task.spec.latents)
        self.model = load_model(task.model_folder, task.dtype, task.machine)
        self.ahead = Ahead(lambda unit: read_latents(self.latents, unit))

    def ready(self) -> None:
        """Returns once the constructor is through."""

    def process(self, unit: Unit, number: int, ahead: Unit | None) -> dict[str, int]:
        """Edit a unit and commit it: how many pictures were made, rejected, and filtered (the caption is unchanged)."""
        attempt = Attempt(self.store, unit, number)
        latents = self.ahead.take(unit, ahead)
        if (batch_size := self.task.spec.workers.batch_size) is not None:
            latents = replace(latents, pair=replace(latents.pair, batch_size=batch_size))
        attempt.spent("read")
        changes = self._changes(latents)
        pictures, drift, faults = self._draw(latents, changes)
        attempt.spent("compute")
        keys, shards, indexes = (latents.column(name) for name in ("key", "shard", "index"))
        rejects = [
            Reject(
                shards[changes[i].row],
                indexes[changes[i].row],
                f"{changes[i].variant.name}/{keys[changes[i].row]}",
                "edit",
                type(fault).__name__,
                str(fault),
            )
            for i, fault in sorted(faults.items())
        ]
        if pictures:
            tar = f"{attempt.name}.tar"
            rows = [self._row(latents, changes[i], tar, pictures[i], drift[i]) for i in pictures]
            samples = ((row["key"], self._members(row, pictures[i])) for i, row in zip(pictures, rows, strict=True))
            attempt.write(f"shards/{tar}", write_shard(samples))
            attempt.write(f"parts/{attempt.name}.parquet", to_parquet(pa.Table.from_pylist(rows, schema=EDITS)))
        if shown := self._show(unit, latents, changes, pictures):
            attempt.write(f"pictures/{attempt.name}.parquet", to_parquet(pa.Table.from_pylist(shown, schema=PICTURES)))
        count = unit.count * self.task.variants_per_row
        filtered = count - len(changes)
        attempt.commit(
            count=count, ok=len(pictures), filtered=filtered, rejects=rejects, device=self.task.machine.device
        )
        return {"ok": len(pictures), "rejected": len(rejects), "filtered": filtered}

    def _changes(self, latents: Latents) -> list[Change]:
        pair = latents.pair
        return [
            Change(
                row,
                variant,
                prompt,
                pair.guidance_scale if variant.guidance_scale is None else variant.guidance_scale,
                executed_steps(variant, self.task.schedule_steps, pair.schedule.depth),
            )
            for row, caption in enumerate(latents.column("caption"))
            for variant, prompt in self.task.prompts(caption)
        ]

    def _draw(self, latents: Latents, changes: list[Change]) -> tuple[dict[int, bytes], dict[int, float], Faults]:
        """Edited pictures as files and their drift, by number of the change; those that failed are in the faults.

        All changes that leave the base prompt at one step share the exact regeneration down to it, and those with one
        guidance scale on top share their batches.
        """
        pictures, drifts, faults = dict[int, bytes](), dict[int, float](), Faults()
        together = defaultdict[tuple[int, float], list[int]](list)
        for i, change in enumerate(changes):
            together[change.steps, change.guidance_scale].append(i)
        captions = latents.column("caption")
        base, lost = latents.pair, Faults()
        # the deepest first, so that each branch point is reached from the one before
        for (steps, guidance_scale), members in sorted(together.items(), reverse=True):
            depth = base.schedule.depth
            base, met = self.model.move(base, captions, depth - steps)
            lost |= met
            faults |= {i: lost[changes[i].row] for i in members if changes[i].row in lost}
            members = [i for i in members if i not in faults]
            if not members:
                continue
            clean, met = self.model.move(
                base[[changes[i].row for i in members]],
                [changes[i].prompt for i in members],
                depth,
                guidance_scale=guidance_scale,
            )
            faults |= {members[j]: fault for j, fault in met.items()}
            drift = clean.drift().tolist()
            for first in range(0, len(members), clean.batch_size):
                images = self.model.decode(clean[first : first + clean.batch_size].to_float()[0])
                for j, image in enumerate(images, first):
                    if j not in met:
                        pictures[members[j]] = encode(image, self.task.spec.images.format)
                        drifts[members[j]] = drift[j]
        return dict(sorted(pictures.items())), drifts, faults

    def _row(self, latents: Latents, change: Change, tar: str, picture: bytes, drift: float) -> dict[str, Any]:
        source = latents.table.slice(change.row, 1).select(["key", "shard", "index", "caption"]).to_pylist()[0]
        return {
            "key": f"{change.variant.name}/{source['key']}",
            "shard": tar,
            "edit": change.variant.name,
            "caption": source["caption"],
            "prompt": change.prompt,
            "guidance_scale": change.guidance_scale,
            "strength": change.steps / self.task.schedule_steps,
            "steps": change.steps,
            "drift": drift,
            "image_sha256": sha256(picture).hexdigest(),
            "source_key": source["key"],
            "source_shard": source["shard"],
            "source_index": source["index"],
        }

    def _members(self, row: dict[str, Any], picture: bytes) -> dict[str, bytes]:
        told = {name: value for name, value in row.items() if name != "shard"}
        return {
            {"jpeg": "jpg"}.get(self.task.spec.images.format, self.task.spec.images.format): picture,
            "txt": row["prompt"].encode(),
            "json": json.dumps(told, ensure_ascii=False).encode(),
        }

    def _show(
        self, unit: Unit, latents: Latents, changes: list[Change], pictures: dict[int, bytes]
    ) -> list[dict[str, Any]]:
        """The unit's share of the contact sheet: its rows with the most edits, and their reconstructions."""
        edits = defaultdict[int, list[dict[str, Any]]](list)
        for i, change in enumerate(changes):
            if i in pictures:
                edits[change.row].append({"edit": change.variant.name, "prompt": change.prompt, "image": pictures[i]})
        chosen = sorted(edits, key=lambda row: (-len(edits[row]), row))[: self.task.shown.get(unit.unit, 0)]
        if not chosen:
            return []
        rows = latents.table.take(chosen).to_pylist()
        pair = latents.pair[chosen]
        clean, _ = self.model.move(pair, [row["caption"] for row in rows], pair.schedule.depth)
        images = self.model.decode(clean.to_float()[0])
        return [
            {
                "key": row["key"],
                "caption": row["caption"],
                "exact": digest == row["digest"],
                "source": self._source(row),
                "reconstruction": encode(image, "png"),
                "edits": edits[i],
            }
            for i, row, digest, image in zip(chosen, rows, clean.digests(), images, strict=True)
        ]

    def _source(self, row: dict[str, Any]) -> bytes | None:
        """The picture a row was inverted from, read again; None where its shard is gone or was changed since."""
        try:
            shard = self._shards[row["shard"]]
            entry = read_entries(self.latents, replace(shard, first=row["index"], count=1))
            sample = next(read_samples(shard.source, size=shard.size, etag=shard.version, entries=entry))
            if not isinstance(sample, Sample) or sha256(sample.image).hexdigest() != row["image_sha256"]:
                return None
            return encode(prepare(sample.image, self.model.size, self.task.crop).image, "png")
        except (JobError, ImageError):
            return None

    @cached_property
    def _shards(self) -> dict[str, Unit]:
        """A unit of each input shard of the latent store: it says which version of the shard was inverted."""
        return {unit.source: unit for unit in read_units(self.latents)}
