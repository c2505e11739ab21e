"""Select the rows of a latent store that an edit takes."""

import heapq
import io
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from typing import Any

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.io.errors import StorageError
from pipeline.io.storage import read_file
from pipeline.store.files import READ_THREADS
from pipeline.store.latents import read_columns
from pipeline.store.plan import Source
from pipeline.store.store import Store
from schemas.specs import EditSpec, SampleSpec
from schemas.where import columns_of, error_reason, matching_rows, sandbox

MAX_KEY_FILE_BYTES = 512 << 20
MAX_KEYS = 10_000_000  # per key file; a key takes about 200 bytes of memory

SelectedRows = tuple[Source, Sequence[int], pa.Table | None]
"""A part, the positions of its selected rows, and the columns that were read of all its rows (None: none)."""


class SelectionError(JobError):
    """A selection that the latent store cannot satisfy. The message names the field of the spec."""


@dataclass(frozen=True)
class Selection:
    """The selection of an EditSpec. If its keys are in a file, `lines` has the line number of each key."""

    where: str | None
    keys: frozenset[str] | None
    sample: SampleSpec | None
    limit: int | None
    lines: Mapping[str, int] | None = field(default=None, compare=False)

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that determine the rows. They are short even for a million keys."""
        keys = None if self.keys is None else sha256("\n".join(sorted(self.keys)).encode()).hexdigest()
        sample = None if self.sample is None else self.sample.model_dump()
        return {"where": self.where, "keys": keys, "sample": sample, "limit": self.limit}


def read_selection(spec: EditSpec) -> Selection:
    """Return the selection of a spec, with the keys of its file.

    Raises:
        SelectionError: The file of keys cannot be read or has no key.
    """
    lines = _read_keys(spec.keys) if isinstance(spec.keys, str) else None
    keys = spec.keys if lines is None else lines
    return Selection(spec.where, None if keys is None else frozenset(keys), spec.sample, spec.limit, lines)


def select(
    latents: Store, parts: Sequence[Source], selection: Selection, *, whole: bool = True
) -> Iterator[tuple[Source, Sequence[int]]]:
    """Yield the parts that have selected rows, in order, each with the positions of these rows.

    Parts are read one after the other, and only the columns that the selection uses. `whole` is true if `parts` are all
    parts of the store.

    Raises:
        SelectionError: `where` fails on a row, or the whole store lacks a key.
        StoreError: A part is damaged.
    """
    parts = sorted(parts)  # in the order of their units, because commits are read in any order
    selected = _filtered(latents, parts, selection, whole)
    if selection.sample is not None:
        selected = _sampled(selected, selection.sample)
    left = selection.limit
    for part, rows, _ in selected:
        taken = rows if left is None else rows[:left]
        if taken:
            yield part, taken
        if left is not None:
            left -= len(taken)
            if left == 0 and selection.keys is None:  # with keys, the other parts are searched for missing keys
                return


def no_rows_message(latents: Store, parts: Sequence[Source]) -> str:
    """Return the error message for a selection without rows."""
    rows = sum(count for _, count, _, _ in parts)
    return f"where, keys: no rows match ({rows} rows in {latents.location}), so nothing was run; change the selection"


def read_parts_ahead(
    latents: Store, parts: Sequence[Source], columns: Sequence[str]
) -> Iterator[tuple[Source, pa.Table | None]]:
    """Yield each part with these columns of its rows, reading a few parts ahead; None if there are no `columns`."""
    if not columns:
        yield from ((part, None) for part in parts)
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for first in range(0, len(parts), READ_THREADS):
            chunk = parts[first : first + READ_THREADS]
            yield from zip(chunk, pool.map(lambda part: read_columns(latents, part, columns), chunk), strict=True)


def _filtered(latents: Store, parts: Sequence[Source], selection: Selection, whole: bool) -> Iterator[SelectedRows]:
    """Yield every part with its rows that match `where` and `keys`."""
    import duckdb  # A job that takes every row does not need it.

    columns = set(columns_of(selection.where) if selection.where else [])
    columns |= {"key"} if selection.keys else set()
    columns |= {"key", "shard"} if selection.sample else set()
    missing = set(selection.keys or ())
    with sandbox() as connection:
        for part, table in read_parts_ahead(latents, parts, sorted(columns)):
            rows: Sequence[int] = range(part[1])
            if selection.where is not None:
                table = pa.table({"row": rows}) if table is None else table
                try:
                    rows = matching_rows(connection, selection.where, table)
                except duckdb.Error as error:
                    raise SelectionError(
                        f"where: {selection.where!r} fails on a row of {latents.location}: {part[0]}: "
                        f"{error_reason(error)}"
                    ) from error
            if selection.keys is not None and table is not None:
                keys = table["key"].to_pylist()
                missing.difference_update(keys)
                rows = [row for row in rows if keys[row] in selection.keys]
            yield part, rows, table
    if missing and whole:
        raise SelectionError(_missing_keys_message(latents, selection, missing))


def _missing_keys_message(latents: Store, selection: Selection, missing: set[str]) -> str:
    """Return the error message for keys that the store lacks.

    It has no content of a file, because the file may be any that the driver can read.
    """
    if selection.lines is None:
        shown = list(map(repr, sorted(missing)))
        missing_keys = "the key" if len(missing) == 1 else f"{len(missing)} of the keys:"
    else:
        shown = list(map(str, sorted(selection.lines[key] for key in missing)))
        missing_keys = f"{len(missing)} of the {len(selection.lines)} keys of the file, on lines"
    few = ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
    return f"keys: {latents.location} does not have {missing_keys} {few}; correct the list of keys"


def _sampled(selected: Iterator[SelectedRows], sample: SampleSpec) -> Iterator[SelectedRows]:
    """Yield the rows with the smallest hashes of seed, shard and key. They do not depend on the cut into parts."""
    parts = list[Source]()

    def ranked() -> Iterator[tuple[bytes, int, int]]:
        for number, (part, rows, table) in enumerate(selected):
            parts.append(part)
            if rows and table is not None:
                keys, shards = table["key"].to_pylist(), table["shard"].to_pylist()
                for row in rows:
                    name = f"{sample.seed}\0{posixpath.basename(shards[row])}\0{keys[row]}"
                    yield blake2b(name.encode(), digest_size=16).digest(), number, row

    rows_of: dict[int, list[int]] = {}
    for _, number, row in heapq.nsmallest(sample.count, ranked()):
        rows_of.setdefault(number, []).append(row)
    for number in sorted(rows_of):
        yield parts[number], sorted(rows_of[number]), None


def _read_keys(location: str) -> dict[str, int]:
    """Return the keys of a file, each with the number of its first line. Raises SelectionError."""
    try:
        text = read_file(location, MAX_KEY_FILE_BYTES).decode("utf-8-sig")
    except StorageError as error:
        raise SelectionError(f"keys: {error}") from error
    except UnicodeDecodeError as error:
        raise SelectionError(f"keys: {location} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    keys: dict[str, int] = {}
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if key := line.strip():
            keys.setdefault(key, number)
            if len(keys) > MAX_KEYS:
                raise SelectionError(
                    f"keys: {location} has more than {MAX_KEYS:,} keys; select rows with `where` instead"
                )
    if not keys:
        raise SelectionError(f"keys: {location} is empty; write one key per line")
    return keys
