"""Tables of prompts: files that list prompts by the key of a row."""

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

from jobs.pie_bench import find_entry, mask_runs, parse_mapping, text_field, without_brackets, without_extension
from pipeline.errors import JobError
from pipeline.io.errors import StorageError
from pipeline.io.storage import read_file
from schemas.specs import Edit

COLUMNS = ("key", "prompt", "name")
"""The columns of a table. `name` is optional."""
MAX_BYTES = 512 << 20  # limit of a file, and of its text: a Parquet file of 200 KiB can have gigabytes of text
MAX_MAPPING_BYTES = 64 << 20  # limit of a mapping file, whose masks take ten times as much memory
MAX_ROWS = 5_000_000  # per table; each row takes about 300 bytes in addition to its text


class TableError(JobError):
    """A table of prompts that cannot be used. The message has the edit, the file, and the row or entry."""


@dataclass(frozen=True)
class PromptTable:
    """The prompts of a file, sorted by key. A million rows take about 300 MB of memory.

    `names` are all names of prompts: those of the column `name`, or 1, 2, ... if a key has several prompts, or a single
    empty name. `first` is the first row of each key, and `keys`, `row_names` and `prompts` are columns. `aliases` are
    other names of keys, if there are any. `masks` are those of PIE-Bench, by key. `digest` is the sha256 of the file.
    """

    digest: str
    names: tuple[str, ...]
    first: Mapping[str, int]
    keys: Sequence[str]
    row_names: pa.Array
    prompts: pa.Array
    aliases: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, list[int]] = field(default_factory=dict)

    def key(self, key: str) -> str | None:
        """Return the key of a row as the table has it, or None if it does not have it."""
        if self.aliases:
            return find_entry(key, self.aliases)
        return key if key in self.first else None

    def mask(self, key: str) -> list[int]:
        """Return PIE-Bench's mask for the key of a row."""
        return self.masks[find_entry(key, self.aliases) or key]

    def prompts_of(self, key: str) -> dict[str, str]:
        """Return the prompts for the key of a row, by name."""
        found = {}
        if (known := self.key(key)) is not None:
            row = self.first[known]
            while row < len(self.keys) and self.keys[row] == known:
                found[self.row_names[row].as_py()] = self.prompts[row].as_py()
                row += 1
        return found


def read_prompts(edit: Edit) -> PromptTable:
    """Return the table of an edit, from a local file or a URL.

    Raises:
        TableError: The file cannot be read, or is not a valid table.
    """
    field_name = "table" if edit.pie_bench is None else "pie_bench"
    location = str(edit.prompt_file)
    try:
        data = read_file(location, MAX_BYTES if field_name == "table" else MAX_MAPPING_BYTES)
    except StorageError as error:
        raise TableError(f"edit {edit.name!r}, {field_name}: {error}") from error
    try:
        if field_name == "pie_bench":
            keys, prompts, aliases, masks = _pie_bench(data, edit.has_pie_bench_masks)
            table = _from_rows(data, pa.array(keys, pa.string()), pa.array(prompts, pa.string()), None)
            return replace(table, aliases=aliases, masks=masks)
        table = _columns(data, location.rpartition(".")[2].lower())
        names = table["name"] if "name" in table.column_names else None
        return _from_rows(data, table["key"], table["prompt"], names)
    except (pa.ArrowException, ValueError) as error:
        # Arrow appends the line, which must not be shown, because the file may be any file that the driver can read.
        reason = re.sub(r"(Expected \d+ columns, got \d+):.*", r"\1", str(error), flags=re.DOTALL)
        raise TableError(f"edit {edit.name!r}, {field_name}: {location}: {reason}") from None


def _columns(data: bytes, kind: str) -> pa.Table:
    """Return the columns of a table as text. Raises ValueError or ArrowException for an invalid table."""
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
            raise ValueError(f"row {row + 1}: has no {name}. Every row needs one")
    return table.combine_chunks()


def _wanted(schema: pa.Schema) -> list[str]:
    """Return the columns of a table to read. Raises ValueError if one is missing or is not text."""
    if missing := [name for name in COLUMNS[:2] if name not in schema.names]:
        raise ValueError(
            f"has no column {' and no column '.join(missing)}. Give the columns key, prompt and, optionally, name"
        )
    wanted = [name for name in COLUMNS if name in schema.names]
    for name in wanted:
        if (kind := schema.field(name).type) not in (pa.string(), pa.large_string()):
            raise ValueError(f"column {name}: has the type {kind}, expected text. Convert it to text")
    return wanted


def _check_size(rows: int, size: int) -> None:
    """Raise ValueError if a table has too many rows, or too many bytes of text."""
    if rows > MAX_ROWS:
        raise ValueError(f"has {rows:,} rows or more, but at most {MAX_ROWS:,} are read. Split it into several edits")
    if size > MAX_BYTES:
        raise ValueError(
            f"has {size:,} bytes of text or more, but at most {MAX_BYTES:,} are read. Split it into several edits"
        )


def _parquet(file: io.BytesIO) -> pa.Table:
    """Read the columns of a Parquet file, after checking how much memory they take.

    Because of dictionaries and run lengths, the text can have thousands of times as many bytes as the file.
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


def _from_rows(data: bytes, keys: pa.Array, prompts: pa.Array, names: pa.Array | None) -> PromptTable:
    """Return the table of a file with these columns. Raises ValueError if it is empty or repeats a name."""
    if not len(keys):
        raise ValueError("is empty. Give at least one key and its prompt")
    order = pc.sort_indices(keys)  # The sort is stable, so the prompts of a key keep their order.
    ordered = keys.take(order).to_pylist()
    first: dict[str, int] = {}
    for row, key in enumerate(ordered):
        first.setdefault(key, row)
    if names is None:
        numbers = [str(row - first[key] + 1) for row, key in enumerate(ordered)]
        longest = max(map(int, numbers))
        distinct = tuple(str(n) for n in range(1, longest + 1)) if longest > 1 else ("",)
        row_names = pa.array(numbers if longest > 1 else [""] * len(ordered))
    else:
        distinct = tuple(names.unique().to_pylist())
        row_names = names.take(order)
        seen = set[str]()
        for row, (key, name) in enumerate(zip(ordered, row_names.to_pylist(), strict=True)):
            seen = seen if first[key] < row else set()
            if name in seen:
                raise ValueError(
                    f"row {order[row].as_py() + 1}: has the same key and name as an earlier row. Remove one of them"
                )
            seen.add(name)
    return PromptTable(sha256(data).hexdigest(), distinct, first, ordered, row_names, prompts.take(order))


def _pie_bench(data: bytes, masked: bool) -> tuple[list[str], list[str], dict[str, str], dict[str, list[int]]]:
    """Return the ids, the prompts, the aliases of the ids, and if `masked` the masks by id.

    The aliases of an id are itself and its image path without the extension.

    Raises:
        ValueError: The data is not a valid mapping file.
    """
    entries = parse_mapping(data)
    prompts, aliases, masks = list[str](), dict[str, str](), dict[str, list[int]]()
    for key, entry in entries.items():
        image_path, prompt = text_field(key, entry, "image_path"), text_field(key, entry, "editing_prompt")
        path = without_extension(image_path)
        if aliases.setdefault(path, key) != key or (path in entries and path != key):
            raise ValueError(f"entry {key!r}: another entry has the name of its image_path {image_path!r}. Rename one")
        prompts.append(without_brackets(prompt))
        if masked:
            masks[key] = mask_runs(key, entry)
    return list(entries), prompts, aliases | {key: key for key in entries}, masks
