"""Find the keys that are in several shards, among any number of keys, in bounded memory."""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "512MB"  # for DuckDB, which writes the rest to a temporary folder: some 3 GB there for 10^8 keys
GROUPED = 5_000_000  # keys that are grouped at a time: DuckDB cannot group 10^8 keys in this memory


class KeyTable:
    """The keys of many shards. Several threads may add keys at the same time."""

    def __init__(self, connection: "DuckDBPyConnection") -> None:
        self._connection = connection
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
        ((rows,),) = self._connection.execute("SELECT count(*) FROM keys").fetchall()
        passes = rows // GROUPED + 1
        for number in range(passes):
            self._connection.execute(
                "INSERT INTO repeated SELECT key FROM keys WHERE hash(key) % ? = ? GROUP BY key"
                " HAVING min(shard) <> max(shard)",
                [passes, number],
            )
        ((count,),) = self._connection.execute("SELECT count(*) FROM repeated").fetchall()
        found = self._connection.execute(
            "SELECT key, min(name), max(name) FROM keys SEMI JOIN (FROM repeated ORDER BY key LIMIT ?) USING (key)"
            " JOIN shards USING (shard) GROUP BY key ORDER BY key",
            [count if limit is None else limit],
        )
        return count, found.fetchall()


@contextmanager
def key_table() -> Iterator[KeyTable]:
    """Open an empty table of keys. Its temporary files are removed with the context."""
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        config: Any = {"memory_limit": MEMORY, "temp_directory": folder, "preserve_insertion_order": False}
        with duckdb.connect(config=config) as connection:
            yield KeyTable(connection)
