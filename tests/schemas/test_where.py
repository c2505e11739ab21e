"""The `where` of an edit job: what is an expression over a row, and what is refused."""

import os

import pyarrow as pa
import pytest

from schemas.where import COLUMNS, check_where, columns_of, places, sandbox

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
        ("not " * 90 + "true", "abcd"),
        (" or ".join(["key = 'c'"] * 2000), "c"),
    ],
)
def test_it_takes_the_rows_it_is_true_of(expression: str, keys: str) -> None:
    assert check_where(expression) == expression
    assert "".join("abcd"[place] for place in places(sandbox(), expression, ROWS)) == keys
    asked = ROWS.select(columns_of(expression) or ["key"])
    assert "".join("abcd"[place] for place in places(sandbox(), expression, asked)) == keys


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("drift <", "syntax error"),
        ("", "SELECT clause without"),
        ("drft < 1", 'column "drft" not found'),
        ("nope(key) = 1", "nope does not exist"),
        ("key", "of the type VARCHAR"),
        ("1", "of the type INTEGER"),
        ("drift < 1, true", "only a single expression"),
        ("drift < 1 limit 1", "modifier"),
        ("true; drop table part", "more than one statement"),
        ("true) or (true", "syntax error"),
        ("width > [1]", "Cannot compare"),
        ("key = read_text('/etc/passwd')", "read_text is no function of one row"),
        ("exists (select 1 from read_csv('/etc/passwd'))", "a subquery is no part"),
        ("key in (select key from part)", "a subquery is no part"),
        ("(from duckdb_settings() select true limit 1)", "a subquery is no part"),
        ("random() < 0.5", "random is no function of one row"),
        ("NOW() > '2020-01-01'", "now is no function of one row"),
        ("key < Current_Date::text", "current_date is no function of one row"),
        ("current_setting('threads') = '1'", "current_setting is no function of one row"),
        ("sum(drift) > 1", "sum is no function of one row"),
        ("row_number() over () > 3", "row_number is no function of one row"),
        ("rowid < 3", "rowid is no function of one row"),
        ("drift > ?", "a parameter is no part"),
        ("COLUMNS(*) is not null", "a star is no part"),
        ("(" * 10_000, "10000 brackets within each other"),
        ("not " * 101 + "true", "expression depth limit of 100"),
        ("not " * 500 + "true", "expression depth limit of 100"),
        ("drift" + " + 1" * 2000 + " > 0", "expression depth limit"),
    ],
)
def test_what_is_no_expression_over_a_row_is_refused(expression: str, why: str) -> None:
    with pytest.raises(
        ValueError, match="an SQL expression, true or false of a row by its columns key, shard"
    ) as error:
        check_where(expression)
    assert why in str(error.value)


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
def test_the_sandbox_reaches_nothing(statement: str) -> None:
    import duckdb

    outside = ROWS
    assert len(outside) == 4
    with pytest.raises(duckdb.Error):
        sandbox().execute(statement).fetchall()
    assert not os.path.exists("made.csv") and not os.path.exists("made.duckdb")
