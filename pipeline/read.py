"""Read the rows of a store by its commits: exactly the data, also while its job runs."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.parts import ROW_GROUP
from pipeline.plan import part_sources
from pipeline.store import Store, read_table


class NoColumn(JobError):
    """A column that the rows of a store do not have."""


def read_rows(location: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the committed rows of a store in batches, unit by unit: of schemas.latents, or schemas.edits for an edit.

    If `columns` are given, the batches have only these, in their order. One part is in memory at a time. Its sha256 is
    not compared; `edict verify` does that.

    Raises StoreError if it is not a store, or a part is absent or damaged; NoColumn.
    """
    store = Store(location)
    store.job()
    for commit in store.commits():
        for path, *_ in part_sources(store, commit):
            table = read_table(store.get(path), f"{location}: {path}")
            if columns is not None:
                if unknown := [name for name in columns if name not in table.column_names]:
                    had = ", ".join(table.column_names)
                    raise NoColumn(f"{location} has no column {unknown[0]!r}; its columns are {had}")
                table = table.select(list(columns))
            yield from table.to_batches(ROW_GROUP)
