"""The record of a store's job, job.json. It is written once; only `machine` can change later."""

import json
from functools import cached_property
from hashlib import sha256
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.fingerprint import Document, EditFingerprint, Fingerprint, read_fingerprint

FORMAT = 3
"""The present format of job.json.

Format 1 had no id, and its attempts wrote their files directly to parts/. Format 2 had the schedule of an inversion in
its fingerprint.
"""


class JobRecord(BaseModel):
    """The fields of job.json.

    `spec` and `fingerprint` are JSON objects as they were written, of any format, so that their digests stay the same.
    `inversion` and `edit` read the fingerprint. Only edits have `variants_per_row`, the number of images per latent
    row, and `rows`, the name of the planned rows (None: the units are slices of parts).
    """

    model_config = ConfigDict(frozen=True)

    format: int = Field(1, ge=1, le=FORMAT)
    id: str | None = None
    kind: Literal["invert", "edit"]
    spec: Document
    fingerprint: Document
    machine: Document
    created: str | None = None
    variants_per_row: int = 1
    rows: str | None = None

    @property
    def device(self) -> str | None:
        """The device that computes the rows."""
        return self.machine.get("device")

    @cached_property
    def inversion(self) -> Fingerprint:
        """The fingerprint of an inversion.

        Raises:
            ValueError: It is invalid.
        """
        return read_fingerprint(self.fingerprint, self.spec.get("sampler", {}).get("steps_offset"))

    def settings(self) -> Document:
        """Return the kind and the fingerprint in the present format, to compare it with another record's.

        Raises:
            ValueError: The fingerprint is invalid.
        """
        if self.kind == "invert":
            return {"kind": self.kind, **self.inversion.model_dump()}
        return {
            "kind": self.kind,
            **self.edit.model_dump(),
            "latents": read_fingerprint(self.edit.latents).model_dump(),
        }

    @cached_property
    def edit(self) -> EditFingerprint:
        """The fingerprint of an edit.

        Raises:
            ValueError: It is invalid.
        """
        return EditFingerprint.model_validate(self.fingerprint)


REQUIRED = frozenset(name for name, field in JobRecord.model_fields.items() if field.is_required())
"""The fields that job.json has in every format."""


def read_job(document: Document) -> JobRecord:
    """Return the record of a job from its JSON object, of any format.

    Raises:
        ValueError: A field is missing or invalid.
    """
    if "rows" in document or document.get("kind") != "edit":
        return JobRecord.model_validate(document)
    record = JobRecord.model_validate(document)
    # Earlier versions did not write the name, and planned rows only if the spec selects rows or has tables.
    chosen = any(record.spec.get(name) is not None for name in ("where", "keys", "sample", "limit"))
    listed = any(edit.get(name) is not None for edit in record.spec.get("edits", ()) for name in ("table", "pie_bench"))
    return record.model_copy(update={"rows": digest_of(record.fingerprint)}) if chosen or listed else record


def digest_of(fingerprint: Document) -> str:
    """Return the digest of a job: 32 hexadecimal digits of the sha256 of its fingerprint."""
    return sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:32]
