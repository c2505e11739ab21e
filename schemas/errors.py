"""Validation errors of pydantic in the words of an error message."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

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


def expected(error: ErrorDetails) -> str:
    """Return what a value should have been, to complete the sentence "expected ..."."""
    return _EXPECTED.get(error["type"], error["msg"]).format(**error.get("ctx", {}))


def fault(error: ValueError) -> str:
    """Return the words after "it": the fields that an invalid record lacks, or the first that is wrong."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_input=False)
    if missing := [_path(problem) for problem in found if problem["type"] == "missing"]:
        return f"lacks {', '.join(missing)}"
    return f"has an invalid `{_path(found[0])}` ({found[0]['msg']})"


def _path(error: ErrorDetails) -> str:
    return ".".join(map(str, error["loc"]))
