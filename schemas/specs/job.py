"""The spec of any job, and the JSON Schemas of both kinds."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from schemas.specs.edit_job import EditSpec
from schemas.specs.invert_job import InvertSpec

JobSpec = Annotated[InvertSpec | EditSpec, Field(discriminator="kind")]

KINDS: Mapping[str, type[InvertSpec] | type[EditSpec]] = {"invert": InvertSpec, "edit": EditSpec}


def json_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of one kind of job, `invert` or `edit`.

    Raises:
        KeyError: The kind is unknown.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **KINDS[kind].model_json_schema()}
