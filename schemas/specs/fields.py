"""Types of fields that several sections of a spec share, and their checks."""

import posixpath
import string
from collections import Counter
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from schemas.locations import without_secrets

TABLE_EXTENSIONS = (".csv", ".parquet", ".jsonl")


def _check_location(location: str) -> str:
    if without_secrets(location) != location:
        raise ValueError(
            "the URL contains credentials or a query, and it is stored with the job; give the URL without them "
            "(credentials come from the environment)"
        )
    if any(ord(character) < 32 for character in location):
        raise ValueError("the name contains control characters; rename it")
    return location


def _check_writable(location: str) -> str:
    if location.startswith(("http://", "https://")):
        raise ValueError("a web server can only be read; give a folder or an object-store URL")
    return location


def _check_table(location: str) -> str:
    if not location.lower().endswith(TABLE_EXTENSIONS):
        raise ValueError(f"the name of a table must end in one of {', '.join(TABLE_EXTENSIONS)}")
    return location


Dtype = Literal["float32", "bfloat16", "float16"]
Text = Annotated[str, Field(min_length=1)]
Words = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]
Location = Annotated[Text, AfterValidator(_check_location)]
StoreLocation = Annotated[Location, AfterValidator(_check_writable)]
TableLocation = Annotated[Location, AfterValidator(_check_table)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Guidance = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


def check_template(text: str | None, names: tuple[str, ...]) -> str | None:
    """Return a template, after checking that it has only placeholders with these names.

    Raises:
        ValueError: The template has another placeholder, or a single brace.
    """
    try:
        fields = list(string.Formatter().parse(text or ""))
    except ValueError as error:
        raise ValueError(f"the template has a single brace ({error}); write literal braces as {{{{ and }}}}") from error
    for _, name, form, conversion in fields:
        if name is not None and (name not in names or form or conversion):
            written = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            known = ", ".join(f"{{{name}}}" for name in names)
            raise ValueError(
                f"the template has the unknown placeholder {{{written}}}; use only {known}, and write literal braces "
                "as {{ and }}"
            )
    return text


def check_not_input(output: str, inputs: list[str], field: str) -> str:
    """Return the location of an output, after checking that it is none of the `inputs`.

    Raises:
        ValueError: It is one of them. The message has the name of their `field`.
    """
    if any(posixpath.normpath(output) == posixpath.normpath(other) for other in inputs):
        raise ValueError(f"the output is the same location as {field}; give another one")
    return output


def first_repeated(words: list[str]) -> str | None:
    """Return the first word that occurs more than once; None if there is none."""
    return next((word for word, count in Counter(words).items() if count > 1), None)
