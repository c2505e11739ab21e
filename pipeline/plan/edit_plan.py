"""The plan of an edit: the selected rows with their prompts and masks from tables, cut into units.

The selection is written once, when the job is planned. Rows that are added to the latent store later are planned as
further units.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.io.masks import mask_digest
from pipeline.plan.latent_changes import Unplanned, compare_latents, contiguous_ranges, missing_rows_message
from pipeline.plan.selection import Selection, SelectionError, no_rows_message, read_parts_ahead, select
from pipeline.plan.units import cut
from pipeline.store.errors import StoreError
from pipeline.store.files import READ_THREADS
from pipeline.store.latents import read_columns
from pipeline.store.plan import Source, Unit, extensions, parts_of, read_units, write_parts, write_rows, write_units
from pipeline.store.store import Store
from schemas.job import JobRecord
from schemas.plan import ROWS

TableLookup = Callable[[str], Mapping[str, Any]] | None
"""The function that returns the prompts, or the masks, that tables list for a key, by variant; None without tables."""

MaskFiles = Callable[[str, Mapping[str, str]], Mapping[str, str]] | None
"""The function that returns the templates of a row's mask files, by variant; None if no edit has mask files.

Its arguments are the row's caption, and the prompts that tables list for it.
"""


@dataclass(frozen=True)
class PlanInput:
    """The input of an edit's plan: the selected latent rows, their prompts and masks in tables, and the size of units.

    A row gives `per_caption` images, and one more for each prompt that tables list for it.
    """

    latents: Store
    selection: Selection
    batch_size: int
    workers: int
    prompts: TableLookup = None
    masks: TableLookup = None
    mask_files: MaskFiles = None
    per_caption: int = 1

    def cut(self, sources: Sequence[Source], listed_prompts: int = 0) -> list[Unit]:
        """Cut planned rows into units. `listed_prompts` is the number of prompts that tables list for them."""
        per_row = images_per_row(sources, self.per_caption, listed_prompts)
        return cut(sources, self.batch_size, self.workers, per_row=per_row)

    def rows(self, parts: Sequence[Source], *, whole: bool = True) -> Iterator[tuple[Source, pa.Table]]:
        """Yield the selected rows of parts. See `selected_rows`."""
        return selected_rows(self.latents, parts, self.selection, self.prompts, self.masks, whole=whole)


def selected_rows(
    latents: Store,
    parts: Sequence[Source],
    selection: Selection,
    prompts: TableLookup,
    masks: TableLookup,
    *,
    whole: bool = True,
) -> Iterator[tuple[Source, pa.Table]]:
    """Yield the selected rows, part by part, as tables of schemas.plan.ROWS without the digests of mask files.

    Raises:
        SelectionError: See `select`.
        StoreError: See `select`.
    """
    selected = select(latents, parts, selection, whole=whole)
    while chunk := list(islice(selected, READ_THREADS)):
        found = read_parts_ahead(latents, [part for part, _ in chunk], ["key"] if prompts or masks else [])
        for (part, rows), (_, table) in zip(chunk, found, strict=True):
            keys = [] if table is None else table["key"].take(pa.array(rows)).to_pylist()
            listed = {
                name: [list(lookup(key).items()) for key in keys] if lookup else [None] * len(rows)
                for name, lookup in (("prompts", prompts), ("masks", masks))
            }
            columns = {"row": pa.array(rows, pa.int64()), **listed, "mask_files": [None] * len(rows)}
            yield part, pa.table(columns, schema=ROWS)


def plan_rows(store: Store, name: str, plan_input: PlanInput) -> list[Unit]:
    """Write the selected rows of each part, and cut them into units. Each unit is a slice of the rows of one part.

    Every driver that plans the same job writes the same files, under this `name`.

    Raises:
        SelectionError: No row is selected, or see `select`.
        StoreError: See `select`.
        StorageError: A mask file cannot be read.
    """
    parts = parts_of(plan_input.latents)
    sources, listed_prompts = _write_rows(store, name, plan_input, plan_input.rows(parts))
    if not sources:
        raise SelectionError(no_rows_message(plan_input.latents, parts))
    write_parts(store, name, parts)
    return plan_input.cut(sources, listed_prompts)


def extend_plan(store: Store, job: JobRecord, plan_input: PlanInput) -> None:
    """Plan the rows that were added to a latent store after the edit in `store` was planned, as further units.

    `job` is its job.json. Rows are added by retries, and by units that are made again after a repair.

    Raises:
        StoreError: A repair changed rows that are planned but not edited yet, or see `select`.
        SelectionError: `where` fails on a row.
        StorageError: A mask file cannot be read.
    """
    latents = plan_input.latents
    while True:  # Another driver may extend the plan at the same time.
        unplanned, unfinished = compare_latents(store, job, latents)
        if unfinished:
            raise StoreError(missing_rows_message(latents.location, unfinished))
        if not unplanned:
            return
        if job.rows is None:
            sources, firsts, listed_prompts = *_slices(unplanned), 0
        else:
            sources, listed_prompts = _write_unplanned(store, job.rows, plan_input, unplanned)
            firsts = [0] * len(sources)
        if sources:
            _write_extension(store, plan_input.cut(sources, listed_prompts), firsts)


def count_listed_prompts(rows: pa.Table) -> int:
    """Count the prompts that tables list for planned rows (schemas.plan.ROWS)."""
    return sum(len(chunk.keys) for chunk in rows["prompts"].chunks)


def images_per_row(sources: Sequence[Source], per_caption: int, listed_prompts: int) -> float:
    """Return the number of images per row: one per variant made from captions, and the mean number that tables list."""
    return per_caption + listed_prompts / max(1, sum(count for _, count, _, _ in sources))


def _slices(unplanned: Unplanned) -> tuple[list[Source], list[int]]:
    """Return unplanned rows as slices of parts, and the first row of each slice in its part."""
    slices = [(part, rows) for part, positions in unplanned for rows in contiguous_ranges(positions)]
    sources = [(path, len(rows), size, version) for (path, _, size, version), rows in slices]
    return sources, [rows.start for _, rows in slices]


def _write_unplanned(store: Store, name: str, plan_input: PlanInput, unplanned: Unplanned) -> tuple[list[Source], int]:
    """Write the selected rows of parts with unplanned rows, as `_write_rows` does.

    A part without a selected row gets an empty file, so that the next run does not take it for new.
    """
    parts = [part for part, _ in unplanned]
    tables = _only(plan_input.rows(parts, whole=False), dict(unplanned))
    sources, listed_prompts = _write_rows(store, name, plan_input, tables)
    with_rows = {path for path, _, _, _ in sources}
    for part in parts:
        if part[0] not in with_rows:
            write_rows(store, name, part, ROWS.empty_table())
    return sources, listed_prompts


def _write_extension(store: Store, units: Sequence[Unit], firsts: Sequence[int]) -> None:
    """Write further units of a planned store. `firsts` has the first row of each of their sources."""
    extension, present = extensions(store) + 1, read_units(store)
    number, ordinal = len(present), present[-1].ordinal + 1 if present else 0
    further = [
        replace(
            unit,
            unit=f"{number + i:08d}",
            ordinal=ordinal + unit.ordinal,
            first=firsts[unit.ordinal] + unit.first,
        )
        for i, unit in enumerate(units)
    ]
    write_units(store, further, extension)


def _only(
    tables: Iterator[tuple[Source, pa.Table]], positions: Mapping[Source, Sequence[int]]
) -> Iterator[tuple[Source, pa.Table]]:
    """Keep the planned rows at these positions of their parts, and leave out parts that have none."""
    for part, rows in tables:
        rows = rows.filter(pc.is_in(rows["row"], pa.array(positions[part], pa.int64())))
        if rows.num_rows:
            yield part, rows


def _write_rows(
    store: Store, name: str, plan_input: PlanInput, tables: Iterator[tuple[Source, pa.Table]]
) -> tuple[list[Source], int]:
    """Write the planned rows of parts. Return the parts with their numbers of rows, and the count of listed prompts."""

    def write(item: tuple[Source, pa.Table]) -> Source:
        part, rows = item
        write_rows(store, name, part, _with_mask_files(plan_input, part, rows))
        return part[0], rows.num_rows, part[2], part[3]

    sources, listed_prompts = list[Source](), 0
    with ThreadPoolExecutor(READ_THREADS) as pool:
        while chunk := list(islice(tables, READ_THREADS)):
            sources += pool.map(write, chunk)
            listed_prompts += sum(count_listed_prompts(rows) for _, rows in chunk)
    return sources, listed_prompts


def _with_mask_files(plan_input: PlanInput, part: Source, rows: pa.Table) -> pa.Table:
    """Return planned rows of a part with the digests of their mask files, if they have any."""
    if (mask_files := plan_input.mask_files) is None:
        return rows
    texts = read_columns(plan_input.latents, part, ["key", "caption"]).take(rows["row"]).to_pylist()
    templates = [
        (text["key"], mask_files(text["caption"], dict(prompts or ())))
        for text, prompts in zip(texts, rows["prompts"].to_pylist(), strict=True)
    ]
    # Several edits may use the same file.
    files = list({(template, key) for key, of_row in templates for template in of_row.values()})
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = dict(zip(files, pool.map(lambda file: mask_digest(*file), files), strict=True))
    digests = [[(edit, found[template, key]) for edit, template in of_row.items()] for key, of_row in templates]
    column = ROWS.field("mask_files")
    return rows.set_column(rows.schema.get_field_index(column.name), column, [pa.array(digests, column.type)])
