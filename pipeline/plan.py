"""Planning: every shard indexed and every unit of work known before a model is loaded."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.shards import Entry, ShardError, ShardIndex, expand, index_shard
from pipeline.store import Store, StoreError
from schemas.plan import ENTRIES, UNITS
from schemas.rejects import Reject

UNIT_BATCHES = 4  # a unit is at most this many batches: seconds to minutes of work, and what a death costs
UNITS_A_WORKER = 2  # and so few that each worker gets some, or one would work while others wait
INDEXERS = 16  # indexing reads headers only, so it waits more than it works


class PlanError(JobError):
    """The input cannot be planned; the message lists everything that is wrong with it."""


@dataclass(frozen=True)
class Unit:
    """A contiguous slice of one source: `count` samples from `first`; the fields of schemas.plan.UNITS.

    Its first, second ... `retry` takes up only what was rejected for one of `errors`: `only`, by index and key.
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

    def slice(self, first: int, count: int) -> "Unit":
        """The unit cut down to `count` of its samples."""
        return replace(self, first=self.first + first, count=count)


def index_shards(inputs: str | list[str], tick: Callable[[], None] = lambda: None) -> list[ShardIndex]:
    """The index of every shard, in order; `tick` is called as each is done.

    Raises PlanError naming every shard that cannot be used, not only the first.
    """

    def attempt(url: str) -> ShardIndex | ShardError:
        try:
            return index_shard(url)
        except ShardError as error:
            return error
        finally:
            tick()

    try:
        urls = expand(inputs)
    except ShardError as error:
        raise PlanError(str(error)) from error
    with ThreadPoolExecutor(INDEXERS) as pool:
        results = list(pool.map(attempt, urls))
    broken = [result for result in results if isinstance(result, ShardError)]
    if broken:
        lines = "".join(f"\n  {error}" for error in broken)
        raise PlanError(f"{len(broken)} of {len(urls)} shards cannot be used, nothing was run:{lines}")
    return [result for result in results if isinstance(result, ShardIndex)]


def shard_units(indexes: Sequence[ShardIndex], batch_size: int, workers: int) -> list[Unit]:
    """Units over the samples of indexed shards."""
    sources = [(index.url, len(index.entries), index.size, index.etag) for index in indexes]
    return _units(sources, batch_size, workers)


def part_units(latents: Store, batch_size: int, workers: int) -> list[Unit]:
    """Units over the rows of a finished latent store. Raises StoreError where it is not finished."""
    planned, commits = read_units(latents), latents.commits()
    if missing := len(planned) - len(commits):
        raise StoreError(
            f"{latents.location}: {missing} of {len(planned)} units are not done; finish its job first: edict run SPEC"
        )
    parts = []
    for commit in commits.values():
        files = [file for file in commit.files if file.path.startswith("parts/")]
        if sum(file.rows for file in files) != commit.ok:
            raise StoreError(f"{latents.location}: the parts of unit {commit.unit} do not hold its {commit.ok} rows")
        parts += [(file.path, file.rows, file.bytes, file.sha256) for file in files]
    return _units(parts, batch_size, workers)


def write_plan(store: Store, units: Sequence[Unit], indexes: Sequence[ShardIndex] = ()) -> None:
    """Write the plan; the units last, because a store with units is planned."""
    for ordinal, index in enumerate(indexes):
        rows = [
            {"index": e.index, "key": e.key, "offset": e.offset, "end": e.end}
            | ({"error": e.fault.error, "message": e.fault.message} if e.fault else {})
            for e in index.entries
        ]
        store.put_table(_entries_path(ordinal), pa.Table.from_pylist(rows, schema=ENTRIES))
    store.put_table("plan/units.parquet", pa.Table.from_pylist([asdict(unit) for unit in units], schema=UNITS))


def is_planned(store: Store) -> bool:
    return store.has("plan/units.parquet")


def read_units(store: Store) -> list[Unit]:
    """The units of a planned store, in order."""
    return [Unit(**row) for row in store.get_table("plan/units.parquet").to_pylist()]


def read_entries(store: Store, unit: Unit) -> list[Entry]:
    """The planned samples of a unit of shards."""
    rows = store.get_table(_entries_path(unit.ordinal)).slice(unit.first, unit.count).to_pylist()
    return [
        Entry(
            row["index"],
            row["key"],
            row["offset"],
            row["end"],
            Reject(unit.source, row["index"], row["key"], "index", row["error"], row["message"])
            if row["error"]
            else None,
        )
        for row in rows
    ]


def _entries_path(ordinal: int) -> str:
    return f"plan/shards/{ordinal:06d}.parquet"


def _units(sources: Sequence[tuple[str, int, int, str | None]], batch_size: int, workers: int) -> list[Unit]:
    batches = sum(count for _, count, _, _ in sources) // (batch_size * workers * UNITS_A_WORKER)
    length = max(1, min(UNIT_BATCHES, batches)) * batch_size
    units: list[Unit] = []
    for ordinal, (source, count, size, version) in enumerate(sources):
        for first in range(0, count, length):
            name = f"{len(units):08d}"
            units.append(Unit(name, source, ordinal, first, min(length, count - first), size, version))
    return units
