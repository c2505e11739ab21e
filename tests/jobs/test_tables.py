"""Tables of prompts: the prompts of each kind of file by key, and the errors of invalid files."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jobs.prompts
from jobs.prompts import resolve, variants
from jobs.tables import TableError, read_prompts
from schemas.specs import Edit

Rows = list[dict[str, str]]


def as_csv(rows: Rows) -> bytes:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def as_parquet(rows: Rows) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def as_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WRITERS: dict[str, Callable[[Rows], bytes]] = {"csv": as_csv, "parquet": as_parquet, "jsonl": as_jsonl}
formats = pytest.mark.parametrize("kind", WRITERS)


def table_edit(folder: Path, kind: str, rows: Rows | bytes, **more: Any) -> Edit:
    path = folder / f"prompts.{kind}"
    path.write_bytes(rows if isinstance(rows, bytes) else WRITERS[kind](rows))
    return Edit(name="t", table=str(path), **more)


def prompts_of(edit: Edit, key: str, caption: str = "a caption") -> list[tuple[str, str]]:
    """Return the variants and prompts of a row, as a worker makes them from the planned prompts of tables."""
    edits = resolve([edit])
    assert edits.listed is not None
    return [(variant.name, prompt) for variant, prompt in edits.prompts(caption, edits.listed(key))]


@formats
def test_one_prompt_per_key(kind: str, tmp_path: Path) -> None:
    rows = [
        {"key": "0002", "prompt": 'two, "quoted"\nin lines', "more": "x"},
        {"key": "0001", "prompt": "雪", "more": "y"},
    ]
    edit = table_edit(tmp_path, kind, rows)
    assert prompts_of(edit, "0001") == [("t", "雪")]
    assert prompts_of(edit, "0002") == [("t", 'two, "quoted"\nin lines')]
    assert prompts_of(edit, "0003") == []
    assert prompts_of(edit, "0001", caption="雪") == []


@formats
def test_several_prompts_per_key_are_numbered_in_order(kind: str, tmp_path: Path) -> None:
    rows = [{"key": key, "prompt": f"{key}{i}"} for i, key in enumerate("abacaa")]
    edit = table_edit(tmp_path, kind, rows)
    assert prompts_of(edit, "a") == [("t-1", "a0"), ("t-2", "a2"), ("t-3", "a4"), ("t-4", "a5")]
    assert prompts_of(edit, "b") == [("t-1", "b1")]
    assert [variant.name for variant in resolve([edit]).variants] == ["t-1", "t-2", "t-3", "t-4"]


@formats
def test_a_column_of_names(kind: str, tmp_path: Path) -> None:
    rows = [
        {"key": "b", "prompt": "x", "name": "In Snow"},
        {"key": "a", "prompt": "y", "name": "at night"},
        {"key": "a", "prompt": "z", "name": "In Snow"},
    ]
    edit = table_edit(tmp_path, kind, rows)
    assert prompts_of(edit, "a") == [("t-in-snow", "z"), ("t-at-night", "y")]
    assert prompts_of(edit, "b") == [("t-in-snow", "x")]


def test_the_fingerprint_depends_on_the_content_and_not_on_the_path(tmp_path: Path) -> None:
    rows = [{"key": "a", "prompt": "x"}]
    edit = table_edit(tmp_path, "csv", rows)
    before = resolve([edit]).fingerprint
    (tmp_path / "other").mkdir()
    assert resolve([table_edit(tmp_path / "other", "csv", rows)]).fingerprint == before
    assert str(tmp_path) not in json.dumps(before)
    assert resolve([table_edit(tmp_path, "csv", [{"key": "a", "prompt": "y"}])]).fingerprint != before


@formats
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text("abé0", min_size=1, max_size=2), st.text("xyz ,\"'\n{}", max_size=6)), min_size=1))
def test_every_row_of_a_file_is_found_by_its_key(kind: str, tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    table = read_prompts(table_edit(tmp_path, kind, [{"key": key, "prompt": prompt} for key, prompt in pairs]))
    for key in {key for key, _ in pairs}:
        assert list(table.prompts_of(key).values()) == [prompt for other, prompt in pairs if other == key]
    assert set(table.first) == {key for key, _ in pairs}


MAPPING = {
    "000000000000": {
        "image_path": "0_random_140/000000000000.jpg",
        "original_prompt": "a slanted mountain bicycle",
        "editing_prompt": "a slanted [rusty] mountain [motorcycle]",
        "blended_word": "bicycle motorcycle",
        "editing_instruction": "...",
        "editing_type_id": "0",
        "mask": [0, 262144],
    },
    "111000000001": {"image_path": "1_change/111000000001.jpg", "editing_prompt": "a cat"},
}


def test_pie_bench(tmp_path: Path) -> None:
    path = tmp_path / "mapping_file.json"
    path.write_text(json.dumps(MAPPING))
    edit = Edit(name="pie", pie_bench=str(path))
    under = ("./000000000000", "photos/000000000000", "PIE/annotation_images/0_random_140/000000000000")
    for key in ("000000000000", "0_random_140/000000000000", *under):
        assert prompts_of(edit, key) == [("pie", "a slanted rusty mountain motorcycle")]
    assert prompts_of(edit, "1_change/111000000001") == [("pie", "a cat")]
    for key in ("0_random_140/00000000000", "000000000000/0", "0_random_140", ""):
        assert prompts_of(edit, key) == []


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("csv", b"key,text\na,b\n", "has no column prompt. Give the columns key, prompt"),
        ("csv", b"a,b\nc,d\n", "has no column key and no column prompt"),
        ("csv", b"key,prompt\n", "is empty"),
        ("csv", b"", "Empty CSV file"),
        ("csv", b"key,prompt\na,b,c\n", "Expected 2 columns, got 3"),
        ("csv", b"key,prompt\ncaf\xe9,b\n", "invalid UTF8"),
        ("parquet", b"no parquet", "Parquet"),
        ("parquet", as_parquet([{"key": 1, "prompt": "a"}]), "column key: has the type int64, expected text"),  # type: ignore[dict-item]
        ("jsonl", b'{"key": "a", "prompt": "b"}\n{"key": "b"}\n', "row 2: has no prompt"),
        ("jsonl", b'{"key": 7, "prompt": "b"}\n', "changed from string to number"),
        ("jsonl", b'{"key": "a"', "JSON parse error"),
        (
            "csv",
            b"key,prompt,name\na,b,n\na,c,n\n",
            "row 2: has the same key and name as an earlier row. Remove one of them",
        ),
    ],
)
def test_an_invalid_table_is_an_error(kind: str, data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"edit 't', table: .*prompts\.") as error:
        read_prompts(table_edit(tmp_path, kind, data))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "is empty"),
        ('{"private_key": "the-secret"}', "has no entry with an image_path. Give PIE-Bench's mapping_file.json"),
        ('{"7": {"image_path": 3}}', "entry '7': image_path is missing or not text"),
        ('{"7": {"image_path": "a.jpg", "editing_prompt": 3}}', "entry '7': editing_prompt is missing or not text"),
        (
            '{"7": {"image_path": "a.jpg", "editing_prompt": ""}, "8": {"image_path": "a.png", "editing_prompt": ""}}',
            "entry '8': another entry has the name of its image_path 'a.png'",
        ),
    ],
)
def test_an_invalid_mapping_file_is_an_error(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(TableError, match=r"edit 'p', pie_bench: .*m\.json: ") as error:
        read_prompts(Edit(name="p", pie_bench=str(tmp_path / "m.json")))
    assert said in str(error.value)


SECRET = b"root:$6$the-secret:19000\nAWS_SECRET_ACCESS_KEY=the-secret,x,y\n{the-secret: [1, 2\n"


@pytest.mark.parametrize("kind", [*WRITERS, "json"])
def test_an_error_does_not_show_the_content_of_the_file(kind: str, tmp_path: Path) -> None:
    for data in (SECRET, SECRET + b"key,prompt\n", b'key,prompt\n"', b'{"auths": {"the-secret": 1}}', b'"the-secret"'):
        path = tmp_path / f"private.{kind}"
        path.write_bytes(data + SECRET)
        with pytest.raises(TableError) as error:
            read_prompts(Edit(name="t", **{"pie_bench" if kind == "json" else "table": str(path)}))
        assert "the-secret" not in str(error.value)
        assert error.value.__cause__ is None


def bomb(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd", store_schema=False)
    return sink.getvalue()


def test_a_small_file_that_is_large_in_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is checked before memory is allocated. The first file has 6 GB of text, by its dictionary."""
    numbers = pa.array(range(600_000)).cast(pa.string())
    prompts = pa.DictionaryArray.from_arrays(pa.array([0] * 600_000), ["x" * 10_000]).cast(
        pa.dictionary(pa.int32(), pa.string())
    )
    data = bomb(key=numbers, prompt=prompts)
    assert len(data) < 3 << 20
    allocated = pa.total_allocated_bytes()
    with pytest.raises(TableError, match=r"has [\d,]+ bytes of text or more, but at most 536,870,912 are read"):
        read_prompts(table_edit(tmp_path, "parquet", data))
    assert pa.default_memory_pool().max_memory() - allocated < 1 << 31
    monkeypatch.setattr("jobs.tables.MAX_ROWS", 10)
    with pytest.raises(TableError, match="has 600,000 rows or more, but at most 10 are read"):
        read_prompts(table_edit(tmp_path, "parquet", data))
    monkeypatch.setattr("jobs.tables.MAX_BYTES", 1000)
    for kind in ("csv", "jsonl", "parquet"):
        with pytest.raises(TableError, match=r"prompts\..*: has [\d,]+ bytes.* 1,000"):
            read_prompts(table_edit(tmp_path, kind, b"x" * 1001))
    monkeypatch.setattr("jobs.tables.MAX_MAPPING_BYTES", 1000)
    (tmp_path / "m.json").write_bytes(b" " * 1001)
    with pytest.raises(TableError, match=r"m\.json: has 1,001 bytes.* 1,000"):
        read_prompts(Edit(name="p", pie_bench=str(tmp_path / "m.json")))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"edit 'p', table: .*absent\.csv: does not exist"):
        read_prompts(Edit(name="p", table=str(tmp_path / "absent.csv")))


def test_too_many_names_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.prompts, "MAX_VARIANTS", 2)
    edit = table_edit(tmp_path, "csv", [{"key": "a", "prompt": str(i)} for i in range(3)])
    with pytest.raises(TableError, match="3 names in total, expected at most 2"):
        variants([edit], {"t": read_prompts(edit)})
