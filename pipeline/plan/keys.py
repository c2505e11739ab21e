"""Keys that occur in several shards: find them among any number of keys, in bounded memory."""

import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import JobError
from schemas.errors import first_line

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "512MB"  # DuckDB's limit; it writes the rest to a temporary folder: about 3 GB for 10^8 keys
GROUP_SIZE = 5_000_000  # keys that are grouped at a time, because DuckDB cannot group 10^8 keys in this memory


class KeysError(JobError):
    """The keys of a job cannot be compared, because memory or disk is short."""


class KeyTable:
    """The keys of many shards. Several threads may add keys at the same time."""

    def __init__(self, connection: "DuckDBPyConnection", folder: Path) -> None:
        self._connection = connection
        self._folder = folder
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        connection.execute("CREATE TABLE keys (key VARCHAR, shard INTEGER)")

    def add(self, shard: str, keys: Sequence[str]) -> None:
        """Add keys of a shard. The same key of the same shard may be added several times."""
        with self._lock:
            number = self._numbers.setdefault(shard, len(self._numbers))
            self._connection.register("added", pa.table({"key": pa.array(keys, pa.string())}))
            self._connection.execute("INSERT INTO keys SELECT key, ? FROM added", [number])

    def repeated(self, limit: int | None = None) -> tuple[int, list[tuple[str, str, str]]]:
        """Return the number of keys that several shards have, and the first `limit` of these keys, or all of them.

        Each comes with the first and the last of its shards, by name.
        """
        numbers, names = list(self._numbers.values()), list(self._numbers)
        self._connection.register("shards", pa.table({"shard": pa.array(numbers, pa.int32()), "name": names}))
        self._connection.execute("CREATE OR REPLACE TABLE repeated (key VARCHAR)")
        for group in self._groups():
            self._connection.execute(
                f"INSERT INTO repeated SELECT key FROM {group} GROUP BY key HAVING min(shard) <> max(shard)"
            )
        ((count,),) = self._connection.execute("SELECT count(*) FROM repeated").fetchall()
        found = self._connection.execute(
            "SELECT key, min(name), max(name) FROM keys SEMI JOIN (FROM repeated ORDER BY key LIMIT ?) USING (key)"
            " JOIN shards USING (shard) GROUP BY key ORDER BY key",
            [count if limit is None else limit],
        )
        return count, found.fetchall()

    def _groups(self) -> Iterator[str]:
        """Yield tables of about GROUP_SIZE rows each; all rows of a key are in one of them."""
        ((rows,),) = self._connection.execute("SELECT count(*) FROM keys").fetchall()
        if rows <= GROUP_SIZE:
            yield "keys"
            return
        groups = self._folder / "groups"
        self._connection.execute(
            f"COPY (SELECT key, shard, hash(key) % {rows // GROUP_SIZE + 1} AS number FROM keys)"
            f" TO '{groups}' (FORMAT parquet, PARTITION_BY (number))"
        )
        for group in sorted(groups.iterdir()):
            yield f"read_parquet('{group}/*.parquet', hive_partitioning = false)"
            shutil.rmtree(group)


@contextmanager
def key_table() -> Iterator[KeyTable]:
    """Open an empty table of keys. Its temporary files are removed with the context.

    Raises:
        KeysError: DuckDB fails, for example because the disk is full.
    """
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        config: Any = {"memory_limit": MEMORY, "temp_directory": folder, "preserve_insertion_order": False}
        try:
            with duckdb.connect(config=config) as connection:
                yield KeyTable(connection, Path(folder))
        except duckdb.Error as error:
            raise KeysError(
                f"the search for keys that repeat across shards failed in {tempfile.gettempdir()}: "
                f"{first_line(error)}. Set TMPDIR to a folder with more space, about 6 GB for 10^8 keys"
            ) from error
