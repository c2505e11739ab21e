"""The `where` of an edit job: an SQL expression over a row, read by DuckDB in a sandbox that holds nothing but rows."""

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

COLUMNS = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("index", pa.int64()),
        pa.field("caption", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("drift", pa.float64()),
        pa.field("std", pa.float64()),
        pa.field("json", pa.string()),
    ]
)
"""What an expression sees of a row of a latent store; `json` as DuckDB's JSON, NULL where it is none."""

DEEPEST = 100  # brackets or operators within each other: 10^4 brackets cost DuckDB's parser gigabytes
_SANDBOX: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,  # or the driver's own variables would be tables
    "max_expression_depth": DEEPEST,  # and Python's recursion over the syntax tree, by that
    "temp_directory": "",
    "memory_limit": "1GB",
    "threads": 1,
}
_MACROS = re.compile("(list|array)_.*|nullif|if|fdiv|fmod|date_add|days_in_month")  # DuckDB's own, of their arguments


def sandbox() -> "DuckDBPyConnection":
    """A connection that reads no file, loads no extension, and keeps to that."""
    import duckdb

    connection = duckdb.connect(":memory:", config=_SANDBOX)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection


def check_where(expression: str) -> str:
    """The expression, where it is one that is true or false of a row, and of that row alone.

    Raises ValueError that says what was expected, and why this is something else.
    """
    # raised here, and from nothing: pydantic keeps the error, and with its frames DuckDB's objects to the process's end
    if (problem := _problem(expression)) is not None:
        raise ValueError(
            f"an SQL expression, true or false of a row by its columns {', '.join(COLUMNS.names)}{problem}"
        )
    return expression


def _problem(expression: str) -> str | None:
    import duckdb

    if (deep := _deepest(expression)) > DEEPEST:
        return f", and this has {deep} brackets within each other"
    try:
        with sandbox() as connection:
            parsed = duckdb.SQLExpression(expression)
            if beyond := _beyond_the_row(connection, expression):
                return f", and {beyond}"
            rows = _rows(connection, COLUMNS.empty_table())
            (kind,) = {str(column) for column in rows.select(parsed).types}
            if kind != "BOOLEAN":
                return f", and this is a value of the type {kind}; compare it with something"
            rows.filter(parsed).fetchall()
    except duckdb.Error as error:
        return f" ({said(error)})"
    return None


def columns_of(expression: str) -> list[str]:
    """The columns that an expression names."""
    with sandbox() as connection:
        nodes = _nodes(_tree(connection, expression))
        named = {node["column_names"][0].lower() for node in nodes if node["class"] == "COLUMN_REF"}
    return [name for name in COLUMNS.names if name in named]


def places(connection: "DuckDBPyConnection", expression: str, table: pa.Table) -> list[int]:
    """The places of those rows of `table` for which the expression is true; it needs to have the columns that it names.

    Raises duckdb.Error where a row cannot be asked, such as for the number in a text.
    """
    import duckdb

    matching = _rows(connection, table).filter(duckdb.SQLExpression(expression)).select("place").order("place")
    return [place for (place,) in matching.fetchall()]


def said(error: Exception) -> str:
    """What DuckDB says, in a line."""
    return str(error).splitlines()[0]


def _deepest(expression: str) -> int:
    """How many brackets stand within each other, those in texts too."""
    steps = ((character in "([{") - (character in ")]}") for character in expression)
    return max(accumulate(steps), default=0)


def _rows(connection: "DuckDBPyConnection", table: pa.Table) -> "DuckDBPyRelation":
    for field in COLUMNS:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    connection.register("part", table.append_column("place", pa.array(range(len(table)), pa.int64())))
    plain = ", ".join(f'"{name}"' for name in COLUMNS.names if name != "json")
    return connection.sql(f"SELECT place, {plain}, TRY_CAST(json AS JSON) AS json FROM part")


def _beyond_the_row(connection: "DuckDBPyConnection", expression: str) -> str | None:
    """What makes an expression depend on more than the row; it would not mean the same twice, or in every part."""
    kinds: dict[str, set[str]] = {}
    for name, kind, stability in connection.execute(
        "SELECT function_name, function_type, stability FROM duckdb_functions()"
    ).fetchall():
        kinds.setdefault(name, set()).add(f"{kind} {stability}")
    for node in _nodes(_tree(connection, expression)):
        name = (node.get("function_name") or "").lower()
        if node["class"] == "COLUMN_REF" and (first := node["column_names"][0].lower()) not in COLUMNS.names:
            name = first
        known = kinds.get(name, {"scalar CONSISTENT"})  # what it does not know, DuckDB says
        if name in ("rowid", "place") or (known != {"scalar CONSISTENT"} and not _MACROS.fullmatch(name)):
            return f"{name} is no function of one row"
        if node["class"] in ("SUBQUERY", "WINDOW", "STAR", "PARAMETER"):
            return f"a {node['class'].lower()} is no part of one"
    return None


def _tree(connection: "DuckDBPyConnection", expression: str) -> Any:
    written = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {expression}"]).fetchall()
    return json.loads(written[0][0])


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every expression of a syntax tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for below in tree:
            yield from _nodes(below)
