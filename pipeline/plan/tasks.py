"""The tasks of workers. This module imports no model, so that planning starts fast."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edict.samplers import SAMPLERS
from edict.schedule import Schedule
from pipeline.errors import JobError
from pipeline.messages import Machine
from pipeline.plan.job import Job
from pipeline.store.job_record import JobKey
from schemas.job import JobRecord
from schemas.sampling import Sampling, count_executed_steps
from schemas.specs import ControlSpec, EditSpec


class Variant(Protocol):
    """One way to edit: its name, and its parameters, where None is the store's own."""

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
"""The variants that change a caption, each with its prompt, given the row's prompts from tables, by variant."""


@dataclass(frozen=True)
class Edits:
    """The edits of a job. Workers get `prompts`; the plan gets the entries of tables for a key.

    These entries are the prompts `listed` and the `masks`, by variant; None if no table has any. `fingerprint` has
    everything on which they depend. `per_caption` is the number of variants that are made from captions, without a
    table.
    """

    variants: Sequence[Variant]
    prompts: Prompts
    listed: Callable[[str], Mapping[str, str]] | None
    masks: Callable[[str], Mapping[str, Sequence[int]]] | None
    fingerprint: list[dict[str, Any]]
    per_caption: int

    @property
    def mask_files(self) -> Callable[[str, Mapping[str, str]], Mapping[str, str]] | None:
        """The templates of the mask files of a row's edits (pipeline.plan.selection.MaskFiles)."""
        if not any(variant.control and variant.control.mask_file for variant in self.variants):
            return None
        return lambda caption, listed: {
            variant.name: template
            for variant, _ in self.prompts(caption, listed)
            if variant.control and (template := variant.control.mask_file)
        }


class EditError(JobError):
    """Edits that a latent store cannot serve; the message names the edit and what the store can serve."""


@dataclass(frozen=True)
class EditTask:
    """A resolved edit: everything that a worker needs to edit units of a latent store.

    `inversion` is the job that made the latent store, with the machine that edits. `schedule` is that of its rows.
    `record` is job.json, as in pipeline.plan.job.Job. `shown` is the number of rows of each unit on the contact sheet.
    """

    spec: EditSpec
    inversion: Job
    schedule: Schedule
    prompts: Prompts
    record: JobRecord
    shown: Mapping[str, int] = field(default_factory=dict)
    key: JobKey = field(default_factory=JobKey)

    @property
    def machine(self) -> Machine:
        """The machine that each worker runs on."""
        return self.inversion.machine

    def executed_steps(self, variant: Variant) -> int:
        """Return the number of steps under a variant's prompt. Raises EditError."""
        return executed_steps(variant, self.inversion.fingerprint.sampling, self.schedule)


def executed_steps(variant: Variant, sampling: Sampling, schedule: Schedule) -> int:
    """Return the number of steps under a variant's prompt; `schedule` has the last of the store's `sampling.steps`.

    Raises EditError if the store has fewer steps, or if its sampler makes no network call in them.
    """
    steps, depth = variant.steps, schedule.num_steps
    if steps is None:
        steps = depth if variant.strength is None else count_executed_steps(sampling.steps, variant.strength)
    if not 1 <= steps <= depth:
        raise EditError(
            f"edit {variant.name!r} has {steps} steps under its prompt, but the latent store has {depth} of "
            f"{sampling.steps}. Set a strength up to {depth / sampling.steps:g}, or up to {depth} steps, or invert at "
            "a higher strength"
        )
    if steps < (least := depth - schedule.num_evaluated_steps + SAMPLERS[sampling.name].y_lead + 1):
        raise EditError(
            f"edit {variant.name!r} has {steps} of the last steps under its prompt, where {sampling.name} makes no "
            f"network call, so the edit would change nothing. Set {least} steps or more"
        )
    return steps
