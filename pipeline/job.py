"""job.json: what a store is being filled with, written once, and held against every later run."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from edict.checkpoint import DEFAULT, LoRA, locate, locate_lora, weights_digest
from edict.samplers import SAMPLERS, parameters, resolved
from edict.schedule import Schedule
from pipeline.errors import JobError
from pipeline.storage import local_path
from pipeline.store import FORMAT, Store, StoreError, check_outside_stores
from pipeline.work import Machine, Weights
from schemas.specs import InvertSpec, ModelSpec

NEWER = "it is damaged, or a newer version wrote it: use that version of edict-pipeline"
UNKNOWN = "which this version does not know; use the version of edict-pipeline that wrote the store"
INVERTED = (
    "weights",
    "dtype",
    "sampler",
    "steps",
    "timesteps",
    "alphas_cumprod",
    "guidance_scale",
    "crop",
    "batch_size",
)

LINES = 20  # differences that an error shows
SHOWN = 200  # characters of a value that an error shows

SpecOf = TypeVar("SpecOf", bound=BaseModel)


class JobChanged(StoreError):
    """A store holds another job than the one that is to be run."""


class OutputRefused(StoreError):
    """The output contains an input of the job, or files that are not the job's."""


class NoSchedule(JobError):
    """The model has no schedule of the steps that are asked for, or cannot be guided along it as is asked for."""


def invert_fingerprint(spec: InvertSpec, folder: Path) -> dict[str, Any]:
    """Return every setting that determines the rows of an inversion. Raises NoSchedule, ModelError."""
    from edict.models import describe

    sampler = spec.sampler
    model, adapter = describe(folder), lora_of(spec.model)
    model.check(spec.model.variant, adapter)
    try:
        noise = model.schedule(sampler)
    except ValueError as error:
        raise NoSchedule(f"sampler: {error}") from error
    weights = parameters(resolved(sampler, noise.num_steps))
    fingerprint = {
        "input": spec.input,
        "weights": weights_digest(folder, spec.model.variant, adapter),
        "dtype": spec.dtype,
        "sampler": sampler.name,
        "steps": sampler.steps,
        "strength": sampler.strength,
        "timesteps": list(noise.timesteps),
        "alphas_cumprod": list(noise.alphas_cumprod),
        "guidance_scale": sampler.guidance_scale,
        **{name: str(value) for name, value in weights.items()},
        "bits": sampler.bits or SAMPLERS[sampler.name].bits,
        "crop": spec.image.crop,
        "posterior_seed": spec.image.posterior_seed,
        "batch_size": spec.workers.batch_size,
    }
    if spec.image.resize != "lanczos":  # jobs from before there was a choice go on as they are
        fingerprint["resize"] = spec.image.resize
    if spec.model.compile:
        fingerprint["compile"] = True
    if spec.model.channels_last:
        fingerprint["channels_last"] = True
    if spec.model.vae_dtype != "float32":
        fingerprint["vae_dtype"] = spec.model.vae_dtype
    if noise.sigmas is not None:
        fingerprint["sigmas"] = list(noise.sigmas)
    if model.guidance != "free":
        fingerprint["guidance"] = model.guidance
    if sampler.guidance_interval is not None:
        if model.guidance != "free":
            from edict.model import uninterrupted

            raise NoSchedule(f"sampler: {uninterrupted(model)}")
        fingerprint["guidance_interval"] = sampler.guidance_interval
    return fingerprint | model.interpretation()


def lora_of(model: ModelSpec) -> LoRA | None:
    """The LoRA weights that a spec names. Raises ModelError."""
    return None if model.lora is None else locate_lora(model.lora.path, model.lora.scale)


def schedule_of(fingerprint: dict[str, Any]) -> Schedule:
    """The schedule of a store's rows."""
    sigmas = tuple(fingerprint["sigmas"]) if "sigmas" in fingerprint else None
    return Schedule(tuple(fingerprint["timesteps"]), tuple(fingerprint["alphas_cumprod"]), sigmas)


def fit_of(fingerprint: dict[str, Any]) -> tuple[str, str]:
    """How pictures were cropped, and the filter they were resized with."""
    return fingerprint["crop"], fingerprint.get("resize", "lanczos")


def inverted(latents: Store) -> dict[str, Any]:
    """A latent store's job.json. Raises StoreError where it is no latent store."""
    job = latents.job()
    if job["kind"] != "invert":
        raise StoreError(f"{latents.location} is the store of an {job['kind']} job; give one that `invert` wrote")
    return job


def stored_machine(store: Store, job: dict[str, Any]) -> Machine:
    """Return the machine that made a store's rows. Raises StoreError if its job.json does not have it."""
    try:
        return Machine(**job["machine"])
    except TypeError as error:
        raise StoreError(
            f"{store.location}: the `machine` of job.json has other fields than this version's; {NEWER}"
        ) from error


def stored_spec(store: Store, kind: type[SpecOf], spec: Any) -> SpecOf:
    """Return a spec, or a section of one, from a store's job.json. Raises StoreError if it is not valid now."""
    try:
        return kind.model_validate(spec)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"{store.location}: the spec of job.json is not valid ({where}: {first['msg']}); {NEWER}"
        ) from error


def weights_of(model: ModelSpec, folder: Path, fingerprint: dict[str, Any]) -> Weights:
    """What workers load. A path is made absolute; the shipped model and a hub id each node finds for itself."""
    path = str(folder.absolute()) if Path(model.path).expanduser().is_dir() else model.path
    weights = Weights(
        path,
        model.revision,
        fingerprint["weights"],
        fingerprint["dtype"],
        model.variant,
        compile=fingerprint.get("compile", False),
        channels_last=fingerprint.get("channels_last", False),
        vae_dtype=fingerprint.get("vae_dtype", "float32"),
    )
    if model.lora is None:
        return weights
    lora = Path(model.lora.path).expanduser()
    at = str(lora.absolute()) if lora.exists() else model.lora.path
    return replace(weights, lora=at, lora_scale=model.lora.scale)


def inverted_with(latents: Store) -> tuple[dict[str, Any], Weights]:
    """A latent store's job.json and the very model it was inverted with.

    Raises StoreError where it is no latent store, or the model's files changed; ModelError where it is gone.
    """
    job = inverted(latents)
    if missing := [name for name in INVERTED if name not in job["fingerprint"]]:
        raise StoreError(f"{latents.location}: the fingerprint of job.json lacks {', '.join(missing)}; {NEWER}")
    if (sampler := job["fingerprint"]["sampler"]) not in SAMPLERS:
        raise StoreError(f"{latents.location} was inverted by the sampler {sampler!r}, {UNKNOWN}")
    made, model = job["fingerprint"], stored_spec(latents, ModelSpec, job["spec"].get("model"))
    folder, adapter = locate(model.path, model.revision, model.variant), lora_of(model)
    if (found := weights_digest(folder, model.variant, adapter)) != made["weights"]:
        raise StoreError(
            f"the model {folder} is not the one {latents.location} was inverted with (sha256 {found[:12]}, "
            f"the store's {made['weights'][:12]}): pairs mean nothing to other weights"
        )
    # The shipped model needs no check, and the imports of a check take seconds.
    if folder != DEFAULT or adapter is not None:
        from edict.models import describe

        described = describe(folder)
        described.check(model.variant, adapter)
        for name, value in described.interpretation().items():
            if made.get(name) != value:
                raise StoreError(
                    f"{latents.location} was inverted by an earlier version, which ignored the {name} of {folder}: its "
                    "pairs have another meaning now. Invert the images again"
                )
    return job, weights_of(model, folder, made)


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


def open_job(
    store: Store, kind: str, spec: dict[str, Any], fingerprint: dict[str, Any], machine: Machine, **more: Any
) -> None:
    """Write job.json with a new id. If an earlier run of the same job wrote it, update only the machine.

    Raises JobChanged.
    """
    fresh = {"format": FORMAT, "id": uuid4().hex, "kind": kind, "spec": spec, "fingerprint": fingerprint}
    fresh |= {"machine": asdict(machine), **more}
    fresh["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    if store.put_new("job.json", json.dumps(fresh, indent=2).encode()):
        return
    check_job(store, kind, fingerprint, machine)
    job: dict[str, Any] = store.job()
    if job["machine"] != fresh["machine"]:
        job["machine"] = fresh["machine"]
        store.put("job.json", json.dumps(job, indent=2).encode())


def check_job(store: Store, kind: str, fingerprint: dict[str, Any], machine: Machine) -> None:
    """Raises JobChanged where the store holds another job than this one already, or rows of another device."""
    if not store.has("job.json"):
        return
    job = store.job()
    if job["kind"] != kind or job["fingerprint"] != json.loads(json.dumps(fingerprint)):
        here, there = {"kind": kind, **fingerprint}, {"kind": job["kind"], **job["fingerprint"]}
        found = list(_differences(there, json.loads(json.dumps(here))))
        lines = "".join(f"\n  {line}" for line in found[:LINES])
        if len(found) > LINES:
            lines += f"\n  and {len(found) - LINES} more differences"
        raise JobChanged(
            f"{store.location} holds another job, and rows of two jobs do not mix; "
            f"give another output, or the same parameters again:{lines}"
        )
    stored = stored_machine(store, job)
    if stored.device != machine.device and store.committed():
        raise JobChanged(
            f"{store.location} has rows made on {stored.device}, and {machine.device} gives them other last bits: set "
            f"workers.gpus: {stored.gpus:g} again, or give another output"
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
