"""job.json, the record of a store's job: write it once, and compare each later run with it."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from pipeline.io.locations import local_path
from pipeline.messages import Machine
from pipeline.plan.job_changes import JobChanged, refuse_changes
from pipeline.store.errors import StoreError
from pipeline.store.store import Store, check_outside_stores
from schemas.errors import fault
from schemas.fingerprint import Document
from schemas.job import FORMAT, JobRecord

NEWER_VERSION = "it is damaged, or a newer version wrote it: use that version of edict-pipeline"

PLAN_FILES = re.compile(r"plan/(?:shards|parts|rows/[0-9a-f]{32})/[0-9a-f]{32}\.parquet")
"""Files that a run may leave in its output if it ends while it plans."""

SpecOf = TypeVar("SpecOf", bound=BaseModel)


class OutputRefused(StoreError):
    """The output contains an input of the job, or files that are not the job's."""


def new_record(
    kind: Literal["invert", "edit"], spec: Document, fingerprint: Document, machine: Machine, **edit_fields: Any
) -> JobRecord:
    """Return the record of a new job. Only an edit has `edit_fields`: `variants_per_row` and `rows`."""
    return JobRecord(
        format=FORMAT,
        id=uuid4().hex,
        kind=kind,
        spec=spec,
        fingerprint=fingerprint,
        machine=asdict(machine),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **edit_fields,
    )


def check_output(store: Store, inputs: Iterable[str]) -> None:
    """Check that a job may write to its output: a store, an empty folder, or one with an unfinished plan.

    Raises:
        OutputRefused: The output contains one of the `inputs`, or files that are not the job's.
        StoreError: The output is in a folder of another store.
    """
    check_outside_stores(store.location)
    path = local_path(store.location)
    output = store.location.rstrip("/") if path is None else str(path.resolve())
    for location in inputs:
        if (resolved := _resolve_location(location)) == output or resolved.startswith(output + "/"):
            raise OutputRefused(
                f"output {store.location}: the input {location} is inside it; give an output that contains no input"
            )
    if store.has("job.json"):
        return
    if (found := next((name for name in store.names("") if not PLAN_FILES.fullmatch(name)), None)) is not None:
        raise OutputRefused(
            f"output {store.location}: is not empty (it has {found}) and is not a store; give a new or empty folder"
        )


def check_job(store: Store, record: JobRecord) -> JobRecord:
    """Return the record of the store's job, or the given one if the store has none.

    Raises:
        JobChanged: The store has another job, or rows that were made on another device.
    """
    if (found := store.find_job()) is None:
        return record
    if (found.kind, found.fingerprint) != (record.kind, record.fingerprint):
        try:
            stored, given = found.settings(), record.settings()
        except ValueError as error:
            raise invalid_fingerprint(store, error) from error
        for earlier, present in ((stored, given), (stored.get("latents", {}), given.get("latents", {}))):
            if earlier.get("pipeline") is None:  # Earlier formats did not have this field.
                present.pop("pipeline", None)
        refuse_changes(store.location, stored, given)
    machine = stored_machine(store, found)
    if machine.device != record.device and store.committed_units():
        raise JobChanged(
            f"{store.location} has rows made on {machine.device}, and rows made on {record.device} differ in their "
            f"last bits; set workers.gpus: {machine.gpus:g} again, or give another output"
        )
    return found


def open_job(store: Store, record: JobRecord, found: JobRecord | None = None) -> JobRecord:
    """Return the record of the store's job, after writing job.json if the store has none.

    If an earlier run of the same job wrote job.json, only its machine is updated. `found` is the result of `check_job`
    if the caller has it already.

    Raises:
        JobChanged: See `check_job`.
    """
    found = found or check_job(store, record)
    if found is record:
        if store.put_new("job.json", record.model_dump_json(indent=2).encode()):
            return record
        found = check_job(store, record)  # Another driver was first.
    if found.machine != record.machine:
        store.put("job.json", json.dumps(store.get_json("job.json") | {"machine": record.machine}, indent=2).encode())
    return found.model_copy(update={"machine": record.machine})


def stored_machine(store: Store, record: JobRecord) -> Machine:
    """Return the machine in a store's job.json.

    Raises:
        StoreError: Its fields are not those of this version.
    """
    try:
        return Machine(**record.machine)
    except TypeError as error:
        raise StoreError(
            f"{store.location}: the `machine` of job.json has other fields than this version's; {NEWER_VERSION}"
        ) from error


def stored_spec(store: Store, kind: type[SpecOf], spec: Any) -> SpecOf:
    """Return the spec in a store's job.json.

    Raises:
        StoreError: It is not a valid spec of this version.
    """
    try:
        return kind.model_validate(spec)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"{store.location}: the spec of job.json is not valid ({field}: {first['msg']}); {NEWER_VERSION}"
        ) from error


def invalid_fingerprint(store: Store, error: ValueError) -> StoreError:
    """Return the error for a job.json whose fingerprint is not valid."""
    return StoreError(f"{store.location}: the fingerprint of job.json {fault(error)}; {NEWER_VERSION}")


def _resolve_location(location: str) -> str:
    """Return a location without symbolic links in its folder. The file itself may be one, as in the hub's cache."""
    path = local_path(location)
    return location.rstrip("/") if path is None else f"{_resolve_folder(path.parent)}/{path.name}"


@cache
def _resolve_folder(folder: Path) -> Path:
    return folder.resolve()
