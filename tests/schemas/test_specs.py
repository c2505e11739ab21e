"""The specs: defaults, errors for invalid fields, and the generated JSON Schemas."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

import schemas
from schemas.specs import KINDS, Edit, EditSpec, EditWorkers, InvertSpec, JobSpec, SamplerSpec, json_schema

INVERT = {"kind": "invert", "input": "photos/{00000..00031}.tar", "output": "latents/"}
EDIT = {
    "kind": "edit",
    "latents": "latents/",
    "output": "edits/",
    "edits": [{"name": "snow", "prompt": "{caption}, snow"}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_file_is_up_to_date(kind: str) -> None:
    published = Path(schemas.__file__).with_name(f"{kind}.schema.json")
    assert json.loads(published.read_text(encoding="utf-8")) == json_schema(kind), "run: python -m schemas"


@pytest.mark.parametrize(("kind", "data"), [("invert", INVERT), ("edit", EDIT)])
def test_the_schema_and_the_model_accept_the_same_specs(kind: str, data: dict[str, Any]) -> None:
    validator = Draft202012Validator(json_schema(kind))
    assert validator.is_valid(data)
    assert validator.is_valid(json.loads(KINDS[kind].model_validate(data).model_dump_json()))
    assert not validator.is_valid({**data, "surprise": 1})


@pytest.mark.parametrize("mask", [{"words": "changed"}, {"file": "masks/{key}.png"}, {"pie_bench": True}])
def test_a_stored_spec_can_be_read_again(mask: dict[str, Any]) -> None:
    edit = {"name": "snow", "control": {"mask": mask}}
    edit |= {"pie_bench": "mapping.json"} if "pie_bench" in mask else {"prompt": "{caption}, snow"}
    spec = EditSpec.model_validate(EDIT | {"edits": [edit]})
    assert EditSpec.model_validate(json.loads(spec.model_dump_json())) == spec


def test_every_field_has_a_description() -> None:
    def without_description(node: Any, path: str = "") -> list[str]:
        if not isinstance(node, dict):
            return []
        fields = [
            f"{path}.{name}" for name, field in node.get("properties", {}).items() if not field.get("description")
        ]
        return fields + [name for key, value in node.items() for name in without_description(value, f"{path}.{key}")]

    assert [name for kind in KINDS for name in without_description(json_schema(kind), kind)] == []


def test_kind_selects_the_spec() -> None:
    adapter: TypeAdapter[InvertSpec | EditSpec] = TypeAdapter(JobSpec)
    assert isinstance(adapter.validate_python(INVERT), InvertSpec)
    assert isinstance(adapter.validate_python(EDIT), EditSpec)


@pytest.mark.parametrize(
    ("steps", "strength", "executed"),
    [(50, 1.0, 50), (50, 0.8, 40), (50, 0.58, 29), (1000, 0.001, 1), (3, 0.5, 1), (100, 0.29, 29), (10, 0.99, 9)],
)
def test_executed_steps(steps: int, strength: float, executed: int) -> None:
    assert SamplerSpec(steps=steps, strength=strength).executed_steps == executed


def test_a_sampler_that_executes_no_step_is_an_error_with_its_numbers() -> None:
    with pytest.raises(ValidationError, match=r"50 \* 0\.01 = 0\.5 executes no step"):
        SamplerSpec(steps=50, strength=0.01)


def test_edit_workers_default_to_the_gpus_and_batch_size_of_the_store() -> None:
    assert EditSpec.model_validate(EDIT).workers == EditWorkers(count=1, gpus=None, batch_size=None)
    assert InvertSpec.model_validate(INVERT).workers.batch_size == 16


def test_specs_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        InvertSpec.model_validate(INVERT).sampler.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("output", ["latents", "latents/", "./latents", "a/../latents"])
def test_an_output_that_is_the_input_is_an_error(output: str) -> None:
    with pytest.raises(ValidationError, match="the same location as latents"):
        EditSpec.model_validate({**EDIT, "output": output})
    with pytest.raises(ValidationError, match="the same location as input"):
        InvertSpec.model_validate({**INVERT, "input": ["x.tar", "latents/"], "output": output})


@pytest.mark.parametrize("location", ["s3://AKIA:pa/ss@bucket/x", "https://u:pass@host/x", "https://host/x?sig=pass"])
def test_a_secret_in_a_location_is_an_error_that_does_not_repeat_it(location: str) -> None:
    for kind, data in [
        ("invert", {**INVERT, "input": location}),
        ("invert", {**INVERT, "input": ["x.tar", location]}),
        ("invert", {**INVERT, "output": location}),
        ("invert", {**INVERT, "model": {"path": location}}),
        ("edit", {**EDIT, "latents": location}),
    ]:
        with pytest.raises(ValidationError, match="the URL contains credentials") as error:
            KINDS[kind].model_validate(data)
        assert "ss@" not in str(error.value) and "pass" not in str(error.value)


def test_a_container_of_azure_is_not_a_user() -> None:
    location = "abfss://container@account.dfs.core.windows.net/latents"
    assert InvertSpec.model_validate({**INVERT, "output": location}).output == location


def test_a_web_server_can_only_be_an_input() -> None:
    assert InvertSpec.model_validate({**INVERT, "input": "https://host/x.tar"}).input == "https://host/x.tar"
    with pytest.raises(ValidationError, match="a web server can only be read"):
        InvertSpec.model_validate({**INVERT, "output": "https://host/latents"})


@pytest.mark.parametrize("prompt", ["", "a cat", "{caption}", "{{literal}} {caption} {caption}", "}}{{"])
def test_valid_templates(prompt: str) -> None:
    assert Edit(name="a", prompt=prompt).prompt == prompt


@pytest.mark.parametrize(
    "prompt",
    ["{", "}", "{}", "{0}", "{key}", "{caption.x}", "{caption[0]}", "{caption!r}", "{caption:>9}", "{ caption}"],
)
def test_invalid_templates(prompt: str) -> None:
    with pytest.raises(ValidationError, match=r"literal|braces"):
        Edit(name="a", prompt=prompt)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of prompt, replace, regex, .*, but none is given"),
        ({"prompt": "x", "replace": {"a": "b"}}, "exactly one of .*, but prompt and replace are given"),
        ({"prompt": "x", "suffix": "b"}, "prompt and prefix or suffix are given"),
        ({"table": "x.csv", "pie_bench": "y"}, "table and pie_bench are given"),
        ({"regex": {}}, "at least 1"),
        ({"regex": {"(a": "b"}}, r"'\(a': 'b' is not valid in RE2 syntax \(.*missing \)"),
        ({"regex": {"(?<=a)b": "c"}}, "invalid perl operator"),
        ({"regex": {"a": r"\1"}}, "only has 0 parenthesized"),
        ({"regex": {"(a{1000}){1000}": "b"}}, "invalid repetition size"),
        ({"prefix": ""}, "at least 1"),
        ({"table": "x.txt"}, "end in one of .csv, .parquet, .jsonl"),
        ({"table": "https://u:pass@host/x.csv"}, "the URL contains credentials"),
        (
            {"prompt": "x", "negative_prompt": "y", "guidance_scale": 1.0},
            "negative_prompt has no effect at guidance_scale 1",
        ),
        ({"prompt": "x", "strength": 0.5, "steps": 9}, "strength and steps have the same meaning"),
        ({"replace": {}}, "at least 1"),
        ({"replace": {"": "b"}}, "pattern"),
        ({"replace": {"a": ""}}, "pattern"),
        ({"replace": {"a": []}}, "at least 1"),
        ({"replace": {"a": ["b", " "]}}, "pattern"),
        ({"replace": {"a": ["b", "c", "b"]}}, "'b' is listed twice under 'a'"),
        ({"replace": {"Dog": "b", "dog": "c"}}, "'dog' occurs twice"),
        ({"prompt": "x", "name": "Snow"}, "pattern"),
        ({"prompt": "x", "name": "-a"}, "pattern"),
        ({"prompt": "x", "name": "a\n"}, "pattern"),
        ({"prompt": "x", "name": "a" * 65}, "at most 64"),
    ],
)
def test_invalid_edits(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Edit.model_validate({"name": "a", **fields})


def test_edits_have_distinct_names() -> None:
    with pytest.raises(ValidationError, match="two edits have the name 'snow'"):
        EditSpec.model_validate({**EDIT, "edits": EDIT["edits"] * 2})  # type: ignore[operator]
