"""Which rows of a latent store an edit takes, and what tables say of them: decided once, when the job is planned."""

import heapq
import io
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b, sha256
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import JobError
from pipeline.io.errors import StorageError
from pipeline.io.masks import mask_digest
from pipeline.io.storage import read_file
from pipeline.plan.comparison import compare_latents, missing_rows, runs
from pipeline.plan.units import cut
from pipeline.store.errors import StoreError
from pipeline.store.files import READ_THREADS
from pipeline.store.latents import read_columns
from pipeline.store.plan import Source, Unit, extensions, parts_of, read_units, write_parts, write_rows, write_units
from pipeline.store.store import Store
from schemas.job import JobRecord
from schemas.plan import ROWS
from schemas.specs import EditSpec, SampleSpec
from schemas.where import columns_of, error_reason, matching_rows, sandbox

KEYS_BYTES, KEYS = 512 << 20, 10_000_000  # of a file of keys; a key takes some 200 bytes of memory

Listed = Callable[[str], Mapping[str, Any]] | None
"""The prompts, or the masks, that tables give a key, by the name of the variant; None where there are none."""

MaskFiles = Callable[[str, Mapping[str, str]], Mapping[str, str]] | None
"""From a row's caption and the prompts that tables have for it: the templates of its mask files, by variant.

None if no edit has mask files."""

Chosen = tuple[Source, Sequence[int], pa.Table | None]
"""Of a part the rows that are taken, by their place in it, and of all its rows the columns that were read."""


class SelectionError(JobError):
    """Rows that a latent store does not have, or cannot be asked for; the message names the field of the spec."""


@dataclass(frozen=True)
class Selection:
    """The selection of an EditSpec: its keys are those of the file, and `lines` has the line number of each key."""

    where: str | None
    keys: frozenset[str] | None
    sample: SampleSpec | None
    limit: int | None
    lines: Mapping[str, int] | None = field(default=None, compare=False)

    def fingerprint(self) -> dict[str, Any]:
        """What decides the rows of a store, short even for a million keys."""
        keys = None if self.keys is None else sha256("\n".join(sorted(self.keys)).encode()).hexdigest()
        sample = None if self.sample is None else self.sample.model_dump()
        return {"where": self.where, "keys": keys, "sample": sample, "limit": self.limit}


def read_selection(spec: EditSpec) -> Selection:
    """What a spec says of rows. Raises SelectionError where its file of keys cannot be used."""
    lines = _read_keys(spec.keys) if isinstance(spec.keys, str) else None
    keys = spec.keys if lines is None else lines
    return Selection(spec.where, None if keys is None else frozenset(keys), spec.sample, spec.limit, lines)


def select(
    latents: Store, parts: Sequence[Source], wanted: Selection, *, whole: bool = True
) -> Iterator[tuple[Source, Sequence[int]]]:
    """The parts that have rows which are wanted, in order, each with the places of these rows.

    Reads one part of the store after the other, and only the columns that the selection uses. `whole` is true if these
    are all its parts. Raises SelectionError if `where` fails on a row, or if the whole store lacks a key; StoreError if
    a part is damaged.
    """
    parts = sorted(parts)  # in the order of their units, whatever order the commits were read in
    chosen = _filtered(latents, parts, wanted, whole)
    if wanted.sample is not None:
        chosen = _sampled(chosen, wanted.sample)
    left = wanted.limit
    for part, rows, _ in chosen:
        taken = rows if left is None else rows[:left]
        if taken:
            yield part, taken
        if left is not None:
            left -= len(taken)
            if left == 0 and wanted.keys is None:  # what is left has to be seen for keys that are nowhere
                return


def planned(
    latents: Store, parts: Sequence[Source], wanted: Selection, prompts: Listed, masks: Listed, *, whole: bool = True
) -> Iterator[tuple[Source, pa.Table]]:
    """Yield the selected rows, part by part, as tables of schemas.plan.ROWS without the digests of mask files.

    Raises the errors of `select`.
    """
    selected = select(latents, parts, wanted, whole=whole)
    while some := list(islice(selected, READ_THREADS)):
        found = _read(latents, [part for part, _ in some], ["key"] if prompts or masks else [])
        for (part, rows), (_, table) in zip(some, found, strict=True):
            keys = [] if table is None else table["key"].take(pa.array(rows)).to_pylist()
            listed = {
                name: [list(of(key).items()) for key in keys] if of else [None] * len(rows)
                for name, of in (("prompts", prompts), ("masks", masks))
            }
            columns = {"row": pa.array(rows, pa.int64()), **listed, "mask_files": [None] * len(rows)}
            yield part, pa.table(columns, schema=ROWS)


@dataclass(frozen=True)
class Planning:
    """The input of an edit's plan: the selected latent rows, their prompts and masks in tables, and the size of units.

    A row gives `per_caption` images, and one more for each prompt that tables list for it.
    """

    latents: Store
    wanted: Selection
    batch_size: int
    workers: int
    prompts: Listed = None
    masks: Listed = None
    mask_files: MaskFiles = None
    per_caption: int = 1

    def cut(self, sources: Sequence[Source], listed: int = 0) -> list[Unit]:
        """Cut planned rows into units. `listed` is the number of prompts that tables list for them."""
        return cut(sources, self.batch_size, self.workers, per_row=images_per_row(sources, self.per_caption, listed))


def plan_rows(store: Store, name: str, planning: Planning) -> list[Unit]:
    """Write which rows of each part are wanted, and cut them into units: each is a slice of the rows of one part.

    Every driver that plans the same job writes the same files, under this `name`.

    Raises the errors of `select`, SelectionError if no row is selected, and StorageError if a mask file cannot be read.
    """
    parts = parts_of(planning.latents)
    tables = planned(planning.latents, parts, planning.wanted, planning.prompts, planning.masks)
    sources, listed = _write_rows(store, name, planning, tables)
    if not sources:
        raise SelectionError(no_row(planning.latents, parts))
    write_parts(store, name, parts)
    return planning.cut(sources, listed)


def count_listed(rows: pa.Table) -> int:
    """Count the prompts that tables list for planned rows (schemas.plan.ROWS)."""
    return sum(len(chunk.keys) for chunk in rows["prompts"].chunks)


def images_per_row(sources: Sequence[Source], per_caption: int, listed: int) -> float:
    """Return the number of images per row: one per variant made from captions, and the mean number that tables list."""
    return per_caption + listed / max(1, sum(count for _, count, _, _ in sources))


def extend_plan(store: Store, job: JobRecord, planning: Planning) -> None:
    """Plan the rows that were added to a latent store after the edit in `store` was planned, as further units.

    `job` is its job.json. Rows are added by retries, and by units that are made again after a repair. Raises StoreError
    if a repair changed rows that are planned but not edited yet, and the errors of `plan_rows`, except for a missing
    key or row.
    """
    name, latents = job.rows, planning.latents
    while True:  # another driver may extend the plan at the same time
        unplanned, lost = compare_latents(store, job, latents)
        if lost:
            raise StoreError(missing_rows(latents.location, lost))
        if not unplanned:
            return
        if name is None:
            sliced = [(part, run) for part, places in unplanned for run in runs(places)]
            sources = [(path, len(run), size, version) for (path, _, size, version), run in sliced]
            firsts, listed = [run.start for _, run in sliced], 0
        else:
            parts = [part for part, _ in unplanned]
            tables = planned(latents, parts, planning.wanted, planning.prompts, planning.masks, whole=False)
            sources, listed = _write_rows(store, name, planning, _at(tables, dict(unplanned)))
            firsts = [0] * len(sources)
            taken = {path for path, _, _, _ in sources}
            for part in parts:
                if part[0] not in taken:  # written although empty, so that the part is not new to the next run
                    write_rows(store, name, part, ROWS.empty_table())
        if sources:
            extension, units = extensions(store) + 1, read_units(store)
            number, ordinal = len(units), units[-1].ordinal + 1 if units else 0
            further = [
                replace(
                    unit,
                    unit=f"{number + i:08d}",
                    ordinal=ordinal + unit.ordinal,
                    first=firsts[unit.ordinal] + unit.first,
                )
                for i, unit in enumerate(planning.cut(sources, listed))
            ]
            write_units(store, further, extension)


def _at(
    tables: Iterator[tuple[Source, pa.Table]], unplanned: Mapping[Source, Sequence[int]]
) -> Iterator[tuple[Source, pa.Table]]:
    """Keep the planned rows at the given positions of their parts, and leave out parts that have none."""
    for part, rows in tables:
        rows = rows.filter(pc.is_in(rows["row"], pa.array(unplanned[part], pa.int64())))
        if rows.num_rows:
            yield part, rows


def _write_rows(
    store: Store, name: str, planning: Planning, tables: Iterator[tuple[Source, pa.Table]]
) -> tuple[list[Source], int]:
    """Write the planned rows of parts. Return the parts with their numbers of rows, and the count of listed prompts."""

    def write(item: tuple[Source, pa.Table]) -> Source:
        part, rows = item
        write_rows(store, name, part, _with_mask_files(planning, part, rows))
        return part[0], rows.num_rows, part[2], part[3]

    sources, listed = list[Source](), 0
    with ThreadPoolExecutor(READ_THREADS) as pool:
        while some := list(islice(tables, READ_THREADS)):
            sources += pool.map(write, some)
            listed += sum(count_listed(rows) for _, rows in some)
    return sources, listed


def _with_mask_files(planning: Planning, part: Source, rows: pa.Table) -> pa.Table:
    """Return planned rows of a part with the digests of their mask files, if they have any."""
    if (mask_files := planning.mask_files) is None:
        return rows
    texts = read_columns(planning.latents, part, ["key", "caption"]).take(rows["row"]).to_pylist()
    templates = [
        (text["key"], mask_files(text["caption"], dict(prompts or ())))
        for text, prompts in zip(texts, rows["prompts"].to_pylist(), strict=True)
    ]
    # several edits may use the same file
    wanted = list({(template, key) for key, of_row in templates for template in of_row.values()})
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = dict(zip(wanted, pool.map(lambda file: mask_digest(*file), wanted), strict=True))
    digests = [[(edit, found[template, key]) for edit, template in of_row.items()] for key, of_row in templates]
    column = ROWS.field("mask_files")
    return rows.set_column(rows.schema.get_field_index(column.name), column, [pa.array(digests, column.type)])


def no_row(latents: Store, parts: Sequence[Source]) -> str:
    """What is said of a selection that takes nothing."""
    rows = sum(count for _, count, _, _ in parts)
    return f"where, keys: not one of the {rows} rows of {latents.location} is what they ask for; nothing was run"


def _filtered(latents: Store, parts: Sequence[Source], wanted: Selection, whole: bool) -> Iterator[Chosen]:
    """The rows that `where` and `keys` leave of every part."""
    import duckdb  # A job that takes every row does not need it.

    columns = set(columns_of(wanted.where) if wanted.where else [])
    columns |= {"key"} if wanted.keys else set()
    columns |= {"key", "shard"} if wanted.sample else set()
    missing = set(wanted.keys or ())
    with sandbox() as connection:
        for part, table in _read(latents, parts, sorted(columns)):
            rows: Sequence[int] = range(part[1])
            if wanted.where is not None:
                table = pa.table({"row": rows}) if table is None else table
                try:
                    rows = matching_rows(connection, wanted.where, table)
                except duckdb.Error as error:
                    raise SelectionError(
                        f"where: {wanted.where!r} fails on a row of {latents.location}: {part[0]}: "
                        f"{error_reason(error)}"
                    ) from error
            if wanted.keys is not None and table is not None:
                keys = table["key"].to_pylist()
                missing.difference_update(keys)
                rows = [row for row in rows if keys[row] in wanted.keys]
            yield part, rows, table
    if missing and whole:
        if wanted.lines is None:
            shown = list(map(repr, sorted(missing)))
            some = "the key" if len(missing) == 1 else f"{len(missing)} of the keys:"
        else:  # a file's content is not repeated: it may be any file that the driver can read
            shown = list(map(str, sorted(wanted.lines[key] for key in missing)))
            some = f"{len(missing)} of the {len(wanted.lines)} keys of the file, on lines"
        few = ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
        raise SelectionError(f"keys: {latents.location} does not have {some} {few}; correct the list of keys")


def _sampled(chosen: Iterator[Chosen], sample: SampleSpec) -> Iterator[Chosen]:
    """The rows whose hash with the seed is least: the same of the same rows, however they lie in parts."""
    parts = list[Source]()

    def ranked() -> Iterator[tuple[bytes, int, int]]:
        for number, (part, rows, table) in enumerate(chosen):
            parts.append(part)
            if rows and table is not None:
                keys, shards = table["key"].to_pylist(), table["shard"].to_pylist()
                for row in rows:
                    name = f"{sample.seed}\0{posixpath.basename(shards[row])}\0{keys[row]}"
                    yield blake2b(name.encode(), digest_size=16).digest(), number, row

    drawn: dict[int, list[int]] = {}
    for _, number, row in heapq.nsmallest(sample.count, ranked()):
        drawn.setdefault(number, []).append(row)
    for number in sorted(drawn):
        yield parts[number], sorted(drawn[number]), None


def _read(latents: Store, parts: Sequence[Source], columns: Sequence[str]) -> Iterator[tuple[Source, pa.Table | None]]:
    """Columns of each part, a few parts ahead; None where no columns are wanted."""
    if not columns:
        yield from ((part, None) for part in parts)
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for first in range(0, len(parts), READ_THREADS):
            some = parts[first : first + READ_THREADS]
            yield from zip(some, pool.map(lambda part: read_columns(latents, part, columns), some), strict=True)


def _read_keys(location: str) -> dict[str, int]:
    """The keys of a file, each with the number of its first line."""
    try:
        text = read_file(location, KEYS_BYTES).decode("utf-8-sig")
    except StorageError as error:
        raise SelectionError(f"keys: {error}") from error
    except UnicodeDecodeError as error:
        raise SelectionError(f"keys: {location} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    keys: dict[str, int] = {}
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if key := line.strip():
            keys.setdefault(key, number)
            if len(keys) > KEYS:
                raise SelectionError(f"keys: {location} has more than {KEYS:,} keys; select rows with `where` instead")
    if not keys:
        raise SelectionError(f"keys: {location} is empty; expected a key a line")
    return keys
