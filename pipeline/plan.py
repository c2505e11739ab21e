"""Planning: every shard indexed and every unit of work known before a model is loaded."""

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TypeVar

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.inputs import expand
from pipeline.progress import Progress
from pipeline.shards import Entry, ShardError, ShardIndex, clean_name, index_shard
from pipeline.storage import Head, StorageError, head
from pipeline.store import Store, StoreError, commit_path, table_bytes, units_path
from schemas.commit import Commit, merged
from schemas.plan import ADDED, EARLIER_ROWS, ENTRIES, PARTS, ROWS, UNITS
from schemas.rejects import Reject

UNIT_BATCHES = 4  # a unit is at most this many batches: seconds to minutes of work, and what a death costs
UNIT_BYTES = 256 << 20  # it also reads at most this many bytes of its shard, unless a single batch has more
# A unit of edits is also at most this many batches of edited images. Its rows regenerate under their own captions in
# full batches. So a unit with fewer rows than a batch computes one whole batch: 6% on top of 16 batches of edits, and
# more if few of the variants change a caption.
EDITED_BATCHES = 16
UNITS_A_WORKER = 2  # and so few that each worker gets some, or one would work while others wait
INDEXERS = 16  # indexing reads headers only, so it waits more than it works


class PlanError(JobError):
    """The input cannot be planned; the message lists everything that is wrong with it."""


Found = TypeVar("Found")

Source = tuple[str, int, int, str | None]
"""What units are cut from, a shard or a part: its location, its rows, its bytes, its version."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A contiguous slice of one source: `count` samples from `first`; the fields of schemas.plan.UNITS.

    `retry` 1, 2, ... only tries the samples that were rejected for one of `errors`: `only` has their indexes and keys,
    and `masks` those that were rejected for their mask, of which the present file is read. `after` is the attempt whose
    commit it follows.
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
        """The unit cut down to `count` of its samples."""
        return replace(self, first=self.first + first, count=count)


def expanded(inputs: str | list[str]) -> list[str]:
    """Return the shards that an input names. Raises PlanError."""
    try:
        return expand(inputs)
    except ShardError as error:
        raise PlanError(str(error)) from error


def index_shards(
    inputs: str | list[str], take: Callable[[ShardIndex], Found], *, digests: bool = False
) -> tuple[list[Source], list[Found]]:
    """Return every shard as a source, in order, and the result of `take` for its index, which is then dropped.

    `digests` is as in index_shard. Raises PlanError if a shard is unusable (the error names all of them), or if there
    is no sample.
    """

    def attempt(url: str) -> tuple[Source, Found] | ShardError:
        try:
            index = index_shard(url, digests=digests)
            return (index.url, len(index.entries), index.size, index.etag), take(index)
        except ShardError as error:
            return error

    urls = expanded(inputs)
    sources, taken, broken = list[Source](), list[Found](), list[ShardError]()
    with Progress("index", len(urls), "shards") as progress, ThreadPoolExecutor(INDEXERS) as pool:
        for result in pool.map(attempt, urls):
            progress.advance(1)
            if isinstance(result, ShardError):
                broken.append(result)
            else:
                sources.append(result[0])
                taken.append(result[1])
    if broken:
        lines = "".join(f"\n  {error}" for error in broken)
        raise PlanError(f"{len(broken)} of {len(urls)} shards cannot be used, nothing was run:{lines}")
    if not any(count for _, count, _, _ in sources):
        raise PlanError(f"there is not one sample in {len(urls)} shards; a sample is an image and a .txt of one name")
    return sources, taken


def plan_shards(store: Store, inputs: str | list[str], batch_size: int, workers: int) -> list[Unit]:
    """Index the input, write the samples of each shard, and cut them into units. Raises PlanError as `index_shards`."""

    def take(index: ShardIndex) -> int:
        write_entries(store, index)
        return most_batches(index.entries, batch_size)

    sources, most = index_shards(inputs, take, digests=True)
    return cut(sources, batch_size, workers, most)


def most_batches(entries: Sequence[Entry], batch_size: int) -> int:
    """Return the largest number of batches per unit with which no unit of a shard reads more than UNIT_BYTES, or 1."""
    sizes = [
        sum(entry.bytes_read for entry in entries[first : first + batch_size])
        for first in range(0, len(entries), batch_size)
    ]
    for count in range(UNIT_BATCHES, 1, -1):
        if all(sum(sizes[first : first + count]) <= UNIT_BYTES for first in range(0, len(sizes), count)):
            return count
    return 1


def cut(
    sources: Sequence[Source],
    batch_size: int,
    workers: int,
    most: Sequence[int] | None = None,
    *,
    per_row: float = 1,
) -> list[Unit]:
    """Cut sources into units of whole batches (except the last of a source), if possible some for every worker.

    Every unit begins at a multiple of the batch size within its source. `most` limits the batches per unit of each
    source, in addition to UNIT_BATCHES. `per_row` is the number of images per row. If a batch of rows gives more than
    EDITED_BATCHES batches of images, a unit has fewer rows than a batch, and may begin anywhere.
    """
    batches = sum(count for _, count, _, _ in sources) // (batch_size * workers * UNITS_A_WORKER)
    rows = max(1, int(EDITED_BATCHES * batch_size / max(1, per_row)))
    rows -= rows % batch_size if rows > batch_size else 0
    units: list[Unit] = []
    for ordinal, (source, count, size, version) in enumerate(sources):
        length = max(1, min(UNIT_BATCHES, batches, most[ordinal] if most else UNIT_BATCHES)) * batch_size
        length = min(length, rows)
        for first in range(0, count, length):
            name = f"{len(units):08d}"
            units.append(Unit(name, source, ordinal, first, min(length, count - first), size, version))
    return units


def spread(units: Sequence[Unit], count: int) -> dict[str, int]:
    """Spread `count` rows evenly over units. Return the number of rows of each unit that has any, by its name."""
    total = sum(unit.count for unit in units)
    shares = {}
    before = 0
    for unit in units:
        after = before + unit.count
        if share := min(count, total) * after // total - min(count, total) * before // total:
            shares[unit.unit] = share
        before = after
    return shares


def part_units(latents: Store, batch_size: int, workers: int, per_row: float = 1) -> list[Unit]:
    """Units over the rows of a finished latent store. Raises StoreError where it is not finished."""
    return cut(parts_of(latents), batch_size, workers, per_row=per_row)


def parts_of(latents: Store) -> list[Source]:
    """The parts of a finished latent store. Raises StoreError where it is not finished."""
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
    """Return the parts that a commit names. Raises StoreError if their number of rows is not that of the commit."""
    files = [file for file in commit.files if file.path.startswith("parts/")]
    if (rows := sum(file.rows for file in files)) != commit.ok:
        raise StoreError(f"{store.location}: the parts of unit {commit.unit} have {rows} rows, not {commit.ok}")
    return [(file.path, file.rows, file.bytes, file.sha256) for file in files]


def parts_of_unit(store: Store, unit: str) -> list[Source]:
    """Return the parts of one unit of a store, those of its retries last.

    Raises StoreError if the unit is not done or one of its commits does not count.
    """
    if not store.has(commit_path(unit)):
        raise StoreError(f"{store.location}: unit {unit} is not done; finish its job first: edict run SPEC")
    commit = store.commit_at(unit)
    while store.has(path := commit_path(unit, commit.retry + 1)):
        try:
            commit = merged(commit, store.commit_at(unit, commit.retry + 1))
        except ValueError as error:
            raise StoreError(f"{store.location}: {path} does not count ({error}); run its job again") from error
    return part_sources(store, commit)


def is_added(part: Source) -> bool:
    """Return True for a part that a retry wrote: its name has a "+" (pipeline.store.attempted)."""
    return "+" in part[0]


def is_left_out(store: Store, rows: str, part: Source) -> bool:
    """Return True for a part that was planned, and of which the job takes no row; `rows` is as in `read_rows`."""
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
    """Write the units, unless another driver of the job was first: then its plan stands, and is to be read.

    They are written last, because a store with units counts as planned. `extension` 1, 2, ... has further units of the
    same job.
    """
    columns = {name: [getattr(unit, name) for unit in units] for name in UNITS.names}
    store.put_new(units_path(extension), table_bytes(pa.table(columns, schema=UNITS)))


def is_planned(store: Store) -> bool:
    return store.has(units_path(0))


def extensions(store: Store) -> int:
    """Return the number of extensions of a store's plan."""
    return next(number for number in itertools.count() if not store.has(units_path(number + 1)))


def read_units(store: Store) -> list[Unit]:
    """Return the units of a planned store in order, those of its extensions last."""
    tables = [_planned(store, units_path(number), UNITS) for number in range(extensions(store) + 1)]
    return [Unit(**row) for row in pa.concat_tables(tables).to_pylist()]


def read_entries(store: Store, unit: Unit) -> list[Entry]:
    """The planned samples of a unit of shards."""
    return _entries(store, unit.source, unit.size, unit.version, unit.first, unit.count)


def _entries(
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


def index_again(store: Store, units: Sequence[Unit]) -> None:
    """Index each shard of these units that was replaced since it was planned, for `find_entries`.

    Notes on stderr count these shards, and the samples in them that were not planned; no unit takes these samples.
    Notes also name each shard that cannot be used now; its units fail when they are read.
    """
    shards = {unit.source: unit for unit in units}

    def attempt(unit: Unit) -> int | JobError | None:
        """Return how many samples of a replaced shard were not planned; None for one that was not replaced."""
        try:
            if head(unit.source) == Head(unit.size, unit.version):
                return None
            index = index_shard(unit.source, digests=True)
        except (ShardError, StorageError) as error:
            return error
        write_entries(store, index)
        planned = set(_numbered(_entries(store, unit.source, unit.size, unit.version)))
        return len(set(_numbered(index.entries)) - planned)

    with ThreadPoolExecutor(INDEXERS) as pool:
        results = list(pool.map(attempt, shards.values()))
    for error in (result for result in results if isinstance(result, JobError)):
        print(f"note: {error}", file=sys.stderr)
    replaced = [result for result in results if isinstance(result, int)]
    if replaced:
        print(
            f"note: shards replaced since they were planned: {len(replaced)}; their rejected samples are looked up by "
            "key in the new versions",
            file=sys.stderr,
        )
    if more := sum(replaced):
        print(
            f"note: samples of the new versions that were not planned and are left out here: {more}; to invert them, "
            "run the job with another output",
            file=sys.stderr,
        )


def find_entries(store: Store, unit: Unit) -> tuple[Head, list[Entry]]:
    """Return the present version of a unit's shard, and the unit's planned samples in it.

    If a retry indexed that version (`index_again`), samples are looked up by key. If several samples have the same key,
    the second one stays the second. A sample that is not found has the fault MissingSample. Samples keep the indexes
    and the keys of the plan. Without such an index the result is the planned version and `read_entries`, and
    `read_samples` compares the contents. Raises StorageError if there is no shard.
    """
    planned = read_entries(store, unit)
    now = head(unit.source)
    if now == Head(unit.size, unit.version) or not store.has(_entries_path(unit.source, now.size, now.etag)):
        return Head(unit.size, unit.version), planned
    there = _entries(store, unit.source, now.size, now.etag)
    present = dict(zip(_numbered(there), there, strict=True))
    keys = _numbered(_entries(store, unit.source, unit.size, unit.version))
    found = []
    for entry, key in zip(planned, keys[unit.first : unit.first + unit.count], strict=True):
        if key in present:
            fault = present[key].fault
            if fault is not None:
                fault = replace(fault, index=entry.index, key=entry.key)
            found.append(replace(present[key], index=entry.index, key=entry.key, fault=fault))
        else:
            message = "the shard was replaced since it was planned, and its new version has no sample with this key"
            fault = Reject(unit.source, entry.index, entry.key, "index", "MissingSample", message)
            found.append(replace(entry, fault=fault))
    return now, found


def _numbered(entries: Iterable[Entry]) -> list[tuple[str, int]]:
    """Return the key of each entry, and the number of earlier entries with the same key.

    Plans of earlier versions have a "./" before keys, which later indexes of the same shard do not have.
    """
    before = Counter[str]()
    numbered = []
    for key in (clean_name(entry.key) for entry in entries):
        numbered.append((key, before[key]))
        before[key] += 1
    return numbered


def write_rows(store: Store, job: str, part: Source, rows: pa.Table) -> None:
    """Write which rows of a part a job takes: a table of schemas.plan.ROWS. `job` is its digest."""
    path, _, size, version = part
    store.put_table(_rows_path(job, path, size, version), rows)


def read_rows(store: Store, job: str, unit: Unit) -> pa.Table:
    """The planned rows of a unit of parts: a table of schemas.plan.ROWS. Raises StoreError where they are not there."""
    path = _rows_path(job, unit.source, unit.size, unit.version)
    rows = _planned(store, path, ROWS, EARLIER_ROWS).slice(unit.first, unit.count)
    if rows.num_rows != unit.count:
        raise StoreError(f"{store.location}: {path} is damaged (unit {unit.unit} has {rows.num_rows} rows in it)")
    return rows


def write_parts(store: Store, job: str, parts: Sequence[Source]) -> None:
    """Write the list of the parts from which the rows of a job were selected. `job` is as in `write_rows`."""
    columns = {"part": [part[0] for part in parts], "version": [part[3] for part in parts]}
    store.put_table(_parts_path(job), pa.table(columns, schema=PARTS))


def read_parts(store: Store, job: str) -> list[tuple[str, str]] | None:
    """Return the parts from which the rows of a job were selected, with their sha256; None for earlier versions."""
    if not store.has(_parts_path(job)):
        return None
    return [(row["part"], row["version"]) for row in _planned(store, _parts_path(job), PARTS).to_pylist()]


def _planned(store: Store, path: str, *schemas: pa.Schema) -> pa.Table:
    table = store.get_table(path)
    for field in schemas[0]:
        if field.name in ADDED and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    if table.schema not in schemas:
        raise StoreError(f"{store.location}: {path} is damaged (its columns are not those of a plan)")
    return table


def _entries_path(url: str, size: int, version: str | None) -> str:
    return f"plan/shards/{_version(url, size, version)}.parquet"


def _parts_path(job: str) -> str:
    return f"plan/parts/{job}.parquet"


def _rows_path(job: str, part: str, size: int, version: str | None) -> str:
    """Of two jobs that are started at once on one store, each writes its own; only one of them goes on."""
    return f"plan/rows/{job}/{_version(part, size, version)}.parquet"


def _version(source: str, size: int, version: str | None) -> str:
    """A name for the very version of a shard or part: whoever plans it, whenever, writes the same under it."""
    return sha256(repr((source, size, version)).encode()).hexdigest()[:32]
