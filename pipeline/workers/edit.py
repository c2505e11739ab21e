"""Editing: rows of a latent store regenerated under other prompts; a tar of pictures, an index and a commit out."""

import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pyarrow as pa
import torch

from edict import Blend, Control
from edict.control import WordNotFound, check_words, ineffective_reason, matches_earlier_versions
from edict.integration import Faults
from edict.lattice import NonFinite
from edict.models import DirectModel
from edict.pair import Pair
from edict.schedule import Schedule
from pipeline.errors import JobError
from pipeline.instructions import instruction_of
from pipeline.io.images import EXTENSIONS, ImageError, encode, prepare
from pipeline.io.masks import (
    MaskError,
    mask_location,
    mask_of_file,
    mask_of_latents,
    mask_of_runs,
    read_mask,
    read_planned_mask,
)
from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_writer import BadMemberName, check_member, json_member, write_shard
from pipeline.messages import ExcludedSamples, Fault, UnitResult
from pipeline.plan.tasks import EditError, EditTask, Variant, executed_steps
from pipeline.store.files import READ_THREADS
from pipeline.store.latents import Latents, read_edit_rows
from pipeline.store.parts import to_parquet
from pipeline.store.plan import Unit, find_entries, read_units
from pipeline.store.store import Store
from pipeline.workers.base import Attempt, Prefetcher, check_model, fitting, load_model
from pipeline.workers.heartbeat import STORAGE, beat
from schemas.contact_sheet import CONTACT_SHEET, edits_shown
from schemas.edits import EDITS
from schemas.fingerprint import crop_and_resize
from schemas.rejects import Reject
from schemas.sampling import Sampling
from schemas.specs import ControlSpec


@dataclass(frozen=True)
class EditRequest:
    """One picture to make: row `row` of the unit under `prompt`, its last `steps` steps run under it.

    `name` is the edit's; a reconstruction, under the row's own caption, has none. If control has a given mask, `mask`
    is that mask, bool [H, W] at the latents' size, or the fault that makes it unusable. `slot` is the position in a
    batch without control.
    """

    row: int
    name: str | None
    prompt: str
    guidance_scale: float
    steps: int
    negative_prompt: str | None = None
    control: ControlSpec | None = None
    mask: torch.Tensor | Fault | None = None
    slot: int = 0
    instruction: str | None = None

    @property
    def group(self) -> tuple[int, float, str]:
        """The steps, the guidance scale and the control. Changes with the same group share batches."""
        return self.steps, self.guidance_scale, self.control.model_dump_json() if self.control else ""


@dataclass(frozen=True)
class UnitRows:
    """A unit's rows, and the edits to make of them."""

    latents: Latents
    edits: list[EditRequest]


@dataclass(frozen=True)
class EditedImage:
    """An edited image: its file, the drift of its pair, and the digest of the pair.

    `reconstruction_exact`: whether its row regenerated exactly in its batch; None without attention control.
    """

    encoding: Future[bytes]
    drift: float
    digest: str
    reconstruction_exact: bool | None

    @property
    def file(self) -> bytes:
        """Waits for it where need be."""
        return self.encoding.result()


def check_control(variant: Variant, model: DirectModel, sampling: Sampling, schedule: Schedule) -> bool:
    """Check that attention control can have an effect. Return whether earlier versions make the same edits.

    Raises:
        EditError: a part of the control has no effect.
    """
    if variant.control is None:
        return True
    steps = executed_steps(variant, sampling, schedule)
    has_given_mask = variant.control.mask is not None and variant.control.mask.words is None
    control = _control(variant.control, torch.ones(1, 1, 1, dtype=torch.bool) if has_given_mask else None)
    if (reason := ineffective_reason(control, steps, model.latent_side, model.attention_sides)) is not None:
        raise EditError(f"edit {variant.name!r}, control: {reason}")
    return matches_earlier_versions(control, steps, model.latent_side, model.attention_sides)


class EditWorker:
    """A worker of the pool: holds the model, edits the rows of one unit after the other."""

    def __init__(self, task: EditTask) -> None:
        self.task = task
        self.store, self.latents = Store(task.spec.output), Store(task.spec.latents)
        self.model = load_model(task.inversion.weights, task.machine)
        check_model(self.model, task.inversion.fingerprint.sampling, task.record.edit.batch_size)
        self.ahead = Prefetcher(self._load)
        # A CPU worker has one core, which the network needs. A thread of a GPU worker encodes 3 to 13 PNGs per second.
        self.encoder = ThreadPoolExecutor(4 if task.machine.device == "cuda" else 1)

    def process(self, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples) -> UnitResult:
        """Edit a unit and commit it; filtered are the edits that would change no caption."""
        attempt = Attempt(self.store, unit, number, self.task.key)
        loaded = self.ahead.take(unit, ahead)
        latents, edits = loaded.latents, loaded.edits
        attempt.spent("read")
        shown = self._shown(latents, edits, self.task.shown.get(unit.unit, 0))
        with fitting(latents.pair.batch_size, self.model.device):
            drawn = self._draw(latents, edits + shown, excluded)
        attempt.spent("compute")
        beat(STORAGE)
        results = list(zip(edits, drawn, strict=False))
        made = [(edit, result) for edit, result in results if isinstance(result, EditedImage)]
        rejects = [self._reject(latents, edit, result) for edit, result in results if isinstance(result, Fault)]
        for path, data, rows in self._files(attempt.name, latents, made, zip(shown, drawn[len(edits) :], strict=True)):
            attempt.write(path, data, rows)
        count = len(edits) if unit.retry else unit.count * self.task.record.variants_per_row
        filtered = count - len(edits)
        device = self.task.machine.device
        return attempt.commit(count=count, ok=len(made), filtered=filtered, rejects=rejects, device=device)

    def probe(self, unit: Unit, number: int) -> None:
        """Edit the rows of a unit and make their files, without writing them, to test whether this worker survives."""
        loaded = self._load(unit)
        with fitting(loaded.latents.pair.batch_size, self.model.device):
            drawn = self._draw(loaded.latents, loaded.edits, {})
        made = [
            (edit, result) for edit, result in zip(loaded.edits, drawn, strict=True) if isinstance(result, EditedImage)
        ]
        for _ in self._files(unit.unit, loaded.latents, made, ()):
            pass

    def _files(
        self,
        name: str,
        latents: Latents,
        made: Sequence[tuple[EditRequest, EditedImage]],
        reconstructions: Iterable[tuple[EditRequest, EditedImage | Fault]],
    ) -> Iterator[tuple[str, bytes, int]]:
        """Yield the files of the attempt `name` one by one: path, bytes and number of rows."""
        if made:
            tar = f"{name}.tar"
            rows = [self._row(latents, edit, tar, result) for edit, result in made]
            samples = (
                (row["key"], self._members(row, result.file)) for row, (_, result) in zip(rows, made, strict=True)
            )
            yield f"shards/{tar}", write_shard(samples), 0
            yield f"parts/{name}.parquet", to_parquet(pa.Table.from_pylist(rows, schema=EDITS)), len(rows)
        if pictures := self._pictures(latents, made, reconstructions):
            table = pa.Table.from_pylist(pictures, schema=CONTACT_SHEET)
            yield f"pictures/{name}.parquet", to_parquet(table, row_group_size=1), 0  # so that readers can load one row

    def _load(self, unit: Unit) -> UnitRows:
        beat(STORAGE)
        latents = read_edit_rows(self.store, self.task.record.rows, self.latents, unit)
        if self.model.backend.supports_batches:
            latents = replace(latents, pair=replace(latents.pair, batch_size=self.task.record.edit.batch_size))
        edits = self._edits(latents, unit)
        with ThreadPoolExecutor(READ_THREADS) as pool:
            masks = pool.map(lambda edit: self._mask(latents, edit, unit.masks), edits)
            return UnitRows(latents, [replace(edit, mask=mask) for edit, mask in zip(edits, masks, strict=True)])

    def _mask(
        self, latents: Latents, edit: EditRequest, again: Container[tuple[int, str]]
    ) -> torch.Tensor | Fault | None:
        """Return the mask that is given for an edit, or the fault that makes it unusable; None for an edit without one.

        An edit in `again` was rejected for its mask, and uses the present mask file. Raises MaskChanged, StorageError.
        """
        wanted = edit.control.mask if edit.control else None
        if wanted is None or wanted.words is not None:
            return None
        size = self.model.size
        if wanted.file is None:
            mask = mask_of_runs(latents.masks[edit.row][edit.name or ""], size)
        else:
            key, *source = (latents.column(name)[edit.row] for name in ("key", "width", "height"))
            try:
                if latents.mask_files is None or _sample(latents, edit) in again:
                    data = read_mask(wanted.file, key)
                else:
                    data = read_planned_mask(wanted.file, key, latents.mask_files[edit.row][edit.name or ""])
                location = mask_location(wanted.file, key)
                mask = mask_of_file(location, data, (source[0], source[1]), size, self.task.inversion.fingerprint.crop)
            except MaskError as error:
                return _fault(error)
        return mask_of_latents(mask, *latents.pair.x.shape[-2:])

    def _edits(self, latents: Latents, unit: Unit) -> list[EditRequest]:
        pair = latents.pair
        edits, counts = list[EditRequest](), Counter[tuple[int, float, str]]()
        for row, (caption, listed) in enumerate(zip(latents.column("caption"), latents.prompts, strict=True)):
            for variant, prompt in self.task.prompts(caption, listed):
                edit = EditRequest(
                    row,
                    variant.name,
                    prompt,
                    pair.guidance_scale if variant.guidance_scale is None else variant.guidance_scale,
                    self.task.executed_steps(variant),
                    variant.negative_prompt,
                    variant.control,
                    instruction=variant.instruction,
                )
                # edits are counted before any is left out, so that a retry runs each in the slot of the first attempt
                edits.append(replace(edit, slot=counts[edit.group] % pair.batch_size))
                counts[edit.group] += 1
        return [edit for edit in edits if not unit.retry or _sample(latents, edit) in unit.only]

    def _shown(self, latents: Latents, edits: Sequence[EditRequest], count: int) -> list[EditRequest]:
        """Return the reconstructions of the `count` rows with the most edits, for the contact sheet.

        They have as many steps as the edit with the fewest. They run under the rows' own captions, in the slots where
        the rows were inverted.
        """
        edits_of = Counter(edit.row for edit in edits)
        rows = sorted(edits_of, key=lambda row: (-edits_of[row], row))[:count]
        steps = min((edit.steps for edit in edits), default=0)
        captions, slots = latents.column("caption"), latents.slots
        return [
            EditRequest(row, None, captions[row], latents.pair.guidance_scale, steps, slot=slots[row]) for row in rows
        ]

    def _draw(
        self, latents: Latents, requests: Sequence[EditRequest], excluded: ExcludedSamples
    ) -> list[EditedImage | Fault]:
        """What came of each change: the picture, or what went wrong.

        All requests that leave the base prompt at one step share the exact regeneration down to it, and those with one
        guidance scale and one control on top share their batches.
        """
        results: dict[int, EditedImage | Fault] = self._refused(latents, requests)
        together = defaultdict[tuple[int, float, str], list[int]](list)
        for i, change in enumerate(requests):
            if i not in results:
                together[change.group].append(i)
        rows = [row for row in range(len(latents.pair)) if row not in excluded]
        place = {row: i for i, row in enumerate(rows)}
        captions, slots = latents.column("caption"), latents.slots
        base, lost = latents.pair[rows], dict(excluded)
        # the deepest first, so that each branch point is reached from the one before
        for (steps, guidance_scale, _), members in sorted(together.items(), reverse=True):
            if all(requests[i].row in lost for i in members):
                continue
            depth = base.schedule.num_steps
            base, met = self.model.integrate(
                base, [captions[row] for row in rows], depth - steps, slots=[slots[row] for row in rows]
            )
            lost |= {rows[i]: _fault(error) for i, error in met.items()}
            members = [i for i in members if requests[i].row not in lost]
            if not members:
                continue
            started = base[[place[requests[i].row] for i in members]]
            exact: Sequence[bool | None] = [None] * len(members)
            if requests[members[0]].control is None:
                clean, met = self.model.integrate(
                    started,
                    [requests[i].prompt for i in members],
                    depth,
                    guidance_scale=guidance_scale,
                    negative_captions=[requests[i].negative_prompt for i in members],
                    slots=[requests[i].slot for i in members],
                )
            else:
                clean, met, exact = self._edit_with_control(started, latents, [requests[i] for i in members])
            results |= {members[j]: _fault(error) for j, error in met.items()}
            ends = zip(clean.to_float()[0], clean.drift().tolist(), clean.digests(), strict=True)
            for j, (latents_of, drift, digest) in enumerate(ends):
                if j not in met:
                    try:
                        results[members[j]] = EditedImage(self._encode(latents_of), drift, digest, exact[j])
                    except NonFinite as error:
                        results[members[j]] = _fault(error)
        return [results.get(i) or lost[change.row] for i, change in enumerate(requests)]

    def _encode(self, latents: torch.Tensor) -> Future[bytes]:
        """The picture's file, in the making beside the network."""
        [image] = self.model.decode(latents[None])
        return self.encoder.submit(encode, image, self.task.spec.images.format, self.task.spec.images.quality)

    def _refused(self, latents: Latents, requests: Sequence[EditRequest]) -> dict[int, EditedImage | Fault]:
        """Return the faults of impossible requests: control lacks a word or a mask, or a name is impossible."""
        captions, keys, faults = latents.column("caption"), latents.column("key"), dict[int, EditedImage | Fault]()
        for i, change in enumerate(requests):
            if isinstance(change.mask, Fault):
                faults[i] = change.mask
                continue
            try:
                if change.name is not None:  # a reconstruction is not a member of a shard
                    check_member(f"{change.name}/{keys[change.row]}", self._extension)
                if change.control is not None:
                    check_words(
                        captions[change.row], change.prompt, _control(change.control), self.model.direct.tokenizer
                    )
            except (BadMemberName, WordNotFound) as error:
                faults[i] = _fault(error)
        return faults

    def _edit_with_control(
        self, started: Pair, latents: Latents, requests: Sequence[EditRequest]
    ) -> tuple[Pair, Faults, Sequence[bool | None]]:
        """Edit with attention control: requests in the order of their rows, each from its place in `started`.

        Return the clean ends, the faults, and whether the row of each change regenerated exactly in the same batch.
        """
        captions, digests = latents.column("caption"), latents.column("digest")
        first = [i for i, change in enumerate(requests) if i == 0 or requests[i - 1].row != change.row]
        of_row = [requests[a:b] for a, b in pairwise([*first, len(requests)])]
        masks = [change.mask for change in requests if isinstance(change.mask, torch.Tensor)]
        control = requests[0].control
        assert control is not None
        made, met = self.model.edit(
            started[first],
            [captions[ours[0].row] for ours in of_row],
            [[change.prompt for change in ours] for ours in of_row],
            control=_control(control, torch.stack(masks) if masks else None),
            guidance_scale=requests[0].guidance_scale,
            negative_prompts=[[change.negative_prompt for change in ours] for ours in of_row],
        )
        # of every row its own clean end comes first
        places = [
            at + 1 + number
            for number, ours in enumerate(of_row)
            for at in range(first[number], first[number] + len(ours))
        ]
        bases = made[[at + number for number, at in enumerate(first)]].digests()
        exact = [base == digests[change.row] for base, ours in zip(bases, of_row, strict=True) for change in ours]
        return made[places], {i: met[at] for i, at in enumerate(places) if at in met}, exact

    def _reject(self, latents: Latents, edit: EditRequest, fault: Fault) -> Reject:
        key, shard, index = (latents.column(name)[edit.row] for name in ("key", "shard", "index"))
        return Reject(shard, index, f"{edit.name}/{key}", "edit", fault.error, fault.message)

    def _row(self, latents: Latents, edit: EditRequest, tar: str, drawn: EditedImage) -> dict[str, Any]:
        columns = ["key", "shard", "index", "caption", "image_sha256", "json"]
        source = latents.table.slice(edit.row, 1).select(columns).to_pylist()[0]
        return {
            "key": f"{edit.name}/{source['key']}",
            "shard": tar,
            "edit": edit.name,
            "caption": source["caption"],
            "prompt": edit.prompt,
            "negative_prompt": edit.negative_prompt,
            "control": edit.control.model_dump_json() if edit.control else None,
            "reconstruction_exact": drawn.reconstruction_exact,
            "guidance_scale": edit.guidance_scale,
            "strength": edit.steps / self.task.inversion.fingerprint.sampling.steps,
            "steps": edit.steps,
            "drift": drawn.drift,
            "image_sha256": sha256(drawn.file).hexdigest(),
            "source_key": source["key"],
            "source_shard": source["shard"],
            "source_index": source["index"],
            "source_image_sha256": source["image_sha256"],
            "source_json": source["json"],
            "instruction": instruction_of(edit.instruction, source["caption"], edit.prompt, edit.negative_prompt),
        }

    def _members(self, row: dict[str, Any], picture: bytes) -> dict[str, bytes]:
        told = {name: value for name, value in row.items() if name != "shard"}
        if row["source_json"] is not None:
            told["source_json"] = json.loads(row["source_json"])
        return {
            self._extension: picture,
            "txt": row["prompt"].encode(),
            "json": json_member(told),
        }

    def _pictures(
        self,
        latents: Latents,
        made: Sequence[tuple[EditRequest, EditedImage]],
        reconstructions: Iterable[tuple[EditRequest, EditedImage | Fault]],
    ) -> list[dict[str, Any]]:
        """The unit's share of the contact sheet: rows of schemas.contact_sheet."""
        edits = defaultdict[int, list[dict[str, Any]]](list)
        made_of, most = Counter(edit.row for edit, _ in made), edits_shown(self.task.spec.contact_sheet)
        for edit, drawn in made:
            if len(edits[edit.row]) == most:
                continue
            edits[edit.row].append(
                {
                    "edit": edit.name,
                    "prompt": edit.prompt,
                    "image": drawn.file,
                    "guidance_scale": edit.guidance_scale,
                    "strength": edit.steps / self.task.inversion.fingerprint.sampling.steps,
                    "steps": edit.steps,
                    "drift": drawn.drift,
                }
            )
        pictures = []
        for change, result in reconstructions:
            if isinstance(result, EditedImage) and change.row in edits:
                row = latents.table.slice(change.row, 1).to_pylist()[0]
                pictures.append(
                    {
                        "key": row["key"],
                        "caption": row["caption"],
                        "exact": result.digest == row["digest"],
                        "source": self._source(row),
                        "reconstruction": result.file,
                        "edits": edits[change.row],
                        "edits_left_out": made_of[change.row] - len(edits[change.row]),
                    }
                )
        return pictures

    def _source(self, row: dict[str, Any]) -> bytes | None:
        """The picture a row was inverted from, read again; None where its shard is gone or was changed since."""
        try:
            shard = self._shards[row["shard"]]
            version, entries = find_entries(self.latents, replace(shard, first=row["index"], count=1))
            sample = next(read_samples(shard.source, size=version.size, etag=version.etag, entries=entries))
            if not isinstance(sample, Sample) or sha256(sample.image).hexdigest() != row["image_sha256"]:
                return None
            return encode(
                prepare(sample.image, self.model.size, *crop_and_resize(self.task.inversion.fingerprint)).image, "png"
            )
        except (JobError, ImageError):
            return None

    @property
    def _extension(self) -> str:
        return EXTENSIONS[self.task.spec.images.format]

    @cached_property
    def _shards(self) -> dict[str, Unit]:
        """A unit of each input shard of the latent store: it says which version of the shard was inverted."""
        return {unit.source: unit for unit in read_units(self.latents)}


def _sample(latents: Latents, edit: EditRequest) -> tuple[int, str]:
    """Return the index and the key by which a reject names an edit."""
    return latents.column("index")[edit.row], f"{edit.name}/{latents.column('key')[edit.row]}"


def _control(spec: ControlSpec, mask: torch.Tensor | None = None) -> Control:
    words = spec.mask.words if spec.mask else None
    blend: Blend | torch.Tensor | None = mask
    if spec.mask and words is not None:
        named = None if words == "changed" else tuple(words)
        blend = Blend(named, spec.mask.threshold, spec.mask.start)
    return Control(spec.cross_attention, spec.self_attention, spec.weights, blend)


def _fault(error: Exception) -> Fault:
    return Fault(type(error).__name__, str(error))
