"""The job of a store: its job.json, and the key by which commits name it."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from pipeline.io.errors import NotFound
from pipeline.store.errors import JobReplaced, StoreError
from pipeline.store.files import StoreFiles, read_table
from pipeline.store.paths import PLAN, units_path
from schemas.errors import fault
from schemas.fingerprint import Document
from schemas.job import FORMAT, JobRecord, read_job


@dataclass(frozen=True)
class JobKey:
    """The fields by which a commit names its job: the job's id and the digest of its plan. Format 1 has neither."""

    id: str | None = None
    plan: str | None = None


class JobStore(StoreFiles):
    """Read the job of a store."""

    def job(self) -> JobRecord:
        """Return job.json.

        Raises:
            StoreError: This is not a store, job.json is damaged, or a newer version wrote it.
        """
        if (record := self.find_job()) is None:
            raise StoreError(
                f"{self.location}: is not a store (it has no job.json); give the `output` of a job that was run"
            )
        return record

    def find_job(self) -> JobRecord | None:
        """Return job.json; None if it does not exist.

        Raises:
            StoreError: job.json is damaged, or a newer version wrote it.
        """
        try:
            job = self._parse_json("job.json", self._read("job.json"))
        except NotFound:
            return None
        if not isinstance(job, dict):
            raise StoreError(
                f"{self.location}: job.json is damaged (it is not a JSON object); restore it, or give another output"
            )
        if (format := job.get("format", 1)) not in range(1, FORMAT + 1):
            raise StoreError(
                f"{self.location}: job.json has format {format!r}, and this version reads formats up to {FORMAT}; "
                "upgrade edict-pipeline to the version that wrote it"
            )
        if (kind := job.get("kind", "edit")) not in ("invert", "edit"):
            raise StoreError(
                f"{self.location}: job.json has the kind {kind!r}, which this version does not know; use the "
                "version of edict-pipeline that wrote it"
            )
        try:
            return read_job(job)
        except ValueError as error:
            raise StoreError(
                f"{self.location}: job.json is damaged (it {fault(error)}); restore it, or give another output"
            ) from error

    @cached_property
    def fingerprint(self) -> Document:
        """The fingerprint of the store's job as it is in job.json, read once."""
        return self.job().fingerprint

    def key(self, record: JobRecord | None = None) -> JobKey:
        """Return the key of the store's job: its id, from job.json or from `record`, and the digest of its plan."""
        plans = self._plans()
        return JobKey((record or self.job()).id, plans[-1] if plans else None)

    def check_key(self, key: JobKey, device: str | None = None) -> None:
        """Check that the store still has the job with this key, on this device.

        Raises:
            JobReplaced: The store now has another job, or the job runs on another device.
        """
        job = self.job()
        if device is not None and job.device != device:
            raise JobReplaced(
                f"{self.location}: another run of this job works on {job.device}, and rows of {device} and "
                f"{job.device} do not mix, so this run stops; run the job on one of the two"
            )
        if job.id != key.id:
            raise JobReplaced(
                f"{self.location}: another job began here (its id is {job.id}, this job's is {key.id}), so this run "
                "stops: the store was removed or replaced while it ran; give each job its own output"
            )

    def _plans(self) -> list[str]:
        """Return the digests of the plan: as first written, and after each extension.

        Raises:
            StoreError: A file of the plan is missing or damaged.
        """
        whole, found = sha256(), list[str]()
        numbers = sorted(int(match[1] or 0) for path in self.names("plan") if (match := PLAN.fullmatch(path)))
        if numbers != list(range(len(numbers))):
            raise StoreError(f"{self.location}: plan/ lacks some of its units*.parquet; restore them")
        for number in numbers:
            path = units_path(number)
            data = self.get(path)
            # This raises StoreError if the file is damaged.
            read_table(data, f"{self.location}: {path}", "restore it, or give another output")
            whole.update(data)
            found.append(whole.hexdigest())
        return found
