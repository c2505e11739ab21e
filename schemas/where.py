"""The `where` of an edit job: an SQL expression over a row, evaluated by DuckDB in a sandbox with only the rows."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from schemas.errors import first_line
from schemas.latents import FIELDS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

COLUMNS = pa.schema(
    [
        pa.field(name, FIELDS.field(name).type)
        for name in ("key", "shard", "index", "caption", "width", "height", "drift", "std", "json")
    ]
)
"""The columns that an expression can use. `json` is DuckDB's JSON; it is NULL if the text is not JSON."""

MAX_DEPTH = 100  # nested brackets or operators; DuckDB's parser needs gigabytes for 10^4 brackets
_SANDBOX: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,  # otherwise Python variables of the driver would be tables
    "max_expression_depth": MAX_DEPTH,  # this also limits Python's recursion over the syntax tree
    "temp_directory": "",
    "memory_limit": "1GB",
    "threads": 1,
}
MAX_SECONDS = 30.0
"""Time limit of an expression on the rows of one part, and of its check. A part has a few thousand rows."""

_CLASSES = re.compile(
    "BETWEEN|CASE|CAST|COLLATE|COLUMN_REF|COMPARISON|CONJUNCTION|CONSTANT|FUNCTION|LAMBDA|OPERATOR|TYPE"
)
_OPERATOR = re.compile(r"\W+")
# The allowed functions. A function that a new version of DuckDB adds is an error until it has been reviewed. DuckDB's
# own mark "consistent" is not reliable: age(x), localtime and AT TIME ZONE have it but depend on the present time.
_FUNCTIONS = frozenset(
    """
    abs acos acosh add aggregate apply array_aggr array_aggregate array_append array_apply array_cat array_concat
    array_contains array_cosine_distance array_cosine_similarity array_cross_product array_distance array_distinct
    array_dot_product array_extract array_filter array_grade_up array_has array_has_all array_has_any array_indexof
    array_inner_product array_intersect array_length array_negative_dot_product array_negative_inner_product
    array_pop_back array_pop_front array_position array_prepend array_push_back array_push_front array_reduce
    array_resize array_reverse array_reverse_sort array_select array_slice array_sort array_to_json array_to_string
    array_to_string_comma_default array_transform array_unique array_value array_where array_zip ascii asin asinh
    atan atan2 atanh bar base64 bin binom bit_count bit_length bit_position bitstring cardinality cbrt ceil ceiling
    century char_length character_length chr concat concat_ws contains cos cosh cot damerau_levenshtein date_add
    date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day dayname dayofmonth dayofweek
    dayofyear days_in_month decade decode degrees divide editdist3 element_at encode ends_with epoch epoch_ms
    epoch_ns epoch_us era even exp factorial fdiv filter flatten floor fmod format format_bytes
    formatreadabledecimalsize formatreadablesize from_base64 from_binary from_hex from_json from_json_strict gamma
    gcd geomean geometric_mean get_bit grade_up greatest greatest_common_divisor hamming hash hex hour if
    ilike_escape instr isfinite isinf isnan isodow isoyear jaccard jaro_similarity jaro_winkler_similarity
    json_array json_array_length json_contains json_deep_merge json_exists json_extract json_extract_path
    json_extract_path_text json_extract_string json_insert json_keys json_merge_patch json_merge_patch_diff
    json_normalize json_object json_pretty json_quote json_remove json_replace json_set json_strip_nulls
    json_structure json_transform json_transform_strict json_type json_valid json_value julian last_day lcase lcm
    least least_common_multiple left left_grapheme len length length_grapheme levenshtein lgamma like_escape
    list_aggr list_aggregate list_any_value list_append list_apply list_approx_count_distinct list_avg list_bit_and
    list_bit_or list_bit_xor list_bool_and list_bool_or list_cat list_concat list_contains list_cosine_distance
    list_cosine_similarity list_count list_distance list_distinct list_dot_product list_element list_entropy
    list_extract list_filter list_first list_grade_up list_has list_has_all list_has_any list_histogram list_indexof
    list_inner_product list_intersect list_kurtosis list_kurtosis_pop list_last list_mad list_max list_median
    list_min list_mode list_negative_dot_product list_negative_inner_product list_pack list_position list_prepend
    list_product list_reduce list_resize list_reverse list_reverse_sort list_select list_sem list_skewness
    list_slice list_sort list_stddev_pop list_stddev_samp list_string_agg list_sum list_transform list_unique
    list_value list_var_pop list_var_samp list_where list_zip ln log log10 log2 lower lpad ltrim make_date make_time
    make_timestamp make_timestamp_ms make_timestamp_ns make_timestamptz map map_concat map_contains
    map_contains_entry map_contains_value map_entries map_extract map_extract_value map_from_entries map_keys
    map_values md5 md5_number microsecond millennium millisecond minute mismatches mod month monthname multiply
    nanosecond nextafter nfc_normalize normalized_interval not_ilike_escape not_like_escape nullif octet_length ord
    overlay parse_dirname parse_dirpath parse_filename parse_formatted_bytes parse_path path_join pi position pow
    power prefix printf quarter radians reduce regexp_escape regexp_extract regexp_extract_all regexp_full_match
    regexp_matches regexp_replace regexp_split_to_array replace reverse right right_grapheme round round_even
    roundbankers row row_to_json rpad rtrim second set_bit sha1 sha256 sign signbit sin sinh split split_part sqrt
    starts_with str_split str_split_regex strftime string_split string_split_regex string_to_array strip_accents
    strlen strpos strptime struct_concat struct_contains struct_extract struct_extract_at struct_has struct_indexof
    struct_insert struct_keys struct_pack struct_position struct_update struct_values substr substring
    substring_grapheme subtract suffix switch tan tanh time_bucket to_base to_base64 to_binary to_centuries to_days
    to_decades to_hex to_hours to_json to_microseconds to_millennia to_milliseconds to_minutes to_months to_quarters
    to_seconds to_timestamp to_weeks to_years translate trim trunc try_strptime typeof ucase unbin unhex unicode
    union_extract union_tag union_value upper url_decode url_encode uuid_extract_timestamp uuid_extract_version week
    weekday weekofyear xor year yearweek
    """.split()  # noqa: SIM905
)


def sandbox() -> "DuckDBPyConnection":
    """Return a connection that cannot read files or load extensions, and whose settings cannot be changed."""
    import duckdb

    connection = duckdb.connect(":memory:", config=_SANDBOX)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection


def check_where(expression: str) -> str:
    """Return the expression, after checking that it is true or false for a row and depends only on the row.

    Raises:
        ValueError: It is not.
    """
    # The error has no cause, because pydantic keeps it, and with its frames DuckDB's objects until the process ends.
    if (problem := _problem(expression)) is not None:
        columns = ", ".join(COLUMNS.names)
        raise ValueError(
            f"{problem}; write an SQL expression that is true or false for a row, with the columns {columns}"
        )
    return expression


def _problem(expression: str) -> str | None:
    import duckdb

    if (depth := _bracket_depth(expression)) > MAX_DEPTH:
        return f"the expression has {depth} nested brackets, and the limit is {MAX_DEPTH}"
    try:
        with sandbox() as connection, _limited(connection):
            parsed = duckdb.SQLExpression(expression)
            if beyond := _beyond_the_row(connection, expression):
                return beyond
            rows = _rows(connection, COLUMNS.empty_table())
            (kind,) = {str(column) for column in rows.select(parsed).types}
            if kind != "BOOLEAN":
                return f"the expression has a value of type {kind}, not BOOLEAN"
            rows.filter(parsed).fetchall()
    except duckdb.Error as error:
        return error_reason(error)
    return None


def columns_of(expression: str) -> list[str]:
    """Return the columns that an expression uses."""
    with sandbox() as connection:
        named = {_name(node) for node in _nodes(_tree(connection, expression)) if node["class"] == "COLUMN_REF"}
    return [name for name in COLUMNS.names if name in named]


def matching_rows(connection: "DuckDBPyConnection", expression: str, table: pa.Table) -> list[int]:
    """Return the positions of the rows of `table` for which the expression is true. The table has its columns.

    Raises:
        duckdb.Error: The expression fails on a row, for example on a text that is not a number, or it takes longer than
            MAX_SECONDS.
    """
    import duckdb

    with _limited(connection):
        rows = (
            _rows(connection, table)
            .filter(duckdb.SQLExpression(expression))
            .select("row_position")
            .order("row_position")
        )
        return [position for (position,) in rows.fetchall()]


def error_reason(error: Exception) -> str:
    """Return the reason of a duckdb.Error in one line."""
    import duckdb

    if isinstance(error, duckdb.InterruptException):
        return f"the expression takes longer than {MAX_SECONDS:g} seconds (write a simpler one)"
    return first_line(error).rstrip(".")


@contextmanager
def _limited(connection: "DuckDBPyConnection") -> Iterator[None]:
    """Interrupt each query that takes longer than MAX_SECONDS, which then raises duckdb.InterruptException.

    DuckDB checks for an interruption between two calls of a function, not within a call.
    """
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(MAX_SECONDS):
            connection.interrupt()

    timer = threading.Thread(target=interrupt, daemon=True)
    timer.start()
    try:
        yield
    finally:
        ended.set()
        timer.join()  # otherwise it could interrupt the next query


def _bracket_depth(expression: str) -> int:
    """Return the largest number of nested brackets. Brackets in texts count too."""
    steps = ((character in "([{") - (character in ")]}") for character in expression)
    return max(accumulate(steps), default=0)


def _rows(connection: "DuckDBPyConnection", table: pa.Table) -> "DuckDBPyRelation":
    for field in COLUMNS:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    connection.register("part", table.append_column("row_position", pa.array(range(len(table)), pa.int64())))
    plain = ", ".join(f'"{name}"' for name in COLUMNS.names if name != "json")
    return connection.sql(f"SELECT row_position, {plain}, TRY_CAST(json AS JSON) AS json FROM part")


def _beyond_the_row(connection: "DuckDBPyConnection", expression: str) -> str | None:
    """Return the reason why an expression may depend on more than the row; None if it depends only on the row.

    Such an expression could select other rows in another run, or in another part.
    """
    nodes = list(_nodes(_tree(connection, expression)))
    parameters = {_name(below) for node in nodes if node["class"] == "LAMBDA" for below in _nodes(node["lhs"])}
    for node in nodes:
        name = _name(node)
        if not _CLASSES.fullmatch(node["class"]):
            return f"a {node['class'].lower().replace('_', ' ')} is not allowed"
        if node["class"] == "COLUMN_REF" and name not in COLUMNS.names and name not in parameters:
            return f"there is no column {name}"
        if node["class"] == "FUNCTION" and not (_OPERATOR.fullmatch(name) or name in _FUNCTIONS):
            return (
                f"the function {name} is not allowed: it does not exist, or its value may depend on more than the row"
            )
    return None


def _name(node: dict[str, Any]) -> str:
    """Return the column or function that a node of the syntax tree names; empty if it names none."""
    return str(node["column_names"][0] if node["class"] == "COLUMN_REF" else node.get("function_name", "")).lower()


def _tree(connection: "DuckDBPyConnection", expression: str) -> Any:
    written = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {expression}"]).fetchall()
    return json.loads(written[0][0])


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every expression of a syntax tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for below in tree:
            yield from _nodes(below)
