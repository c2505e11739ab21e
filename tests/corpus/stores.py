"""Damaged stores: parts that differ from their commits, and records that are cut, foreign or wrong."""

import io
import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.parts import to_parquet
from tests.corpus.case import Case
from tests.corpus.samples import flip_bit

Part = Case[Callable[[Path, Path], object]]  # changes a part, and the commit that names it
Record = Case[Callable[[Path], object]]  # changes a store

PROBLEM, NO_STORE = ("problem",), ("error StoreError",)
CHANGED = "is not the committed file (its sha256 differs)"


def flip(offset: Callable[[bytes], int]) -> Callable[[Path, Path], object]:
    """Return a change of one bit of the part."""
    return lambda part, commit: part.write_bytes(flip_bit(part.read_bytes(), offset(part.read_bytes())))


def in_page(data: bytes) -> int:
    """Return an offset among the integers of x."""
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    states = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith("x."))
    return int(states.data_page_offset + states.total_compressed_size // 2)


def integer(part: Path, commit: Path) -> None:
    """Change one integer, and write valid checksums."""
    table = pq.read_table(part)
    column = table.schema.get_field_index("x")
    field, states = table.schema.field(column), table["x"].to_pylist()
    states[0][0][0][0] += 1
    part.write_bytes(to_parquet(table.set_column(column, field, pa.array(states, field.type))))


def integer_committed(part: Path, commit: Path) -> None:
    """Change one integer, and write the new sha256 to the commit."""
    integer(part, commit)
    data = part.read_bytes()
    changed(commit, lambda record: record["files"][0].update(sha256=sha256(data).hexdigest(), bytes=len(data)))


def changed(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON record."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def half(path: Path) -> object:
    return path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


PARTS: list[Part] = [
    Case("part-page", "a flipped bit in a part's data", flip(in_page), PROBLEM, CHANGED),
    Case("part-footer", "a flipped bit in a part's footer", flip(lambda data: len(data) - 30), PROBLEM, CHANGED),
    Case("part-head", "a flipped bit in a part's first bytes", flip(lambda data: 0), PROBLEM, CHANGED),
    Case("part-cut", "a part that is cut in half", lambda part, commit: half(part), PROBLEM, "were committed"),
    Case("part-empty", "a part of 0 bytes", lambda part, commit: part.write_bytes(b""), PROBLEM, "has 0 bytes"),
    Case("part-gone", "a part that was deleted", lambda part, commit: part.unlink(), PROBLEM, "is missing"),
    # The message is "is not the committed file" or "were committed", because the new file may have another size.
    Case("integer", "a changed integer, with valid checksums", integer, PROBLEM, "committed"),
    Case(
        "integer-committed",
        "a changed integer, with valid checksums and the new sha256 in the commit",
        integer_committed,
        PROBLEM,
        "does not regenerate",
    ),
]

FIRST = "commits/00000000.json"

RECORDS: list[Record] = [
    Case("job-absent", "no job.json", lambda store: (store / "job.json").unlink(), NO_STORE, "is not a store"),
    Case(
        "job-cut",
        "a job.json that is cut in half",
        lambda store: half(store / "job.json"),
        NO_STORE,
        "job.json is damaged",
    ),
    Case(
        "job-empty",
        "a job.json with an empty object",
        lambda store: (store / "job.json").write_text("{}"),
        NO_STORE,
        "it lacks",
    ),
    Case(
        "job-list",
        "a job.json with a list",
        lambda store: (store / "job.json").write_text("[]"),
        NO_STORE,
        "not a JSON object",
    ),
    Case(
        "commit-copy",
        "a backup copy of a commit in commits/",
        lambda store: shutil.copy(store / FIRST, store / f"{FIRST}.bak"),
        NO_STORE,
        "does not belong to a store",
    ),
    Case(
        "commit-other",
        "a commit that replaces another one",
        lambda store: shutil.copy(store / FIRST, store / "commits/00000001.json"),
        PROBLEM,
        "is the commit of unit 00000000, not of unit 00000001",
    ),
    Case(
        "commit-cut", "a commit that is cut in half", lambda store: half(store / FIRST), PROBLEM, f"{FIRST} is damaged"
    ),
    Case(
        "commit-field",
        "a commit without one of its fields",
        lambda store: changed(store / FIRST, lambda record: record.pop("rejects")),
        PROBLEM,
        f"{FIRST} is damaged",
    ),
    Case(
        "commit-foreign",
        "a file of the user in commits/",
        lambda store: (store / "commits/notes.txt").write_text("mine"),
        NO_STORE,
        "commits/notes.txt",
    ),
    Case(
        "commit-sums",
        "a commit with counts that do not add up",
        lambda store: changed(store / FIRST, lambda record: record.update(ok=record["ok"] + 1)),
        PROBLEM,
        "add up to its input",
    ),
    Case(
        "commit-input",
        "a commit with more samples than planned",
        lambda store: changed(
            store / FIRST, lambda record: record.update(input=record["input"] + 1, ok=record["ok"] + 1)
        ),
        PROBLEM,
        "planned",
    ),
    Case("commit-absent", "a commit that was deleted", lambda store: (store / FIRST).unlink(), PROBLEM, "are not done"),
    Case(
        "units-cut",
        "a plan/units.parquet that is cut in half",
        lambda store: half(store / "plan/units.parquet"),
        NO_STORE,
        "plan/units.parquet is damaged",
    ),
    Case(
        "units-end",
        "a flipped bit at the end of plan/units.parquet",
        lambda store: flip(lambda data: -6)(store / "plan/units.parquet", store),
        NO_STORE,
        "plan/units.parquet is damaged",
    ),
]
