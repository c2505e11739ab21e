"""The task of an edit: a spec with its edits and its latent store resolved. The module imports no model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from edict.samplers import SAMPLERS
from edict.schedule import Schedule
from pipeline.errors import JobError
from pipeline.messages import Machine
from pipeline.plan.invert_task import InvertTask, has_negative_prompt, planned_schedule, stored_inversion
from pipeline.plan.job import new_record
from pipeline.plan.machine import machine_like, note_float16
from pipeline.plan.selection import Selection
from pipeline.store.job_record import JobKey
from pipeline.store.latents import stored_schedule
from pipeline.store.parts import from_stored
from pipeline.store.store import Store
from schemas.fingerprint import EditFingerprint
from schemas.job import JobRecord, digest_of
from schemas.sampling import Sampling, count_executed_steps
from schemas.specs import ControlSpec, EditSpec


class Variant(Protocol):
    """One way to edit: its name and its parameters. None means the value of the latent store."""

    @property
    def name(self) -> str: ...
    @property
    def guidance_scale(self) -> float | None: ...
    @property
    def strength(self) -> float | None: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def negative_prompt(self) -> str | None: ...
    @property
    def instruction(self) -> str | None: ...
    @property
    def control(self) -> ControlSpec | None: ...


Prompts = Callable[[str, Mapping[str, str]], Sequence[tuple[Variant, str]]]
"""Return the variants that change a caption, each with its prompt.

The arguments are the caption, and the row's prompts from tables by variant.
"""


@dataclass(frozen=True)
class Edits:
    """The edits of a job.

    Workers get `prompts`. The plan gets what tables have for a key, by variant: the prompts (`listed`) and the `masks`;
    None if no table has any. `fingerprint` has everything on which the edits depend. `per_caption` is the number of
    variants that are made from captions, without a table.
    """

    variants: Sequence[Variant]
    prompts: Prompts
    listed: Callable[[str], Mapping[str, str]] | None
    masks: Callable[[str], Mapping[str, Sequence[int]]] | None
    fingerprint: list[dict[str, Any]]
    per_caption: int

    @property
    def mask_files(self) -> Callable[[str, Mapping[str, str]], Mapping[str, str]] | None:
        """The function that returns the templates of a row's mask files (pipeline.plan.edit_plan.MaskFiles)."""
        if not any(variant.control and variant.control.mask_file for variant in self.variants):
            return None
        return lambda caption, listed: {
            variant.name: template
            for variant, _ in self.prompts(caption, listed)
            if variant.control and (template := variant.control.mask_file)
        }


class EditError(JobError):
    """An edit that the latent store does not support. The message names the edit and what the store supports."""


@dataclass(frozen=True)
class EditTask:
    """A resolved edit: everything that a worker needs to edit units of a latent store.

    `inversion` is the task that made the latent store, with the machine that edits. `schedule` is that of its rows.
    `record` and `key` are as in InvertTask. `shown` is the number of rows of each unit on the contact sheet.
    """

    spec: EditSpec
    inversion: InvertTask
    schedule: Schedule
    prompts: Prompts
    record: JobRecord
    shown: Mapping[str, int] = field(default_factory=dict)
    key: JobKey = field(default_factory=JobKey)

    @property
    def machine(self) -> Machine:
        """The machine that each worker runs on."""
        return self.inversion.machine

    def steps_of(self, variant: Variant) -> int:
        """Return the number of steps under a variant's prompt. Raises EditError."""
        return edit_steps(variant, self.inversion.fingerprint.sampling, self.schedule)


def edit_task(spec: EditSpec, latents: Store, edits: Edits, selection: Selection) -> EditTask:
    """Return the task of an edit, with a new record.

    Raises:
        EditError: The latent store does not support a variant.
        StoreError: See `stored_inversion`.
        ModelError: See `stored_inversion`.
    """
    inversion = stored_inversion(latents)
    inversion = replace(inversion, machine=machine_like(inversion.machine, spec.workers.gpus, "edited"))
    note_float16(inversion.weights.dtype, inversion.machine.gpus)
    schedule = schedule_of(latents, inversion)
    _check_variants(latents, inversion, schedule, edits.variants)
    batch_size = spec.workers.batch_size or inversion.fingerprint.batch_size
    same_as_earlier_versions = True
    if controlled := [variant for variant in edits.variants if variant.control]:
        from pipeline.plan.control import check_controls

        same_as_earlier_versions = check_controls(inversion, schedule, controlled, batch_size)
    fingerprint = EditFingerprint(
        latents=inversion.record.fingerprint,
        **selection.fingerprint(),
        edits=edits.fingerprint,
        format=spec.images.format,
        batch_size=batch_size,
        quality=spec.images.quality,
        # Without this field, a job that an earlier version began would mix two kinds of edits.
        control=None if same_as_earlier_versions else "prompt-to-prompt",
    ).model_dump(mode="json")
    record = new_record(
        spec.kind,
        spec.model_dump(mode="json"),
        fingerprint,
        inversion.machine,
        variants_per_row=len(edits.variants),
        rows=digest_of(fingerprint) if spec.planned_rows else None,
    )
    return EditTask(spec, inversion, schedule, edits.prompts, record)


def schedule_of(latents: Store, inversion: InvertTask) -> Schedule:
    """Return the schedule of a latent store's rows."""
    if (earlier := inversion.fingerprint.schedule) is not None:
        return from_stored(earlier)
    if (found := stored_schedule(latents)) is not None:
        return found
    return planned_schedule(inversion.model(), inversion.fingerprint.sampling)


def edit_steps(variant: Variant, sampling: Sampling, schedule: Schedule) -> int:
    """Return the number of steps under a variant's prompt; `schedule` has the last of the store's `sampling.steps`.

    Raises:
        EditError: The store has fewer steps, or its sampler makes no network call in them.
    """
    steps, most = variant.steps, schedule.num_steps
    if steps is None:
        steps = most if variant.strength is None else count_executed_steps(sampling.steps, variant.strength)
    if not 1 <= steps <= most:
        raise EditError(
            f"edit {variant.name!r} has {steps} steps under its prompt, but the latent store has {most} of "
            f"{sampling.steps}. Set a strength up to {most / sampling.steps:g}, or up to {most} steps, or invert at "
            "a higher strength"
        )
    if steps < (least := most - schedule.num_evaluated_steps + SAMPLERS[sampling.name].y_lead + 1):
        raise EditError(
            f"edit {variant.name!r} has {steps} of the last steps under its prompt, where {sampling.name} makes no "
            f"network call, so the edit would change nothing. Set {least} steps or more"
        )
    return steps


def _check_variants(latents: Store, inversion: InvertTask, schedule: Schedule, variants: Sequence[Variant]) -> None:
    """Raise EditError for an edit with too many steps, or with a negative prompt that has no effect."""
    sampling = inversion.fingerprint.sampling
    for variant in variants:
        edit_steps(variant, sampling, schedule)
        if variant.negative_prompt and variant.guidance_scale is None and sampling.guidance_scale == 1:
            raise EditError(
                f"edit {variant.name!r} has a negative_prompt, which has no effect at guidance scale 1, and "
                f"{latents.location} was inverted at that scale. Give the edit a guidance_scale"
            )
        if variant.negative_prompt and not has_negative_prompt(inversion):
            raise EditError(
                f"edit {variant.name!r} has a negative_prompt, which the model of {latents.location} does not take. "
                "Leave it out"
            )
