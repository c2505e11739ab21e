"""The commits of a store: write them once, read them with their retries, copy them to checkpoints, delete them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count

import pyarrow as pa
from pydantic import ValidationError

from pipeline.io.errors import NotFound
from pipeline.store import paths
from pipeline.store.errors import InvalidCommit, StoreError
from pipeline.store.files import READ_THREADS
from pipeline.store.job_record import JobKey, JobStore
from pipeline.store.paths import (
    ATTEMPT,
    CHECKPOINT,
    COMMIT,
    RETRY,
    block_of,
    checkpoint_path,
    commit_path,
    unit_retry_of,
    units_of_block,
)
from schemas.commit import Commit, File, merged

CHECKPOINT_JOB = b"edict.job"
"""The key of the job's id in the metadata of a checkpoint."""


class CommitStore(JobStore):
    """Read and write the commits of a store.

    Methods with the argument `invalid` append invalid commits to that list. Without a list, they raise the first one.
    """

    def commit(self, commit: Commit) -> bool:
        """Commit the files of a unit. Return False if another attempt has committed the unit already.

        Raises:
            JobReplaced: The store now has another job.
        """
        if commit.input != commit.ok + commit.rejected + commit.filtered or commit.rejected != len(commit.rejects):
            raise AssertionError(f"unit {commit.unit} does not add up, nothing is committed: {commit!r}")
        path, key = commit_path(commit.unit, commit.retry), JobKey(commit.job)
        while not self.put_new(path, commit.model_dump_json().encode()):
            try:
                self._parse_commit(path, self._read(path), commit.unit, key, [])
                return False
            except InvalidCommit as error:
                self.check_key(key)  # the job that was replaced may be that of this attempt
                self.delete_invalid([error])
            except NotFound:
                continue  # another attempt has just deleted it
        return True

    def check_follows(self, unit: str, retry: int, after: str) -> None:
        """Check that the commit before a retry is still that of the attempt `after`.

        Raises:
            StoreError: The unit was done again by another attempt.
        """
        if (found := self.read_commit(unit, retry - 1).attempt) != after:
            raise StoreError(
                f"{self.location}: unit {unit} was done again by attempt {found} while its rejects were retried; "
                "run edict retry again for its present rejects"
            )

    def read_commit(self, unit: str, retry: int = 0) -> Commit:
        """Return the commit of a unit, or of a retry of it.

        Raises:
            StoreError: The commit does not exist, or is invalid.
        """
        key = JobKey(self.job().id)
        if not retry:
            return self._first_commit(unit, key, [])
        path = commit_path(unit, retry)
        return self._parse_commit(path, self.get(path), unit, key, [])

    def commit_of_file(self, path: str) -> Commit:
        """Return the commit that names a file: that of a unit, or of a retry.

        Raises:
            StoreError: The commit does not exist, or is invalid.
        """
        unit, _, retry = unit_retry_of(path).partition("+")
        return self.read_commit(unit, int(retry or 0))

    def committed_units(self, invalid: list[InvalidCommit] | None = None) -> set[str]:
        """Return the units that have a commit. Commits in checkpoints were checked when those were written."""
        key, plans = JobKey(self.job().id), self._plans()

        def invalid_retries(item: tuple[str, list[str]]) -> list[InvalidCommit]:
            unit, retry_paths = item
            found = list[InvalidCommit]()
            try:
                first = self._first_commit(unit, key, plans)
            except InvalidCommit:
                return []  # found below, and deleted together with its retries
            except StoreError:
                if self.has(commit_path(unit)):
                    raise
                reason = "has no commit before it"
                return [InvalidCommit(self.location, path, unit, reason) for path in retry_paths]
            self._with_retries(first, retry_paths, key, plans, found)
            return found

        with ThreadPoolExecutor(READ_THREADS) as pool:
            for error in chain.from_iterable(pool.map(invalid_retries, self._retries().items())):
                _raise_or_append(error, invalid)
        blocks = self.checkpoint_blocks(key)
        done = {unit for block in blocks for unit in units_of_block(block)}
        return done | {commit.unit for commit in self._commits_outside(blocks, key, plans, invalid)}

    def commits(self, invalid: list[InvalidCommit] | None = None) -> Iterator[Commit]:
        """Yield the commit of every unit that has one, merged with its retries. Units are in order within a block."""
        key, plans, retries = JobKey(self.job().id), self._plans(), self._retries()
        for commit in self._first_commits(key, plans, invalid):
            yield self._with_retries(commit, retries.get(commit.unit, ()), key, plans, invalid)

    def _retries(self) -> dict[str, list[str]]:
        """Return the paths of the commits of retries, by unit and in order."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.names("retries")):
            found.setdefault(self._match(path, RETRY)[1], []).append(path)
        return found

    def _with_retries(
        self,
        commit: Commit,
        retry_paths: Sequence[str],
        key: JobKey,
        plans: list[str],
        invalid: list[InvalidCommit] | None,
    ) -> Commit:
        """Merge the first commit of a unit with its retries. After an invalid retry, all later ones are invalid."""
        for number, path in enumerate(retry_paths):
            files: tuple[File, ...] = ()
            try:
                if (data := self._find(path)) is None:
                    return commit
                retry = self._parse_commit(path, data, commit.unit, key, plans)
                files = retry.files
                commit = merged(commit, retry)
            except (InvalidCommit, ValueError) as error:
                if not isinstance(error, InvalidCommit):
                    reason = f"does not fit the commits before it ({error})"
                    error = InvalidCommit(self.location, path, commit.unit, reason, files)
                _raise_or_append(error, invalid)
                for later in retry_paths[number + 1 :]:
                    reason = "follows an invalid retry"
                    _raise_or_append(InvalidCommit(self.location, later, commit.unit, reason), invalid)
                return commit
        return commit

    def _first_commit(self, unit: str, key: JobKey, plans: list[str]) -> Commit:
        """Return the first commit of a unit, from a checkpoint if its own file is missing or invalid."""
        path, block = commit_path(unit), block_of(unit)
        try:
            return self._parse_commit(path, self.get(path), unit, key, plans)
        except StoreError:
            if (texts := self._read_checkpoint(block, key)) is None:
                raise
            return self._parse_commit(path, texts[int(unit) % paths.BLOCK_SIZE].as_py(), unit, key, plans)

    def _first_commits(self, key: JobKey, plans: list[str], invalid: list[InvalidCommit] | None) -> Iterator[Commit]:
        blocks = []
        for block in self.checkpoint_blocks():
            if (texts := self._read_checkpoint(block, key)) is None:
                continue
            blocks.append(block)
            path = checkpoint_path(block)
            for unit, text in zip(units_of_block(block), texts.to_pylist(), strict=True):
                try:
                    yield self._parse_commit(path, text, unit, key, plans)
                except InvalidCommit as error:
                    _raise_or_append(error, invalid)
        yield from self._commits_outside(blocks, key, plans, invalid)

    def _commits_outside(
        self, blocks: list[int], key: JobKey, plans: list[str], invalid: list[InvalidCommit] | None
    ) -> Iterator[Commit]:
        """Yield the first commits of the units that are not in these blocks."""
        units = sorted(self._units_outside(blocks))
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for first in range(0, len(units), paths.BLOCK_SIZE):  # one block at a time, to bound the memory
                block_units = units[first : first + paths.BLOCK_SIZE]
                files = [commit_path(unit) for unit in block_units]
                for path, data, unit in zip(files, pool.map(self._find, files), block_units, strict=True):
                    if data is None:
                        continue
                    try:
                        yield self._parse_commit(path, data, unit, key, plans)
                    except InvalidCommit as error:
                        _raise_or_append(error, invalid)

    def _units_outside(self, blocks: list[int]) -> Iterator[str]:
        """Yield the committed units outside these blocks. Commits before the first missing block are not listed."""
        known = set(blocks)
        complete = next(block for block in count() if block not in known)
        after = commit_path(units_of_block(complete - 1)[-1]) if complete else None
        for path in self.names("commits", after):
            unit = self._match(path, COMMIT)[1]
            if block_of(unit) not in known:
                yield unit

    def write_checkpoint(self, block: int, key: JobKey) -> None:
        """Copy the commits of a block, whose units are all committed, to one file. All writers write the same bytes.

        Raises:
            StoreError: A commit does not exist, or is invalid.
        """
        units = units_of_block(block)
        files = [commit_path(unit) for unit in units]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            commits = [data.decode() for data in pool.map(self.get, files)]
        for path, text, unit in zip(files, commits, units, strict=True):
            self._parse_commit(path, text, unit, key, [])
        table = pa.table({"commit": commits})
        self.put_table(checkpoint_path(block), table.replace_schema_metadata({CHECKPOINT_JOB: key.id or ""}))

    def checkpoint_blocks(self, key: JobKey | None = None) -> list[int]:
        """Return the blocks that have a checkpoint; with a key, only those whose checkpoint is valid for this job."""
        blocks = sorted(int(self._match(path, CHECKPOINT)[1]) for path in self.names("ledger"))
        return [block for block in blocks if key is None or self._read_checkpoint(block, key) is not None]

    def _read_checkpoint(self, block: int, key: JobKey) -> pa.ChunkedArray | None:
        """Return the commits in a checkpoint; None if it is missing, damaged or of another job."""
        try:
            table = self.get_table(checkpoint_path(block))
        except StoreError:
            return None
        job = (table.schema.metadata or {}).get(CHECKPOINT_JOB, b"").decode() or None
        valid = job == key.id and len(table) == paths.BLOCK_SIZE and table.column_names == ["commit"]
        return table["commit"] if valid else None

    def _match(self, path: str, pattern: re.Pattern[str]) -> re.Match[str]:
        if (match := pattern.fullmatch(path)) is None:
            raise StoreError(f"{self.location}: {path} does not belong to a store; move it elsewhere")
        return match

    def _parse_commit(self, path: str, data: bytes | str, unit: str, key: JobKey, plans: list[str]) -> Commit:
        """Return the commit in a file. Its plan must be one of `plans`, which are read again if it is not.

        Raises:
            InvalidCommit: The commit is damaged, or belongs to another unit or job.
            StoreError: The commit is of a newer version, or of another plan.
        """
        try:
            commit = Commit.model_validate_json(data)
        except ValidationError as error:
            if any(problem["type"] == "extra_forbidden" for problem in error.errors()):
                raise StoreError(
                    f"{self.location}: {path} has fields that this version does not know; upgrade edict-pipeline to "
                    "the version that wrote it"
                ) from error
            (first, *_) = error.errors(include_url=False, include_input=False)
            problem = ": ".join([*filter(None, [".".join(map(str, first["loc"]))]), first["msg"]])
            reason = f"is damaged ({len(data)} bytes; {problem})"
            raise InvalidCommit(self.location, path, unit, reason) from error
        if commit.unit != unit:
            reason = f"is the commit of unit {commit.unit}, not of unit {unit}"
            raise InvalidCommit(self.location, path, unit, reason)
        if commit.job != key.id:
            raise InvalidCommit(self.location, path, unit, "belongs to another job", commit.files)
        if plans and commit.plan is not None and commit.plan not in plans:
            plans[:] = self._plans()  # the plan may have been extended meanwhile
            if commit.plan not in plans:
                raise StoreError(
                    f"{self.location}: {path} belongs to another plan of this job; restore plan/ as it was, or give "
                    "another output"
                )
        return commit

    def delete_invalid(self, invalid: Sequence[InvalidCommit]) -> None:
        """Delete invalid commits and the files of their attempts, so that their units can be done again.

        The retries of a unit follow its first commit, so they are deleted with it.
        """
        first = [commit.unit for commit in invalid if COMMIT.fullmatch(commit.path)]
        retries = self._retries() if first else {}
        for unit in first:
            self._delete_retries(retries.get(unit, []))
        for commit in invalid:
            if commit.path.startswith("commits/"):
                self.delete(checkpoint_path(block_of(commit.unit)))
            self._delete_commit(commit.path, commit.files)

    def delete_commits(self, unit: str) -> None:
        """Delete the commits of a unit, so that the next run does it again. Its files become orphans."""
        self._delete_retries(self._retries().get(unit, []))
        self.delete(checkpoint_path(block_of(unit)))
        self.delete(commit_path(unit))

    def _delete_retries(self, retry_paths: Sequence[str]) -> None:
        """Delete the commits of a unit's retries, the last first, and their files."""
        for path in reversed(retry_paths):
            data = self._find(path)
            try:
                files = () if data is None else Commit.model_validate_json(data).files
            except ValidationError:
                files = ()
            self._delete_commit(path, files)

    def _delete_commit(self, path: str, files: Iterable[File]) -> None:
        """Delete a commit, and those of these files that its own attempt wrote: a copied commit names other files."""
        self.delete(path)
        for file in files:
            if ATTEMPT.fullmatch(file.path) and unit_retry_of(file.path) == unit_retry_of(path):
                self.delete_staged([file])
                self.delete(file.path)


def _raise_or_append(error: InvalidCommit, invalid: list[InvalidCommit] | None) -> None:
    if invalid is None:
        raise error
    invalid.append(error)
