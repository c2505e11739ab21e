"""Stores that came to harm: parts that changed under their commits, and records that are cut, foreign or wrong."""

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
from tests.corpus.samples import flipped

Part = Case[Callable[[Path, Path], object]]  # of a part, and the commit that names it
Record = Case[Callable[[Path], object]]  # of a store

PROBLEM, NO_STORE = ("problem",), ("error StoreError",)
CHANGED = "is not the committed file (its sha256 differs)"


def flip(place: Callable[[bytes], int]) -> Callable[[Path, Path], object]:
    """One bit of the part."""
    return lambda part, commit: part.write_bytes(flipped(part.read_bytes(), place(part.read_bytes())))


def in_page(data: bytes) -> int:
    """A place among the integers of x."""
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    states = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith("x."))
    return int(states.data_page_offset + states.total_compressed_size // 2)


def integer(part: Path, commit: Path) -> None:
    """One integer is another, and the checksums of the file are right again."""
    table = pq.read_table(part)
    place = table.schema.get_field_index("x")
    field, states = table.schema.field(place), table["x"].to_pylist()
    states[0][0][0][0] += 1
    part.write_bytes(to_parquet(table.set_column(place, field, pa.array(states, field.type))))


def integer_committed(part: Path, commit: Path) -> None:
    """As `integer`, and the commit names the file as it is now."""
    integer(part, commit)
    data = part.read_bytes()
    changed(commit, lambda told: told["files"][0].update(sha256=sha256(data).hexdigest(), bytes=len(data)))


def changed(path: Path, change: Callable[[Any], object]) -> None:
    """A record in JSON, changed."""
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def half(path: Path) -> object:
    return path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


PARTS: list[Part] = [
    Case("part-page", "a flipped bit in a part's data", flip(in_page), PROBLEM, CHANGED),
    Case("part-footer", "a flipped bit in a part's footer", flip(lambda data: len(data) - 30), PROBLEM, CHANGED),
    Case("part-head", "a flipped bit in a part's first bytes", flip(lambda data: 0), PROBLEM, CHANGED),
    Case("part-cut", "a part cut in half", lambda part, commit: half(part), PROBLEM, "were committed"),
    Case("part-empty", "a part of 0 bytes", lambda part, commit: part.write_bytes(b""), PROBLEM, "has 0 bytes"),
    Case("part-gone", "a part that is gone", lambda part, commit: part.unlink(), PROBLEM, "is missing"),
    # "is not the committed file", or "were committed": the new file may have another size
    Case("integer", "a changed integer, the page's checksum made right again", integer, PROBLEM, "committed"),
    Case("integer-committed", "the same, and its sha256 too", integer_committed, PROBLEM, "does not regenerate"),
]

FIRST = "commits/00000000.json"

RECORDS: list[Record] = [
    Case("job-absent", "no job.json", lambda store: (store / "job.json").unlink(), NO_STORE, "is not a store"),
    Case("job-cut", "a job.json cut in half", lambda store: half(store / "job.json"), NO_STORE, "job.json is damaged"),
    Case("job-empty", "a job.json of {}", lambda store: (store / "job.json").write_text("{}"), NO_STORE, "it lacks"),
    Case(
        "job-list",
        "a job.json of []",
        lambda store: (store / "job.json").write_text("[]"),
        NO_STORE,
        "not a JSON object",
    ),
    Case(
        "commit-copy",
        "a backup of a commit beside it",
        lambda store: shutil.copy(store / FIRST, store / f"{FIRST}.bak"),
        NO_STORE,
        "does not belong to a store",
    ),
    Case(
        "commit-other",
        "a commit in the place of another",
        lambda store: shutil.copy(store / FIRST, store / "commits/00000001.json"),
        PROBLEM,
        "is the commit of unit 00000000, not of unit 00000001",
    ),
    Case("commit-cut", "a commit cut in half", lambda store: half(store / FIRST), PROBLEM, f"{FIRST} is damaged"),
    Case(
        "commit-field",
        "a commit that lacks a field",
        lambda store: changed(store / FIRST, lambda told: told.pop("rejects")),
        PROBLEM,
        f"{FIRST} is damaged",
    ),
    Case(
        "commit-foreign",
        "a foreign file among the commits",
        lambda store: (store / "commits/notes.txt").write_text("mine"),
        NO_STORE,
        "commits/notes.txt",
    ),
    Case(
        "commit-sums",
        "a commit whose sums do not add up",
        lambda store: changed(store / FIRST, lambda told: told.update(ok=told["ok"] + 1)),
        PROBLEM,
        "went in",
    ),
    Case(
        "commit-input",
        "a commit of more samples than were planned",
        lambda store: changed(store / FIRST, lambda told: told.update(input=told["input"] + 1, ok=told["ok"] + 1)),
        PROBLEM,
        "planned",
    ),
    Case("commit-absent", "a commit that is gone", lambda store: (store / FIRST).unlink(), PROBLEM, "are not done"),
    Case(
        "units-cut",
        "plan/units.parquet cut in half",
        lambda store: half(store / "plan/units.parquet"),
        NO_STORE,
        "plan/units.parquet is damaged",
    ),
    Case(
        "units-end",
        "a flipped bit in the end of plan/units.parquet",
        lambda store: flip(lambda data: -6)(store / "plan/units.parquet", store),
        NO_STORE,
        "plan/units.parquet is damaged",
    ),
]
