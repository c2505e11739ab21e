"""Tables of prompts: which edits a file gives which key."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from jobs.mapping import mask_of, plain, read_entries, stem, text_of
from pipeline.errors import JobError
from pipeline.storage import Reader, StorageError
from schemas.specs import Edit

COLUMNS = ("key", "prompt", "name")  # the last one need not be there


class TableError(JobError):
    """A file of prompts that cannot be used; the message names the edit, the file, and the place in it."""


@dataclass(frozen=True)
class PromptTable:
    """The prompts of a file: of each key a run of rows. A million take some 300 MB.

    `names` tell a key's prompts apart: those of its column `name`, or 1, 2, ... where a key has several, or one empty
    name. `aliases` are other ways to say a key; `masks` are PIE-Bench's, by key. `digest` is the sha256 of the file.
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
        key = self.aliases.get(key, key)
        return key if key in self.first else None

    def mask(self, key: str) -> list[int]:
        """PIE-Bench's mask of a row's key."""
        return self.masks[self.aliases.get(key, key)]

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
    location = str(edit.listed)
    try:
        data = Reader(location).read()
    except StorageError as error:
        raise TableError(f"edit {edit.name!r}, {where}: {error}") from error
    try:
        if where == "pie_bench":
            keys, prompts, aliases, masks = _pie_bench(data, edit.masked)
            table = _of_rows(data, pa.array(keys, pa.string()), pa.array(prompts, pa.string()), None)
            return replace(table, aliases=aliases, masks=masks)
        table = _columns(data, location.rpartition(".")[2].lower())
        names = table["name"] if "name" in table.column_names else None
        return _of_rows(data, table["key"], table["prompt"], names)
    except (pa.ArrowException, ValueError) as error:
        raise TableError(f"edit {edit.name!r}, {where}: {location}: {error}") from error


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
        table = pq.read_table(file, columns=[name for name in COLUMNS if name in pq.read_schema(file).names])
    else:
        options = pa.json.ParseOptions(explicit_schema=pa.schema(text.items()), unexpected_field_behavior="ignore")
        table = pa.json.read_json(file, parse_options=options)
        if table["name"].null_count == len(table):
            table = table.drop_columns("name")
    if missing := [name for name in COLUMNS[:2] if name not in table.column_names]:
        raise ValueError(f"found no column {' and no column '.join(missing)}, expected the columns key, prompt, [name]")
    table = table.select([name for name in COLUMNS if name in table.column_names])
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.type not in (pa.string(), pa.large_string()):
            raise ValueError(f"column {name}: found {column.type}, expected text")
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            raise ValueError(f"row {row + 1}: found no {name}, expected text")
    return table.combine_chunks()


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
                raise ValueError(f"found the key {key!r} twice under the name {name!r}, expected it once")
            seen.add(name)
    return PromptTable(sha256(data).hexdigest(), distinct, first, ordered, named, prompts.take(order))


def _pie_bench(data: bytes, masked: bool) -> tuple[list[str], list[str], dict[str, str], dict[str, list[int]]]:
    """Ids, prompts, and the image paths without extension that stand for ids; where `masked`, the masks by id.

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
    return list(entries), prompts, aliases, masks
