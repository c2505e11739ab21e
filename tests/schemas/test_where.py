"""The `where` of an edit job: valid SQL expressions over a row, and invalid ones."""

import os

import duckdb
import pyarrow as pa
import pytest

from schemas.where import COLUMNS, check_where, columns_of, error_reason, matching_rows, sandbox

ROWS = pa.table(
    {
        "key": ["a", "b", "c", "d"],
        "shard": ["s/0.tar"] * 4,
        "index": [0, 1, 2, 3],
        "caption": ["a red dog", "A Red cat", "", "雪の犬"],
        "width": pa.array([64, 32, 64, 1], pa.int32()),
        "height": pa.array([64, 64, 32, 1], pa.int32()),
        "drift": [0.1, 0.2, 0.3, 0.4],
        "std": [1.0, 0.9, 1.1, 0.5],
        "json": ['{"n": 1, "tags": ["x", "y"]}', None, "no json", '{"n": "ten", "licence": "cc0"}'],
    },
    schema=COLUMNS,
)


@pytest.mark.parametrize(
    ("expression", "keys"),
    [
        ("true", "abcd"),
        ("drift < 0.25", "ab"),
        ("key in ('a', 'd') and std > 0.7", "a"),
        ("caption ilike '%red%' or width = 1", "abd"),
        ("caption ~ '^a (red|blue) '", "a"),
        ('index % 2 = 1 -- "odd"', "bd"),
        ("width >= height", "acd"),
        ("(json->>'n') = '1'", "a"),
        ("json->>'licence' = 'cc0'", "d"),
        ("json is null", "bc"),
        ("json_array_length(json->'tags') = 2", "a"),
        ("try_cast(json->>'n' as int) > 0", "a"),
        ("(json->>'n')::int is null or true", "abcd"),
        ("NULL > drift", ""),
        ("list_contains(['b', 'c'], key)", "bc"),
        ("hash(key) = hash('d')", "d"),
        ("list_sum(list_transform([1, 2], lambda x, i: x * i + index)) = 7", "b"),
        ("len([c for c in string_split(key, '') if c > 'b']) = 1", "cd"),
        ("key.upper() in ('A')", "a"),
        ("key like 'a%' escape '$' or key collate nocase = 'B'", "ab"),
        ("not " * 90 + "true", "abcd"),
        (" or ".join(["key = 'c'"] * 2000), "c"),
    ],
)
def test_where_selects_the_rows_for_which_it_is_true(expression: str, keys: str) -> None:
    assert check_where(expression) == expression
    assert "".join("abcd"[position] for position in matching_rows(sandbox(), expression, ROWS)) == keys
    named = ROWS.select(columns_of(expression) or ["key"])
    assert "".join("abcd"[position] for position in matching_rows(sandbox(), expression, named)) == keys


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("drift <", "syntax error"),
        ("", "SELECT clause without"),
        ("drft < 1", "there is no column drft"),
        ("nope(key) = 1", "the function nope is not allowed: it does not exist"),
        ("key", "a value of type VARCHAR"),
        ("1", "a value of type INTEGER"),
        ("drift < 1, true", "only a single expression"),
        ("drift < 1 limit 1", "modifier"),
        ("true; drop table part", "more than one statement"),
        ("true) or (true", "syntax error"),
        ("width > [1]", "Cannot compare"),
        ("key = read_text('/etc/passwd')", "the function read_text is not allowed"),
        ("exists (select 1 from read_csv('/etc/passwd'))", "a subquery is not allowed"),
        ("key in (select key from part)", "a subquery is not allowed"),
        ("(from duckdb_settings() select true limit 1)", "a subquery is not allowed"),
        ("random() < 0.5", "the function random is not allowed"),
        ("NOW() > '2020-01-01'", "the function now is not allowed"),
        ("key < Current_Date::text", "there is no column current_date"),
        ("current_setting('threads') = '1'", "the function current_setting is not allowed"),
        ("sum(drift) > 1", "the function sum is not allowed"),
        ("row_number() over () > 3", "a window is not allowed"),
        ("rowid < 3", "there is no column rowid"),
        ("row_position < 3", "there is no column row_position"),
        ("#1 = 'a'", "a positional reference is not allowed"),
        ("age('2020-01-01'::timestamp) > interval 1 day", "the function age is not allowed"),
        ("LOCALTIME::text > key", "there is no column localtime"),
        ("current_localtimestamp()::text > key", "the function current_localtimestamp is not allowed"),
        ("system.main.now()::text > key", "the function now is not allowed"),
        ("('10:30'::timetz at time zone 'America/New_York')::text > key", "the function timezone is not allowed"),
        ("json_serialize_plan(key) is null", "the function json_serialize_plan is not allowed"),
        ("user is null", "there is no column user"),
        ("list_contains(list_transform(range(9), lambda x: x), 3)", "the function range is not allowed"),
        ("drift > ?", "a parameter is not allowed"),
        ("COLUMNS(*) is not null", "a star is not allowed"),
        ("(" * 10_000, "10000 nested brackets"),
        ("not " * 101 + "true", "expression depth limit of 100"),
        ("not " * 500 + "true", "expression depth limit of 100"),
        ("drift" + " + 1" * 2000 + " > 0", "expression depth limit"),
    ],
)
def test_an_invalid_expression_is_an_error_with_its_reason(expression: str, reason: str) -> None:
    with pytest.raises(
        ValueError, match="SQL expression that is true or false for a row, with the columns key, shard"
    ) as error:
        check_where(expression)
    assert reason in str(error.value)


SLOW = "list_resize([1], 100000)"
for _ in range(3):
    SLOW = f"list_transform(list_resize([1], 100000), lambda x: len({SLOW}))"


def test_an_expression_that_takes_too_long_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.where.MAX_SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"takes longer than 0\.2 seconds \(write a simpler one\)"):
        check_where(f"len({SLOW}) > 0")  # a constant: DuckDB computes it for an empty table too
    with sandbox() as connection:
        with pytest.raises(duckdb.InterruptException) as error:
            matching_rows(connection, f"len({SLOW}) > index", ROWS)
        assert error_reason(error.value) == "the expression takes longer than 0.2 seconds (write a simpler one)"
        assert matching_rows(connection, "index = 1", ROWS) == [1]  # the connection is still usable


@pytest.mark.parametrize(
    "statement",
    [
        f"select * from read_text('{os.path.abspath(__file__)}')",
        "copy (select 1) to 'made.csv'",
        "attach 'made.duckdb'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "select * from outside",
    ],
)
def test_the_sandbox_has_no_access_to_files_extensions_settings_or_variables(statement: str) -> None:
    outside = ROWS
    assert len(outside) == 4
    with pytest.raises(duckdb.Error):
        sandbox().execute(statement).fetchall()
    assert not os.path.exists("made.csv") and not os.path.exists("made.duckdb")
