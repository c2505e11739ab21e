"""Read exactly the committed rows of a store, even while its job runs."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.store.files import read_table
from pipeline.store.parts import ROW_GROUP
from pipeline.store.plan import part_sources
from pipeline.store.store import Store


class NoColumn(JobError):
    """The rows of a store do not have a requested column."""


def read_rows(location: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the committed rows of a store, unit by unit, with the columns of schemas.latents or schemas.edits.

    If `columns` are given, the batches have only these, in this order. One part is in memory at a time. Its sha256 is
    not compared; `edict verify` does that.

    Raises:
        StoreError: There is no store, or a part is absent or damaged.
        NoColumn: A column does not exist.
    """
    store = Store(location)
    store.job()
    for commit in store.commits():
        for path, *_ in part_sources(store, commit):
            table = read_table(store.get(path), f"{location}: {path}")
            if columns is not None:
                if unknown := [name for name in columns if name not in table.column_names]:
                    present = ", ".join(table.column_names)
                    raise NoColumn(f"{location} has no column {unknown[0]!r}; its columns are {present}")
                table = table.select(list(columns))
            yield from table.to_batches(ROW_GROUP)
