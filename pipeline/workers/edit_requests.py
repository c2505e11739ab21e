"""Edit requests: the images that an edit makes of the rows of a unit, with their prompts, steps and masks."""

from collections import Counter
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from edict import EDICT
from pipeline.io.masks import (
    MaskError,
    mask_location,
    mask_of_file,
    mask_of_latents,
    mask_of_runs,
    read_mask,
    read_planned_mask,
)
from pipeline.messages import Fault, to_fault
from pipeline.plan.edit_task import EditTask
from pipeline.store.files import READ_THREADS
from pipeline.store.latents import Latents, read_edit_rows
from pipeline.store.plan import Unit
from pipeline.store.store import Store
from pipeline.workers.heartbeat import STORAGE, beat
from schemas.specs import ControlSpec


@dataclass(frozen=True)
class EditRequest:
    """One image to make: row `row` of the unit, with its last `steps` steps under `prompt`.

    `name` is None for a reconstruction, which runs under the row's own caption. If masks are given for the control,
    `mask` is the row's mask, bool [H, W] at the latents' size, or the fault of an unusable one. `slot` is the position
    in a batch without control.
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
        """The steps, the guidance scale and the control. Requests of one group share batches."""
        return self.steps, self.guidance_scale, self.control.model_dump_json() if self.control else ""

    def reject_key(self, latents: Latents) -> tuple[int, str]:
        """Return the index and the key by which a reject names the request."""
        return latents.column("index")[self.row], f"{self.name}/{latents.column('key')[self.row]}"


@dataclass(frozen=True)
class UnitRequests:
    """The latent rows of a unit, and the edits to make of them."""

    latents: Latents
    edits: list[EditRequest]

    def reconstructions(self, count: int) -> list[EditRequest]:
        """Return the reconstructions of the `count` rows with the most edits, for the contact sheet.

        They have as many steps as the edit with the fewest. They run under the rows' own captions, in the slots where
        the rows were inverted.
        """
        latents, counts = self.latents, Counter(edit.row for edit in self.edits)
        rows = sorted(counts, key=lambda row: (-counts[row], row))[:count]
        steps = min((edit.steps for edit in self.edits), default=0)
        captions, slots = latents.column("caption"), latents.slots
        return [
            EditRequest(row, None, captions[row], latents.pair.guidance_scale, steps, slot=slots[row]) for row in rows
        ]


@dataclass(frozen=True)
class RequestLoader:
    """Reads units of the edit in `store`: their rows in `latents`, and the edits of these rows."""

    task: EditTask
    model: EDICT
    store: Store
    latents: Store

    def load(self, unit: Unit) -> UnitRequests:
        """Return the rows of a unit, and their edits with masks.

        Raises:
            StoreError: A part of the latent store is absent or damaged.
            MaskChanged: A mask file is not the planned one.
            StorageError: A mask file cannot be read.
        """
        beat(STORAGE)
        latents = read_edit_rows(self.store, self.task.record.rows, self.latents, unit)
        if self.model.backend.supports_batches:
            latents = replace(latents, pair=replace(latents.pair, batch_size=self.task.record.edit.batch_size))
        edits = self._edits(latents, unit)
        with ThreadPoolExecutor(READ_THREADS) as pool:
            masks = pool.map(lambda edit: self._mask(latents, edit, unit.masks), edits)
            return UnitRequests(latents, [replace(edit, mask=mask) for edit, mask in zip(edits, masks, strict=True)])

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
                    self.task.steps_of(variant),
                    variant.negative_prompt,
                    variant.control,
                    instruction=variant.instruction,
                )
                # Edits are counted before any is left out, so that a retry runs each in the slot of the first attempt.
                edits.append(replace(edit, slot=counts[edit.group] % pair.batch_size))
                counts[edit.group] += 1
        return [edit for edit in edits if not unit.retry or edit.reject_key(latents) in unit.only]

    def _mask(
        self, latents: Latents, edit: EditRequest, retried: Container[tuple[int, str]]
    ) -> torch.Tensor | Fault | None:
        """Return the mask that is given for an edit, or the fault that makes it unusable; None for an edit without one.

        An edit in `retried` was rejected for its mask, and uses the present mask file.
        """
        spec = edit.control.mask if edit.control else None
        if spec is None or spec.words is not None:
            return None
        size = self.model.size
        if spec.file is None:
            mask = mask_of_runs(latents.masks[edit.row][edit.name or ""], size)
        else:
            key, width, height = (latents.column(name)[edit.row] for name in ("key", "width", "height"))
            try:
                if latents.mask_files is None or edit.reject_key(latents) in retried:
                    data = read_mask(spec.file, key)
                else:
                    data = read_planned_mask(spec.file, key, latents.mask_files[edit.row][edit.name or ""])
                crop = self.task.inversion.fingerprint.crop
                mask = mask_of_file(mask_location(spec.file, key), data, (width, height), size, crop)
            except MaskError as error:
                return to_fault(error)
        return mask_of_latents(mask, *latents.pair.x.shape[-2:])
