"""Tables of prompts: which edits a file gives which key."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from jobs.pie_bench import find_entry, mask_of, plain, read_entries, stem, text_of
from pipeline.errors import JobError
from pipeline.io.errors import StorageError
from pipeline.io.storage import read_file
from schemas.specs import Edit

COLUMNS = ("key", "prompt", "name")  # the last one need not be there
LARGEST = 512 << 20  # bytes of a file, and of the text in it: a Parquet file of 200 KiB can have gigabytes of text
MAPPING = 64 << 20  # bytes of a mapping file; its masks take ten times as much memory
ROWS = 5_000_000  # of a table; each takes about 300 bytes in addition to its text


class TableError(JobError):
    """A file of prompts that cannot be used; the message names the edit, the file, and the place in it."""


@dataclass(frozen=True)
class PromptTable:
    """The prompts of a file: of each key a run of rows. A million take some 300 MB.

    `names` tell a key's prompts apart: those of its column `name`, or 1, 2, ... where a key has several, or one empty
    name. `aliases`, if any, are the names that stand for keys; `masks` are PIE-Bench's, by key. `digest` is the sha256
    of the file.
    """

    digest: str
    names: tuple[str, ...]
    first: Mapping[str, int]
    keys: Sequence[str]
    named: pa.Array
    prompts: pa.Array
    aliases: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, list[int]] = field(default_factory=dict)

    def key(self, key: str) -> str | None:
        """A row's key as the table has it; None where it does not."""
        if self.aliases:
            return find_entry(key, self.aliases)
        return key if key in self.first else None

    def mask(self, key: str) -> list[int]:
        """PIE-Bench's mask of a row's key."""
        return self.masks[find_entry(key, self.aliases) or key]

    def of(self, key: str) -> dict[str, str]:
        """The prompts of a row's key, by name."""
        found = {}
        if (known := self.key(key)) is not None:
            at = self.first[known]
            while at < len(self.keys) and self.keys[at] == known:
                found[self.named[at].as_py()] = self.prompts[at].as_py()
                at += 1
        return found


def read_table(edit: Edit) -> PromptTable:
    """The table of an edit that has one, local or URL. Raises TableError where it cannot be used."""
    where = "table" if edit.pie_bench is None else "pie_bench"
    location = str(edit.prompt_file)
    try:
        data = read_file(location, LARGEST if where == "table" else MAPPING)
    except StorageError as error:
        raise TableError(f"edit {edit.name!r}, {where}: {error}") from error
    try:
        if where == "pie_bench":
            keys, prompts, aliases, masks = _pie_bench(data, edit.has_pie_bench_masks)
            table = _of_rows(data, pa.array(keys, pa.string()), pa.array(prompts, pa.string()), None)
            return replace(table, aliases=aliases, masks=masks)
        table = _columns(data, location.rpartition(".")[2].lower())
        names = table["name"] if "name" in table.column_names else None
        return _of_rows(data, table["key"], table["prompt"], names)
    except (pa.ArrowException, ValueError) as error:
        # Arrow appends the line, which must not be shown: the file may be any file that the driver can read
        said = re.sub(r"(Expected \d+ columns, got \d+):.*", r"\1", str(error), flags=re.DOTALL)
        raise TableError(f"edit {edit.name!r}, {where}: {location}: {said}") from None


def _columns(data: bytes, kind: str) -> pa.Table:
    """Columns of text. Raises ValueError, ArrowException for what is no such table."""
    file = io.BytesIO(data)
    text = {name: pa.string() for name in COLUMNS}
    if kind == "csv":
        table = pa.csv.read_csv(
            file,
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(column_types=text, strings_can_be_null=False),
        )
    elif kind == "parquet":
        table = _parquet(file)
    else:
        options = pa.json.ParseOptions(explicit_schema=pa.schema(text.items()), unexpected_field_behavior="ignore")
        table = pa.json.read_json(file, parse_options=options)
        if table["name"].null_count == len(table):
            table = table.drop_columns("name")
    table = table.select(_wanted(table.schema))
    _check_size(table.num_rows, 0)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            raise ValueError(f"row {row + 1}: found no {name}, expected text")
    return table.combine_chunks()


def _wanted(schema: pa.Schema) -> list[str]:
    """Return the columns of a table that are read. Raises ValueError if one is missing or is not text."""
    if missing := [name for name in COLUMNS[:2] if name not in schema.names]:
        raise ValueError(f"found no column {' and no column '.join(missing)}, expected the columns key, prompt, [name]")
    wanted = [name for name in COLUMNS if name in schema.names]
    for name in wanted:
        if (kind := schema.field(name).type) not in (pa.string(), pa.large_string()):
            raise ValueError(f"column {name}: found {kind}, expected text")
    return wanted


def _check_size(rows: int, size: int) -> None:
    """Raise ValueError if a table has too many rows, or too many bytes of text."""
    if rows > ROWS:
        raise ValueError(f"has {rows:,} rows or more, but at most {ROWS:,} are read; split it into several edits")
    if size > LARGEST:
        raise ValueError(
            f"has {size:,} bytes of text or more, but at most {LARGEST:,} are read; split it into several edits"
        )


def _parquet(file: io.BytesIO) -> pa.Table:
    """Read the columns of a Parquet file, after checking how much memory they take.

    With a dictionary and runs of its indices, the text can have thousands of times as many bytes as the file.
    """
    stored = pq.ParquetFile(file)
    wanted, footer = _wanted(stored.schema_arrow), stored.metadata
    chunks = [
        footer.row_group(group).column(i) for group in range(footer.num_row_groups) for i in range(footer.num_columns)
    ]
    _check_size(
        footer.num_rows, sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in wanted)
    )
    rows, size, batches = 0, 0, list[pa.RecordBatch]()
    for batch in pq.ParquetFile(file, read_dictionary=wanted).iter_batches(1 << 14, columns=wanted):
        rows += batch.num_rows
        lengths = [pc.binary_length(column.dictionary).take(column.indices) for column in batch.columns]
        size += sum(pc.sum(length).as_py() or 0 for length in lengths)
        _check_size(rows, size)
        text = [column.dictionary_decode().cast(pa.string()) for column in batch.columns]
        batches.append(pa.record_batch(text, names=batch.schema.names))
    return pa.Table.from_batches(batches, pa.schema([(name, pa.string()) for name in wanted])).select(wanted)


def _of_rows(data: bytes, keys: pa.Array, prompts: pa.Array, names: pa.Array | None) -> PromptTable:
    if not len(keys):
        raise ValueError("is empty; expected a key and a prompt at least")
    order = pc.sort_indices(keys)  # stable, so that a key's prompts keep their order
    ordered = keys.take(order).to_pylist()
    first: dict[str, int] = {}
    for at, key in enumerate(ordered):
        first.setdefault(key, at)
    if names is None:
        numbers = [str(at - first[key] + 1) for at, key in enumerate(ordered)]
        longest = max(map(int, numbers))
        distinct = tuple(str(n) for n in range(1, longest + 1)) if longest > 1 else ("",)
        named = pa.array(numbers if longest > 1 else [""] * len(ordered))
    else:
        distinct = tuple(names.unique().to_pylist())
        named = names.take(order)
        seen = set[str]()
        for at, (key, name) in enumerate(zip(ordered, named.to_pylist(), strict=True)):
            seen = seen if first[key] < at else set()
            if name in seen:
                raise ValueError(
                    f"row {order[at].as_py() + 1}: has the same key and name as an earlier row; remove one"
                )
            seen.add(name)
    return PromptTable(sha256(data).hexdigest(), distinct, first, ordered, named, prompts.take(order))


def _pie_bench(data: bytes, masked: bool) -> tuple[list[str], list[str], dict[str, str], dict[str, list[int]]]:
    """Return ids, prompts, aliases of ids (themselves, and image paths without extension); if `masked`, masks by id.

    Raises ValueError for what is no mapping_file.json.
    """
    entries = read_entries(data)
    prompts, aliases, masks = list[str](), dict[str, str](), dict[str, list[int]]()
    for key, entry in entries.items():
        image_path, prompt = text_of(key, entry, "image_path"), text_of(key, entry, "editing_prompt")
        path = stem(image_path)
        if aliases.setdefault(path, key) != key or (path in entries and path != key):
            raise ValueError(f"entry {key!r}: its image_path {image_path!r} stands for another one too")
        prompts.append(plain(prompt))
        if masked:
            masks[key] = mask_of(key, entry)
    return list(entries), prompts, aliases | {key: key for key in entries}, masks
