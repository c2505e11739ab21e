"""The plan of a store as Parquet tables: its units, and their samples or rows."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import pyarrow as pa

from pipeline.io.shard_index import Entry, ShardIndex
from pipeline.io.storage import Head, head
from pipeline.io.tar import clean_name
from pipeline.store.errors import StoreError
from pipeline.store.files import table_bytes
from pipeline.store.paths import commit_path, units_path
from pipeline.store.store import Store
from schemas.commit import Commit, merged
from schemas.plan import ADDED_COLUMNS, EARLIER_ROWS, ENTRIES, PARTS, ROWS, UNITS
from schemas.rejects import Reject

Source = tuple[str, int, int, str | None]
"""A shard or a part, from which units are cut: its location, number of rows, bytes and version."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A slice of one source: `count` samples from `first`, with the fields of schemas.plan.UNITS.

    A `retry` (1, 2, ...) only tries the samples that were rejected with one of `errors`. `only` has their indexes and
    keys. `masks` has those that were rejected for their mask: their present mask file is read. `after` is the attempt
    whose commit the retry follows.
    """

    unit: str
    source: str
    ordinal: int
    first: int
    count: int
    size: int
    version: str | None
    retry: int = 0
    errors: tuple[str, ...] = ()
    only: frozenset[tuple[int, str]] = frozenset()
    masks: frozenset[tuple[int, str]] = frozenset()
    after: str | None = None

    def slice(self, first: int, count: int) -> "Unit":
        """Return a unit with `count` of the samples of this one, from its sample `first`."""
        return replace(self, first=self.first + first, count=count)


def parts_of(latents: Store) -> list[Source]:
    """Return the parts of a finished latent store.

    Raises:
        StoreError: Some units are not done.
    """
    planned, done = len(read_units(latents)), 0
    parts = list[Source]()
    for commit in latents.commits():
        done += 1
        parts += part_sources(latents, commit)
    if missing := planned - done:
        raise StoreError(
            f"{latents.location}: {missing} of {planned} units are not done; finish its job first: edict run SPEC"
        )
    return parts


def part_sources(store: Store, commit: Commit) -> list[Source]:
    """Return the parts that a commit names.

    Raises:
        StoreError: The number of their rows is not that of the commit.
    """
    files = [file for file in commit.files if file.path.startswith("parts/")]
    if (rows := sum(file.rows for file in files)) != commit.ok:
        raise StoreError(
            f"{store.location}: the parts of unit {commit.unit} have {rows} rows, but its commit has {commit.ok}; "
            "run edict verify --repair"
        )
    return [(file.path, file.rows, file.bytes, file.sha256) for file in files]


def parts_of_unit(store: Store, unit: str) -> list[Source]:
    """Return the parts of one unit of a store, those of its retries last.

    Raises:
        StoreError: The unit is not done, or one of its commits is invalid.
    """
    if not store.has(commit_path(unit)):
        raise StoreError(f"{store.location}: unit {unit} is not done; finish its job first: edict run SPEC")
    commit = store.read_commit(unit)
    while store.has(path := commit_path(unit, commit.retry + 1)):
        try:
            commit = merged(commit, store.read_commit(unit, commit.retry + 1))
        except ValueError as error:
            raise StoreError(
                f"{store.location}: {path} is invalid ({error}); run its job again: edict run SPEC"
            ) from error
    return part_sources(store, commit)


def is_added(part: Source) -> bool:
    """Return True for a part that a retry wrote: its name has a "+" (pipeline.store.paths.unit_retry)."""
    return "+" in part[0]


def is_left_out(store: Store, rows: str, part: Source) -> bool:
    """Return True if a part was planned and the job takes no row of it. `rows` is the name of the planned rows."""
    path, _, size, version = part
    path = _rows_path(rows, path, size, version)
    return store.has(path) and not _planned(store, path, ROWS, EARLIER_ROWS).num_rows


def write_entries(store: Store, index: ShardIndex) -> None:
    """Write the samples of one version of a shard."""
    entries = index.entries
    columns = {name: [getattr(entry, name) for entry in entries] for name in ("index", "key", "offset", "end")}
    columns |= {
        name: [entry.fault and getattr(entry.fault, name) for entry in entries] for name in ("error", "message")
    }
    columns["gaps"] = [[{"start": start, "end": end} for start, end in entry.gaps] or None for entry in entries]
    columns["digest"] = [entry.digest for entry in entries]
    store.put_table(_entries_path(index.url, index.size, index.etag), pa.table(columns, schema=ENTRIES))


def write_units(store: Store, units: Sequence[Unit], extension: int = 0) -> None:
    """Write the units of a plan, unless another driver of the job has written its plan already, which is then valid.

    The units are written last, because a store with units counts as planned. `extension` 1, 2, ... has further units of
    the same job.
    """
    columns = {name: [getattr(unit, name) for unit in units] for name in UNITS.names}
    store.put_new(units_path(extension), table_bytes(pa.table(columns, schema=UNITS)))


def is_planned(store: Store) -> bool:
    """Return True if the plan of a store is complete, because its units are written last."""
    return store.has(units_path(0))


def extensions(store: Store) -> int:
    """Return the number of extensions of a store's plan."""
    return next(number for number in itertools.count() if not store.has(units_path(number + 1)))


def read_units(store: Store) -> list[Unit]:
    """Return the units of a planned store in order, those of its extensions last."""
    tables = [_planned(store, units_path(number), UNITS) for number in range(extensions(store) + 1)]
    return [Unit(**row) for row in pa.concat_tables(tables).to_pylist()]


def read_entries(store: Store, unit: Unit) -> list[Entry]:
    """Return the planned samples of a unit of shards."""
    return version_entries(store, unit.source, unit.size, unit.version, unit.first, unit.count)


def version_entries(
    store: Store, source: str, size: int, version: str | None, first: int = 0, count: int | None = None
) -> list[Entry]:
    """Return the planned samples of one version of a shard, or `count` of them from `first`."""
    table = _planned(store, _entries_path(source, size, version), ENTRIES).slice(first, count)
    return [
        Entry(
            row["index"],
            row["key"],
            row["offset"],
            row["end"],
            Reject(source, row["index"], row["key"], "index", row["error"], row["message"]) if row["error"] else None,
            tuple((gap["start"], gap["end"]) for gap in row["gaps"] or ()),
            row["digest"],
        )
        for row in table.to_pylist()
    ]


def find_entries(store: Store, unit: Unit) -> tuple[Head, list[Entry]]:
    """Return the present version of a unit's shard, and the unit's planned samples in it.

    If a retry indexed that version (`index_again`), samples are found by their keys. Of several samples with the same
    key, the second one stays the second. A sample that is not found has the fault MissingSample. Samples keep the
    indexes and the keys of the plan. Without such an index, the result is the planned version with its samples, and
    `read_samples` compares the contents.

    Raises:
        StorageError: The shard does not exist, or cannot be reached.
    """
    planned = read_entries(store, unit)
    now = head(unit.source)
    if now == Head(unit.size, unit.version) or not store.has(_entries_path(unit.source, now.size, now.etag)):
        return Head(unit.size, unit.version), planned
    now_entries = version_entries(store, unit.source, now.size, now.etag)
    present = dict(zip(numbered_keys(now_entries), now_entries, strict=True))
    keys = numbered_keys(version_entries(store, unit.source, unit.size, unit.version))
    found = []
    for entry, key in zip(planned, keys[unit.first : unit.first + unit.count], strict=True):
        if key in present:
            fault = present[key].fault
            if fault is not None:
                fault = replace(fault, index=entry.index, key=entry.key)
            found.append(replace(present[key], index=entry.index, key=entry.key, fault=fault))
        else:
            message = (
                "the shard was replaced since it was planned, and its new version has no sample with this key; add it, "
                "or put the planned version back"
            )
            fault = Reject(unit.source, entry.index, entry.key, "index", "MissingSample", message)
            found.append(replace(entry, fault=fault))
    return now, found


def numbered_keys(entries: Iterable[Entry]) -> list[tuple[str, int]]:
    """Return the key of each entry, and the number of earlier entries with the same key.

    Plans of earlier versions have a "./" before keys, which is removed here as in present indexes.
    """
    before = Counter[str]()
    keys = []
    for key in (clean_name(entry.key) for entry in entries):
        keys.append((key, before[key]))
        before[key] += 1
    return keys


def write_rows(store: Store, job: str, part: Source, rows: pa.Table) -> None:
    """Write the rows of a part that a job takes: a table of schemas.plan.ROWS. `job` is the digest of the job."""
    path, _, size, version = part
    store.put_table(_rows_path(job, path, size, version), rows)


def read_planned_rows(store: Store, job: str, unit: Unit) -> pa.Table:
    """Return the planned rows of a unit of parts: a table of schemas.plan.ROWS. `job` is the digest of the job.

    Raises:
        StoreError: The rows do not exist, or are damaged.
    """
    path = _rows_path(job, unit.source, unit.size, unit.version)
    rows = _planned(store, path, ROWS, EARLIER_ROWS).slice(unit.first, unit.count)
    if rows.num_rows != unit.count:
        raise StoreError(
            f"{store.location}: {path} is damaged (unit {unit.unit} has {rows.num_rows} rows in it, not {unit.count}); "
            "restore it, or give another output"
        )
    return rows


def write_parts(store: Store, job: str, parts: Sequence[Source]) -> None:
    """Write the list of the parts from which the rows of a job were selected. `job` is the digest of the job."""
    columns = {"part": [part[0] for part in parts], "version": [part[3] for part in parts]}
    store.put_table(_parts_path(job), pa.table(columns, schema=PARTS))


def read_parts(store: Store, job: str) -> list[tuple[str, str]] | None:
    """Return the parts from which the rows of a job were selected, with their sha256.

    Stores of earlier versions do not have this list, and the result is None.
    """
    if not store.has(_parts_path(job)):
        return None
    return [(row["part"], row["version"]) for row in _planned(store, _parts_path(job), PARTS).to_pylist()]


def _planned(store: Store, path: str, *schemas: pa.Schema) -> pa.Table:
    table = store.get_table(path)
    for field in schemas[0]:
        if field.name in ADDED_COLUMNS and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    if table.schema not in schemas:
        raise StoreError(
            f"{store.location}: {path} is damaged (its columns are not those of a plan); restore it, or give another "
            "output"
        )
    return table


def _entries_path(url: str, size: int, version: str | None) -> str:
    return f"plan/shards/{_version(url, size, version)}.parquet"


def _parts_path(job: str) -> str:
    return f"plan/parts/{job}.parquet"


def _rows_path(job: str, part: str, size: int, version: str | None) -> str:
    """Return the path of the rows of a part. Two jobs that start at once on one store write different files."""
    return f"plan/rows/{job}/{_version(part, size, version)}.parquet"


def _version(source: str, size: int, version: str | None) -> str:
    """Return the digest of one version of a shard or part. All drivers write the same content under this name."""
    return sha256(repr((source, size, version)).encode()).hexdigest()[:32]
