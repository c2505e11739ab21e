"""The task of an inversion: a spec, or the job of a latent store, with its model and settings resolved.

Functions that need the model's libraries import them, because that takes seconds.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edict.checkpoint import DEFAULT, Checkpoint
from edict.model_files import read_index
from edict.samplers import with_defaults
from edict.schedule import Schedule
from pipeline.errors import JobError
from pipeline.messages import Machine, Weights, machine_for
from pipeline.plan.job import invalid_fingerprint, new_record, stored_machine, stored_spec
from pipeline.plan.job_changes import JobChanged, refuse_changes
from pipeline.store.errors import StoreError
from pipeline.store.job_record import JobKey
from pipeline.store.parts import to_stored
from pipeline.store.store import Store
from schemas.fingerprint import Fingerprint
from schemas.job import JobRecord
from schemas.sampling import Sampling
from schemas.specs import InvertSpec, ModelSpec

if TYPE_CHECKING:
    from edict.models import Model


class NoSchedule(JobError):
    """The model does not support the steps or the guidance interval of the spec."""


@dataclass(frozen=True)
class InvertTask:
    """A resolved inversion: of a spec (`invert_task`), or the one that made a latent store (`stored_inversion`).

    `checkpoint` has the model's files on this machine, and `weights` those that workers load. `record` is job.json, as
    the store has it or will have it. Only a run sets `key`, the key of its store, and `schedule`, the schedule of the
    rows that the store already has (None if it has none).
    """

    spec: InvertSpec
    checkpoint: Checkpoint
    weights: Weights
    machine: Machine
    record: JobRecord
    key: JobKey = field(default_factory=JobKey)
    schedule: Schedule | None = None

    @property
    def fingerprint(self) -> Fingerprint:
        """Every setting that determines the rows."""
        return self.record.inversion

    @property
    def is_shipped(self) -> bool:
        """Return whether the model is the shipped one, which needs no check. The imports of a check take seconds."""
        model = self.spec.model
        changes = model.lora, model.textual_inversion, model.quantization, model.call
        return self.checkpoint.folder == DEFAULT and not any(changes)

    def model(self) -> "Model":
        """Return the model, not loaded."""
        return describe_model(self.spec.model, self.checkpoint)


def invert_task(spec: InvertSpec, *, check: bool = True) -> InvertTask:
    """Return the task of a spec, with a new record.

    Without `check`, the model is not checked (`check_supported`). Then its libraries, whose import takes seconds, are
    not imported.

    Raises:
        ModelError: The model does not exist, or the check fails.
        NoSchedule: The check finds that the model does not support the spec's steps or guidance interval.
    """
    checkpoint = locate_checkpoint(spec.model)
    if check:
        _check_model(spec, checkpoint)
    fingerprint = Fingerprint(
        input=spec.input,
        pipeline=read_index(checkpoint.folder).get("_class_name"),
        weights=checkpoint.digest(),
        dtype=spec.dtype,
        vae_dtype=spec.model.vae_dtype,
        channels_last=spec.model.channels_last,
        compile=spec.model.compile,
        quantization=spec.model.quantization,
        call=spec.model.call,
        sampling=Sampling(**with_defaults(spec.sampler, spec.sampler.executed_steps).model_dump()),
        crop=spec.image.crop,
        resize=spec.image.resize,
        posterior_seed=spec.image.posterior_seed,
        batch_size=spec.workers.batch_size,
    )
    machine = machine_for(spec.workers.gpus)
    record = new_record(spec.kind, spec.model_dump(mode="json"), fingerprint.model_dump(mode="json"), machine)
    return InvertTask(spec, checkpoint, weights_of(spec.model, fingerprint), machine, record)


def stored_inversion(latents: Store) -> InvertTask:
    """Return the task that made a latent store, with the model that inverted its rows.

    Raises:
        StoreError: The store is not a latent store, or the model's files changed.
        ModelError: The model does not exist any more.
        JobChanged: An earlier version ignored a setting of the checkpoint.
    """
    record = latents.job()
    if record.kind != "invert":
        raise StoreError(f"{latents.location} is the store of an {record.kind} job; give one that `invert` wrote")
    try:
        fingerprint = record.inversion
    except ValueError as error:
        raise invalid_fingerprint(latents, error) from error
    spec = stored_spec(latents, InvertSpec, record.spec)
    checkpoint = locate_checkpoint(spec.model)
    if (digest := checkpoint.digest()) != fingerprint.weights:
        raise StoreError(
            f"the model {checkpoint.folder} is not the one {latents.location} was inverted with (its sha256 is "
            f"{digest[:12]}, the store's {fingerprint.weights[:12]}): a noise pair is only valid with its own weights. "
            "Restore the files of that model"
        )
    weights = weights_of(spec.model, fingerprint)
    task = InvertTask(spec, checkpoint, weights, stored_machine(latents, record), record)
    if not task.is_shipped:
        model = task.model()
        model.check(checkpoint)
        _check_interpretation(task, model, latents.location)
    return task


def has_negative_prompt(task: InvertTask) -> bool:
    """Return whether the model of a task supports negative prompts."""
    return task.is_shipped or task.model().has_negative


def describe_model(model: ModelSpec, checkpoint: Checkpoint) -> "Model":
    """Return the model of a spec, not loaded.

    Raises:
        ModelError: The checkpoint is not a supported model.
    """
    from edict.models import LoadOptions, describe

    return describe(checkpoint, LoadOptions(quantization=model.quantization, call=model.call))


def check_supported(task: InvertTask) -> None:
    """Check that the model supports a task, whose store may be of an earlier version.

    Raises:
        ModelError: The checkpoint is not a supported model.
        NoSchedule: The model does not support the spec's steps or guidance interval.
        JobChanged: The stored rows have another schedule, or another meaning.
    """
    check_earlier_format(task, _check_model(task.spec, task.checkpoint))


def check_earlier_format(task: InvertTask, model: "Model") -> None:
    """Compare the model with the fields that only fingerprints of earlier formats have.

    Raises:
        JobChanged: They differ.
    """
    if task.fingerprint.schedule is not None:
        present = to_stored(planned_schedule(model, task.spec.sampler))
        refuse_changes(task.spec.output, task.fingerprint.schedule.model_dump(), present.model_dump())
        _check_interpretation(task, model, task.spec.output)


def _check_model(spec: InvertSpec, checkpoint: Checkpoint) -> "Model":
    """Return the model, not loaded, after checking that it supports a spec. Raises ModelError, NoSchedule."""
    from edict.models.unsupported import no_guidance_interval

    model = describe_model(spec.model, checkpoint)
    model.check(checkpoint)
    try:
        planned_schedule(model, spec.sampler)
    except ValueError as error:
        raise NoSchedule(f"sampler: {error}") from error
    if spec.sampler.guidance_interval is not None and model.guidance != "cfg":
        raise NoSchedule(f"sampler: {no_guidance_interval(model)}")
    return model


def _check_interpretation(task: InvertTask, model: "Model", location: str) -> None:
    """Raise JobChanged if an earlier version ignored a setting of the checkpoint that changes the meaning of a pair."""
    if task.fingerprint.pipeline is not None:
        return
    for name, value in model.interpretation().items():
        if task.fingerprint.interpretation.get(name) != value:
            raise JobChanged(
                f"{location} was inverted by an earlier version, which ignored the {name} of {task.checkpoint.folder}: "
                "its pairs have another meaning now. Invert the images again"
            )


def planned_schedule(model: "Model", sampling: Sampling) -> Schedule:
    """Return the schedule of a model that is not loaded.

    If only the loaded model knows its schedule, return one with as many steps, each with a network call.
    """
    if (known := model.planned_schedule(sampling)) is not None:
        return known
    steps = sampling.executed_steps
    return Schedule(tuple(range(steps, 0, -1)), (1.0,) * (steps + 1), tuple(map(float, range(steps, -1, -1))))


def locate_checkpoint(model: ModelSpec) -> Checkpoint:
    """Return the files of a spec's model, after downloading them if they are on a hub.

    Raises:
        ModelError: The model does not exist.
    """
    return Checkpoint.locate(
        model.path,
        config=model.config,
        revision=model.revision,
        variant=model.variant,
        lora=None if model.lora is None else (model.lora.path, model.lora.scale),
        textual_inversion=model.textual_inversion or (),
    )


def weights_of(model: ModelSpec, fingerprint: Fingerprint) -> Weights:
    """Return the weights that workers load, with absolute local paths. Each node downloads a hub id itself."""
    fields = model.model_dump(exclude={"lora", "textual_inversion"})
    inversions = model.textual_inversion or []
    inversions = [inversions] if isinstance(inversions, str) else inversions
    absolute = {name: _absolute(path) for name in ("path", "config") if (path := fields[name]) is not None}
    return Weights(
        ModelSpec(
            **fields | absolute,
            lora=model.lora and model.lora.model_copy(update={"path": _absolute(model.lora.path)}),
            textual_inversion=[_absolute(path) for path in inversions] or model.textual_inversion,
        ),
        fingerprint.weights,
        fingerprint.dtype,
    )


def _absolute(path: str) -> str:
    local = Path(path).expanduser()
    return str(local.absolute()) if local.exists() and path != "default" else path
