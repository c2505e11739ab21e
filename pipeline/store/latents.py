"""Read the rows of a latent store, checked, with their noise pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.errors import REPAIR, StoreError
from pipeline.store.files import read_table
from pipeline.store.parts import from_stored, to_pair
from pipeline.store.paths import COMMIT, unit_of
from pipeline.store.plan import Source, Unit, part_sources, parts_of_unit, read_planned_rows
from pipeline.store.store import Store
from schemas.latents import FINGERPRINT, read_footer

if TYPE_CHECKING:
    from edict.pair import Pair
    from edict.schedule import Schedule


@dataclass(frozen=True)
class Latents:
    """Rows of a part: the `table` as stored, and its noise `pair`."""

    table: pa.Table
    pair: Pair

    def column(self, name: str) -> list[Any]:
        """Return the values of one column."""
        values: list[Any] = self.table[name].to_pylist()
        return values

    @property
    def slots(self) -> list[int]:
        """The slot of each row in its batch: the slot of its inversion modulo the batch size of the pair."""
        return [slot % self.pair.batch_size for slot in self.column("slot")]

    @cached_property
    def prompts(self) -> list[dict[str, str]]:
        """The prompts of each row from tables, by the name of the edit."""
        return self._listed("prompts")

    @cached_property
    def masks(self) -> list[dict[str, list[int]]]:
        """The masks of each row from tables, by the name of the edit, as runs (schemas.plan.ROWS)."""
        return self._listed("masks")

    @cached_property
    def mask_files(self) -> list[dict[str, str | None]] | None:
        """The sha256 of each row's mask files by the name of the edit, None if a file was absent at planning.

        The whole is None in plans of earlier versions.
        """
        return self._listed("mask_files") if "mask_files" in self.table.column_names else None

    def _listed(self, name: str) -> list[dict[str, Any]]:
        if name not in self.table.column_names:
            return [{}] * len(self.table)
        return [dict(listed or ()) for listed in self.column(name)]


def read_edit_rows(store: Store, rows: str | None, latents: Store, unit: Unit) -> Latents:
    """Read the latent rows of a unit of the edit in `store`: the planned rows, or a slice of a part.

    `rows` is the field of the edit's job.json.

    Raises:
        StoreError: The planned rows or the part are missing, damaged or changed.
    """
    planned = None if rows is None else read_planned_rows(store, rows, unit)
    return read_latents(latents, find_part(latents, unit), planned)


def find_part(latents: Store, unit: Unit) -> Unit:
    """Return a unit of an edit with the name of the part that has its planned content now.

    A latent unit that was made again after `edict verify --repair` has parts with other names. Their content is the
    same if the rows have the same bits.

    Raises:
        StoreError: No part of the latent unit has the planned content.
    """
    if latents.has(unit.source):
        return unit
    for path, _, _, version in parts_of_unit(latents, unit_of(unit.source)):
        if version == unit.version:
            return replace(unit, source=path)
    raise StoreError(
        f"{latents.location}: {unit.source} and its content do not exist, because the latent store was repaired after "
        "this edit was planned, and its rows changed; give the edit another output"
    )


def read_latents(store: Store, unit: Unit, planned: pa.Table | None = None) -> Latents:
    """Read the rows of a unit of parts, after checking the part's sha256 and page checksums.

    The rows are the slice of the part, or the rows that are `planned` for the unit (schemas.plan.ROWS). Those have also
    `prompts`, `masks` and `mask_files`. For a unit of an edit, `read_edit_rows` finds the planned rows.

    Raises:
        StoreError: The part does not exist, is damaged, or is not the committed one.
    """
    name = f"{store.location}: {unit.source}"
    whole = read_table(store.get_committed(unit.source, unit.version), name)
    _check_fingerprint(store, unit.source, whole.schema)
    whole = _with_slots(whole)
    if planned is None:
        table = whole.slice(unit.first, unit.count)
        if table.num_rows != unit.count:
            raise StoreError(f"{name} lacks rows {unit.first} to {unit.first + unit.count} of its commit; {REPAIR}")
    else:
        if (last := pc.max(planned["row"]).as_py()) >= whole.num_rows:
            raise StoreError(f"{name} lacks row {last} of the plan; give the edit another output")
        table = whole.take(planned["row"])
        for name in planned.column_names[1:]:
            table = table.append_column(name, planned[name])
    return Latents(table, to_pair(table))


def _check_fingerprint(store: Store, path: str, schema: pa.Schema) -> None:
    """Check that the store's job made a part.

    Raises:
        StoreError: The part has the fingerprint of another job.
    """
    if json.loads((schema.metadata or {}).get(FINGERPRINT, "null")) != store.fingerprint:
        raise StoreError(
            f"{store.location}: {path} was made by another job (its fingerprint differs from job.json); {REPAIR}"
        )


def _with_slots(part: pa.Table) -> pa.Table:
    """Return a whole part with the column `slot`, which parts of earlier versions lack.

    Their rows were inverted in batches in the order of the part.
    """
    if "slot" in part.column_names:
        return part
    batch_size = read_footer(part.schema.metadata).batch_size
    slots = pa.array([row % batch_size for row in range(part.num_rows)], pa.int32())
    return part.append_column(pa.field("slot", pa.int32(), nullable=False), slots)


def stored_schedule(store: Store) -> Schedule | None:
    """Return the schedule of a latent store from the footer of one part; None if the store has no rows."""
    for path in store.names("commits"):
        if found := COMMIT.fullmatch(path):
            for part, *_ in part_sources(store, store.read_commit(found[1])):
                with store.parquet(part) as file:
                    return from_stored(read_footer(file.schema_arrow.metadata).schedule)
    return None


def read_columns(store: Store, part: Source, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a part by range requests. The states x and y are most of its bytes.

    Page checksums are checked. The sha256 is not checked, because it needs the whole part.

    Raises:
        StoreError: The part does not exist, is damaged, or belongs to another job.
    """
    path, rows, _, _ = part
    with store.parquet(path) as file:
        _check_fingerprint(store, path, file.schema_arrow)
        table = file.read(list(columns), use_threads=False)
    if table.num_rows != rows:
        raise StoreError(f"{store.location}: {path} has {table.num_rows} rows, and its commit has {rows}; {REPAIR}")
    return table
