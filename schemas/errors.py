"""Errors in the words of a message: validation errors of pydantic, and long errors of libraries in one line."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.locations import without_secrets

_EXPECTED = {
    "string_type": "text",
    "string_unicode": "text without unpaired surrogates",
    "string_too_short": "text that is not empty",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "too_short": "at least one entry",
    "invalid_key": "text",
    "value_error": "{error}",
}


def is_sentence(error: ErrorDetails) -> bool:
    """Return True if `expected` returns a complete message, because one of our own validators raised the error."""
    return error["type"] == "value_error"


def expected(error: ErrorDetails) -> str:
    """Return the valid values as the end of the sentence "expected ...", or a complete message (`is_sentence`)."""
    return _EXPECTED.get(error["type"], error["msg"]).format(**error.get("ctx", {}))


def fault(error: ValueError) -> str:
    """Return a predicate that describes an invalid record: "lacks a, b", or "has an invalid `c` (reason)"."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_input=False)
    if missing := [_path(problem) for problem in found if problem["type"] == "missing"]:
        return f"lacks {', '.join(missing)}"
    return f"has an invalid `{_path(found[0])}` ({found[0]['msg']})"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the credentials of URLs; its class if it has no message."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, where servers and Ray write the cause below a traceback.

    Credentials and an empty message are treated as in `first_line`.
    """
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    lines = (line.strip() for line in without_secrets(str(error)).splitlines())
    return [line for line in lines if line] or [type(error).__name__]


def _path(error: ErrorDetails) -> str:
    return ".".join(map(str, error["loc"]))
