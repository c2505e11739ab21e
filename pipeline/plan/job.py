"""Resolve a job: look up once everything that a spec or a store names. Read and write job.json, which records it."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from edict.checkpoint import DEFAULT, Checkpoint, locate, locate_adapter, locate_file, locate_lora
from edict.model_files import read_index
from edict.samplers import with_defaults
from edict.schedule import Schedule
from pipeline.errors import JobError
from pipeline.io.locations import local_path
from pipeline.messages import Machine, Weights, machine_for
from pipeline.store.errors import StoreError
from pipeline.store.job_record import JobKey
from pipeline.store.parts import to_stored
from pipeline.store.store import Store, check_outside_stores
from schemas.errors import fault
from schemas.fingerprint import Document, Fingerprint
from schemas.job import FORMAT, JobRecord
from schemas.sampling import Sampling
from schemas.specs import InvertSpec, ModelSpec

if TYPE_CHECKING:
    from edict.models import Model

NEWER = "it is damaged, or a newer version wrote it: use that version of edict-pipeline"

LINES = 20  # differences that an error shows
SHOWN = 200  # characters of a value that an error shows

SpecOf = TypeVar("SpecOf", bound=BaseModel)


class JobChanged(StoreError):
    """The store of another job than the one of this run."""


class OutputRefused(StoreError):
    """The output contains an input of the job, or files that are not the job's."""


class NoSchedule(JobError):
    """A model that cannot have the spec's steps, or its guidance interval."""


@dataclass(frozen=True)
class Job:
    """A resolved inversion: of a spec (`resolve`), or the one that made a latent store (`inverted_with`).

    `checkpoint` has the files of the model on this machine, and `weights` those that workers load. `record` is
    job.json, as the store has it or will have it (`open_job`). Only a job that runs has `key` and `schedule`: the key
    of the store, and the schedule of the rows that it already has, None if it has none.
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
        return described(self.spec.model, self.checkpoint)


def resolve(spec: InvertSpec, *, check: bool = True) -> Job:
    """Return the job of a spec, with a new record.

    Without `check`, the model is not checked (`check_model`), and its libraries, whose import takes seconds, are not
    needed.

    Raises:
        ModelError: the model does not exist, or the check finds a fault.
        NoSchedule: the check finds that the model cannot have the spec's steps or guidance interval.
    """
    checkpoint = checkpoint_of(spec.model)
    if check:
        _check(spec, checkpoint)
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
    return Job(spec, checkpoint, weights_of(spec.model, fingerprint), machine, record)


def inverted_with(latents: Store) -> Job:
    """Return the job that made a latent store, with the model that it was inverted with.

    Raises:
        StoreError: the store is not a latent store, or the model's files changed.
        ModelError: the model does not exist any more.
        JobChanged: an earlier version ignored a setting of the checkpoint.
    """
    record = latents.job()
    if record.kind != "invert":
        raise StoreError(f"{latents.location} is the store of an {record.kind} job; give one that `invert` wrote")
    try:
        made = record.inversion
    except ValueError as error:
        raise _invalid(latents, error) from error
    spec = stored_spec(latents, InvertSpec, record.spec)
    checkpoint = checkpoint_of(spec.model)
    if (found := checkpoint.digest()) != made.weights:
        raise StoreError(
            f"the model {checkpoint.folder} is not the one {latents.location} was inverted with (sha256 {found[:12]}, "
            f"the store's {made.weights[:12]}): a pair is only valid with its own weights. Put the files "
            "of that model back"
        )
    job = Job(spec, checkpoint, weights_of(spec.model, made), stored_machine(latents, record), record)
    if not job.is_shipped:
        model = job.model()
        model.check(checkpoint)
        _check_interpretation(job, model, latents.location)
    return job


def has_negative(job: Job) -> bool:
    """Return whether the guidance of a job's model can lead away from a negative caption."""
    return job.is_shipped or job.model().has_negative


def described(model: ModelSpec, checkpoint: Checkpoint) -> "Model":
    """Return the model of a spec, not loaded. Raises ModelError."""
    from edict.models import LoadOptions, describe

    return describe(checkpoint, LoadOptions(quantization=model.quantization, call=model.call))


def check_model(job: Job) -> None:
    """Check that the model can run a job whose store may be of an earlier version.

    Raises:
        ModelError, NoSchedule: the model cannot run the job.
        JobChanged: the stored rows have another schedule, or another meaning.
    """
    check_earlier(job, _check(job.spec, job.checkpoint))


def check_earlier(job: Job, model: "Model") -> None:
    """Compare the model with the fields that only fingerprints of earlier formats have. Raises JobChanged."""
    if job.fingerprint.schedule is not None:
        there = job.fingerprint.schedule.model_dump()
        _refuse(job.spec.output, _differences(there, to_stored(planned_schedule(model, job.spec.sampler)).model_dump()))
        _check_interpretation(job, model, job.spec.output)


def _check(spec: InvertSpec, checkpoint: Checkpoint) -> "Model":
    """Return the model, not loaded, after checking that it can run a spec. Raises ModelError, NoSchedule."""
    from edict.models.unsupported import no_guidance_interval

    model = described(spec.model, checkpoint)
    model.check(checkpoint)
    try:
        planned_schedule(model, spec.sampler)
    except ValueError as error:
        raise NoSchedule(f"sampler: {error}") from error
    if spec.sampler.guidance_interval is not None and model.guidance != "cfg":
        raise NoSchedule(f"sampler: {no_guidance_interval(model)}")
    return model


def _check_interpretation(job: Job, model: "Model", location: str) -> None:
    """Raise JobChanged if an earlier version ignored a setting of the checkpoint that changes the meaning of a pair."""
    if job.fingerprint.pipeline is not None:
        return
    for name, value in model.interpretation().items():
        if job.fingerprint.interpretation.get(name) != value:
            raise JobChanged(
                f"{location} was inverted by an earlier version, which ignored the {name} of {job.checkpoint.folder}: "
                "its pairs have another meaning now. Invert the images again"
            )


def planned_schedule(model: "Model", sampling: Sampling) -> Schedule:
    """Return the schedule of a model that is not loaded.

    If only the loaded model knows it, return one with as many steps, each of which calls the network.
    """
    if (known := model.planned_schedule(sampling)) is not None:
        return known
    steps = sampling.executed_steps
    return Schedule(tuple(range(steps, 0, -1)), (1.0,) * (steps + 1), tuple(map(float, range(steps, -1, -1))))


def checkpoint_of(model: ModelSpec) -> Checkpoint:
    """Return the files of a spec's model, downloaded first if they are on a hub. Raises ModelError."""
    given = model.textual_inversion
    several = [given] if isinstance(given, str) else given or []
    return Checkpoint(
        locate(model.path if model.config is None else model.config, model.revision, model.variant),
        model.variant,
        None if model.config is None else locate_file(model.path),
        None if model.lora is None else locate_lora(model.lora.path, model.lora.scale),
        tuple(locate_adapter("textual_inversion", one) for one in several),
    )


def weights_of(model: ModelSpec, made: Fingerprint) -> Weights:
    """Return the weights that workers load, with absolute local paths. Each node downloads a hub id itself."""
    fields = model.model_dump(exclude={"lora", "textual_inversion"})
    several = [model.textual_inversion] if isinstance(model.textual_inversion, str) else model.textual_inversion
    absolute = {name: _absolute(path) for name in ("path", "config") if (path := fields[name]) is not None}
    return Weights(
        ModelSpec(
            **fields | absolute,
            lora=model.lora and model.lora.model_copy(update={"path": _absolute(model.lora.path)}),
            textual_inversion=several and [_absolute(one) for one in several],
        ),
        made.weights,
        made.dtype,
    )


def _absolute(path: str) -> str:
    local = Path(path).expanduser()
    return str(local.absolute()) if local.exists() and path != "default" else path


def _invalid(store: Store, error: ValueError) -> StoreError:
    return StoreError(f"{store.location}: the fingerprint of job.json {fault(error)}; {NEWER}")


def stored_machine(store: Store, record: JobRecord) -> Machine:
    """Return the machine that made a store's rows. Raises StoreError if its job.json does not have it."""
    try:
        return Machine(**record.machine)
    except TypeError as error:
        raise StoreError(
            f"{store.location}: the `machine` of job.json has other fields than this version's; {NEWER}"
        ) from error


def stored_spec(store: Store, kind: type[SpecOf], spec: Any) -> SpecOf:
    """Return the spec of a store's job.json. Raises StoreError if it is not valid now."""
    try:
        return kind.model_validate(spec)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"{store.location}: the spec of job.json is not valid ({where}: {first['msg']}); {NEWER}"
        ) from error


PLANNED = re.compile(r"plan/(?:shards|parts|rows/[0-9a-f]{32})/[0-9a-f]{32}\.parquet")


def check_output(store: Store, inputs: Iterable[str]) -> None:
    """Raise OutputRefused if a job must not write to its output, because it contains an input or files of other owners.

    A store is allowed, and so are the files of a run that ended while it planned. Raises StoreError if the output is in
    a folder of another store.
    """
    check_outside_stores(store.location)
    path = local_path(store.location)
    output = store.location.rstrip("/") if path is None else str(path.resolve())
    for location in inputs:
        if (below := _comparable(location)) == output or below.startswith(output + "/"):
            raise OutputRefused(
                f"output {store.location}: the input {location} is inside it; give an output that contains no input"
            )
    if store.has("job.json"):
        return
    if (found := next((name for name in store.names("") if not PLANNED.fullmatch(name)), None)) is not None:
        raise OutputRefused(
            f"output {store.location}: is not empty (it has {found}) and is not a store; give a new or empty folder"
        )


def _comparable(location: str) -> str:
    """Return a location without symbolic links in its folder. The file itself may be one, as in the hub's cache."""
    path = local_path(location)
    return location.rstrip("/") if path is None else f"{_resolved(path.parent)}/{path.name}"


@cache
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def new_record(
    kind: Literal["invert", "edit"], spec: Document, fingerprint: Document, machine: Machine, **more: Any
) -> JobRecord:
    """Return the record of a new job. `more` are the fields of an edit."""
    return JobRecord(
        format=FORMAT,
        id=uuid4().hex,
        kind=kind,
        spec=spec,
        fingerprint=fingerprint,
        machine=asdict(machine),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    )


def open_job(store: Store, record: JobRecord, found: JobRecord | None = None) -> JobRecord:
    """Return the record of the store's job: the one in job.json, or this one, which is then written there.

    If an earlier run of the same job wrote job.json, only its machine is updated. `found` is the result of `check_job`
    if it was called before. Raises JobChanged.
    """
    found = found or check_job(store, record)
    if found is record:
        if store.put_new("job.json", record.model_dump_json(indent=2).encode()):
            return record
        found = check_job(store, record)  # another driver was first
    if found.machine != record.machine:
        store.put("job.json", json.dumps(store.get_json("job.json") | {"machine": record.machine}, indent=2).encode())
    return found.model_copy(update={"machine": record.machine})


def check_job(store: Store, record: JobRecord) -> JobRecord:
    """Return the record of the store's job, or this one if the store has none.

    Raises JobChanged if the store's job is another one, or has rows of another device.
    """
    if (found := store.find_job()) is None:
        return record
    if (found.kind, found.fingerprint) != (record.kind, record.fingerprint):
        try:
            there, here = found.settings(), record.settings()
        except ValueError as error:
            raise _invalid(store, error) from error
        for earlier, given in ((there, here), (there.get("latents", {}), here.get("latents", {}))):
            if earlier.get("pipeline") is None:  # earlier formats did not have it
                given.pop("pipeline", None)
        _refuse(store.location, _differences(there, here))
    machine = stored_machine(store, found)
    if machine.device != record.device and store.committed_units():
        raise JobChanged(
            f"{store.location} has rows made on {machine.device}, and {record.device} gives them other last bits: set "
            f"workers.gpus: {machine.gpus:g} again, or give another output"
        )
    return found


def _refuse(location: str, differences: Iterable[str]) -> None:
    """Raise JobChanged if there are differences."""
    found = list(differences)
    lines = "".join(f"\n  {line}" for line in found[:LINES])
    if len(found) > LINES:
        lines += f"\n  and {len(found) - LINES} more differences"
    if found:
        raise JobChanged(
            f"{location} holds another job, and rows of two jobs do not mix; "
            f"give another output, or the same parameters again:{lines}"
        )


def _differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each leaf in which two fingerprints differ. A list of numbers gives one line."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(name), here.get(name), f"{path}.{name}" if path else name)
    elif isinstance(there, list) and isinstance(here, list) and len(there) != len(here):
        yield f"{path}: {len(there)} entries in the store, {len(here)} in the spec"
    elif isinstance(there, list) and isinstance(here, list):
        found = [_differences(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(there, here, strict=True))]
        lines = list(itertools.chain.from_iterable(found))
        numbers = not any(isinstance(value, dict) for value in there)
        yield from [f"{lines[0]}; and {len(lines) - 1} more"] if numbers and len(lines) > 1 else lines
    elif there != here:
        stored, given = repr(there), repr(here)
        same = next((i for i, (a, b) in enumerate(zip(stored, given, strict=False)) if a != b), 0)
        yield f"{path}: {_excerpt(stored, same)} in the store, {_excerpt(given, same)} in the spec"


def _excerpt(text: str, at: int) -> str:
    """Return a text, or of a long one SHOWN characters around the character `at`."""
    if len(text) <= SHOWN:
        return text
    start = max(0, min(at - SHOWN // 4, len(text) - SHOWN))
    return ("…" if start else "") + text[start : start + SHOWN] + ("…" if start + SHOWN < len(text) else "")
