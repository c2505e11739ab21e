"""Units of work: index every shard, and cut shards or parts into units, before a model is loaded."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipeline.errors import JobError
from pipeline.io.errors import StorageError
from pipeline.io.shard_index import Entry, ShardError, ShardIndex, index_shard
from pipeline.io.shard_list import expand_shards
from pipeline.io.storage import Head, head
from pipeline.progress import Progress
from pipeline.store.plan import Source, Unit, numbered_keys, parts_of, version_entries, write_entries
from pipeline.store.store import Store

UNIT_BATCHES = 4  # per unit, at most, so that a worker's death wastes only seconds to minutes of work
UNIT_BYTES = 256 << 20  # that a unit reads from its shard, at most, unless a single batch has more
EDITED_BATCHES = 16
"""Batches of edited images per unit of edits, at most.

Rows regenerate under their own captions in full batches. So a unit with fewer rows than a batch computes one whole
batch: 6% on top of 16 batches of edits, and more if few of the variants change a caption.
"""
UNITS_PER_WORKER = 2  # at least, if there are enough samples, so that workers rarely wait for each other
INDEXERS = 16  # threads; indexing reads headers only, so it mostly waits


class PlanError(JobError):
    """The input cannot be planned. The message lists everything that is wrong with it."""


Taken = TypeVar("Taken")


def expanded(inputs: str | list[str]) -> list[str]:
    """Return the shards that an input names.

    Raises:
        PlanError: The input names no shard, or a pattern is not valid.
    """
    try:
        return expand_shards(inputs)
    except ShardError as error:
        raise PlanError(str(error)) from error


def index_shards(
    inputs: str | list[str], take: Callable[[ShardIndex], Taken], *, digests: bool = False
) -> tuple[list[Source], list[Taken]]:
    """Return every shard as a source, in order, and the result of `take` for its index, which is then dropped.

    `digests` is as in index_shard.

    Raises:
        PlanError: A shard is unusable (the message names all of them), or there is no sample.
    """

    def attempt(url: str) -> tuple[Source, Taken] | ShardError:
        try:
            index = index_shard(url, digests=digests)
            return (index.url, len(index.entries), index.size, index.etag), take(index)
        except ShardError as error:
            return error

    urls = expanded(inputs)
    sources, taken, broken = list[Source](), list[Taken](), list[ShardError]()
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
        raise PlanError(f"there is no sample in {len(urls)} shards; a sample is an image and a .txt with the same name")
    return sources, taken


def plan_shards(store: Store, inputs: str | list[str], batch_size: int, workers: int) -> list[Unit]:
    """Index the input, write the samples of each shard, and cut them into units.

    Raises:
        PlanError: See `index_shards`.
    """

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
    """Cut sources into units of whole batches, with UNITS_PER_WORKER units per worker if possible.

    The last unit of a source can end within a batch.

    Every unit begins at a multiple of the batch size within its source. `most` limits the batches per unit of each
    source, in addition to UNIT_BATCHES. `per_row` is the number of images per row. If a batch of rows gives more than
    EDITED_BATCHES batches of images, a unit has fewer rows than a batch, and may begin anywhere.
    """
    batches = sum(count for _, count, _, _ in sources) // (batch_size * workers * UNITS_PER_WORKER)
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
    """Return units over the rows of a finished latent store.

    Raises:
        StoreError: The store is not finished.
    """
    return cut(parts_of(latents), batch_size, workers, per_row=per_row)


def index_again(store: Store, units: Sequence[Unit]) -> None:
    """Index each shard of these units that was replaced since it was planned, for `find_entries`.

    Notes on stderr count these shards, and the samples in them that were not planned; no unit takes these samples.
    Notes also name each shard that cannot be used now; its units fail when they are read.
    """
    shards = {unit.source: unit for unit in units}

    def attempt(unit: Unit) -> int | JobError | None:
        """Return how many samples of a replaced shard were not planned; None for a shard that was not replaced."""
        try:
            if head(unit.source) == Head(unit.size, unit.version):
                return None
            index = index_shard(unit.source, digests=True)
        except (ShardError, StorageError) as error:
            return error
        write_entries(store, index)
        planned = set(numbered_keys(version_entries(store, unit.source, unit.size, unit.version)))
        return len(set(numbered_keys(index.entries)) - planned)

    with ThreadPoolExecutor(INDEXERS) as pool:
        results = list(pool.map(attempt, shards.values()))
    for error in (result for result in results if isinstance(result, JobError)):
        print(f"note: {error}", file=sys.stderr)
    replaced = [result for result in results if isinstance(result, int)]
    if replaced:
        print(
            f"note: {len(replaced)} shards were replaced since they were planned; their rejected samples are looked up "
            "by key in the new versions",
            file=sys.stderr,
        )
    if more := sum(replaced):
        print(
            f"note: {more} samples of the new versions were not planned, and are left out; to invert them, run the job "
            "with another output",
            file=sys.stderr,
        )
