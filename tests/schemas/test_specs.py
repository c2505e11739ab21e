"""The specs: what the defaults come to, what is refused, and that the published schemas are the models' own."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

import schemas.specs
from schemas.specs import KINDS, Edit, EditSpec, EditWorkers, InvertSpec, JobSpec, SamplerSpec, json_schema

INVERT = {"kind": "invert", "input": "photos/{00000..00031}.tar", "output": "latents/"}
EDIT = {
    "kind": "edit",
    "latents": "latents/",
    "output": "edits/",
    "edits": [{"name": "snow", "prompt": "{caption}, snow"}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_published_schema_is_the_models_own(kind: str) -> None:
    published = Path(schemas.specs.__file__).with_name(f"{kind}.schema.json")
    assert json.loads(published.read_text(encoding="utf-8")) == json_schema(kind), "run: python -m schemas"


@pytest.mark.parametrize(("kind", "data"), [("invert", INVERT), ("edit", EDIT)])
def test_schema_accepts_what_the_model_accepts(kind: str, data: dict[str, Any]) -> None:
    validator = Draft202012Validator(json_schema(kind))
    assert validator.is_valid(data)
    assert validator.is_valid(json.loads(KINDS[kind].model_validate(data).model_dump_json()))
    assert not validator.is_valid({**data, "surprise": 1})


@pytest.mark.parametrize("mask", [{"words": "changed"}, {"file": "masks/{key}.png"}, {"pie_bench": True}])
def test_a_spec_is_read_again_as_a_store_keeps_it(mask: dict[str, Any]) -> None:
    edit = {"name": "snow", "control": {"mask": mask}}
    edit |= {"pie_bench": "mapping.json"} if "pie_bench" in mask else {"prompt": "{caption}, snow"}
    spec = EditSpec.model_validate(EDIT | {"edits": [edit]})
    assert EditSpec.model_validate(json.loads(spec.model_dump_json())) == spec


def test_every_field_is_described() -> None:
    def undescribed(node: Any, path: str = "") -> list[str]:
        if not isinstance(node, dict):
            return []
        fields = [
            f"{path}.{name}" for name, field in node.get("properties", {}).items() if not field.get("description")
        ]
        return fields + [hit for key, value in node.items() for hit in undescribed(value, f"{path}.{key}")]

    assert [hit for kind in KINDS for hit in undescribed(json_schema(kind), kind)] == []


def test_kind_tells_the_two_apart() -> None:
    adapter: TypeAdapter[InvertSpec | EditSpec] = TypeAdapter(JobSpec)
    assert isinstance(adapter.validate_python(INVERT), InvertSpec)
    assert isinstance(adapter.validate_python(EDIT), EditSpec)


@pytest.mark.parametrize(
    ("steps", "strength", "executed"),
    [(50, 1.0, 50), (50, 0.8, 40), (50, 0.58, 29), (1000, 0.001, 1), (3, 0.5, 1), (100, 0.29, 29), (10, 0.99, 9)],
)
def test_executed_steps(steps: int, strength: float, executed: int) -> None:
    assert SamplerSpec(steps=steps, strength=strength).executed_steps == executed


def test_a_sampler_that_executes_nothing_is_refused_with_its_numbers() -> None:
    with pytest.raises(ValidationError, match=r"50 \* 0\.01 = 0\.5 executes no step"):
        SamplerSpec(steps=50, strength=0.01)


def test_an_edit_takes_the_stores_batch_shape_unless_told() -> None:
    assert EditSpec.model_validate(EDIT).workers == EditWorkers(count=1, gpus=None, batch_size=None)
    assert InvertSpec.model_validate(INVERT).workers.batch_size == 16


def test_specs_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        InvertSpec.model_validate(INVERT).sampler.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("output", ["latents", "latents/", "./latents", "a/../latents"])
def test_output_apart_from_what_is_read(output: str) -> None:
    with pytest.raises(ValidationError, match="a place other than latents"):
        EditSpec.model_validate({**EDIT, "output": output})
    with pytest.raises(ValidationError, match="a place other than input"):
        InvertSpec.model_validate({**INVERT, "input": ["x.tar", "latents/"], "output": output})


@pytest.mark.parametrize("location", ["s3://AKIA:pa/ss@bucket/x", "https://u:pass@host/x", "https://host/x?sig=pass"])
def test_a_secret_in_a_location_is_refused_and_not_repeated(location: str) -> None:
    for kind, data in [
        ("invert", {**INVERT, "input": location}),
        ("invert", {**INVERT, "input": ["x.tar", location]}),
        ("invert", {**INVERT, "output": location}),
        ("invert", {**INVERT, "model": {"path": location}}),
        ("edit", {**EDIT, "latents": location}),
    ]:
        with pytest.raises(ValidationError, match="a URL without credentials") as error:
            KINDS[kind].model_validate(data)
        assert "ss@" not in str(error.value) and "pass" not in str(error.value)


def test_a_container_of_azure_is_no_user() -> None:
    place = "abfss://container@account.dfs.core.windows.net/latents"
    assert InvertSpec.model_validate({**INVERT, "output": place}).output == place


def test_a_web_server_is_read_only() -> None:
    assert InvertSpec.model_validate({**INVERT, "input": "https://host/x.tar"}).input == "https://host/x.tar"
    with pytest.raises(ValidationError, match="a web server can only be read"):
        InvertSpec.model_validate({**INVERT, "output": "https://host/latents"})


@pytest.mark.parametrize("prompt", ["", "a cat", "{caption}", "{{literal}} {caption} {caption}", "}}{{"])
def test_good_templates(prompt: str) -> None:
    assert Edit(name="a", prompt=prompt).prompt == prompt


@pytest.mark.parametrize(
    "prompt",
    ["{", "}", "{}", "{0}", "{key}", "{caption.x}", "{caption[0]}", "{caption!r}", "{caption:>9}", "{ caption}"],
)
def test_bad_templates(prompt: str) -> None:
    with pytest.raises(ValidationError, match=r"literal|braces"):
        Edit(name="a", prompt=prompt)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of prompt, replace, regex, .*; none is given"),
        ({"prompt": "x", "replace": {"a": "b"}}, "exactly one of .*; prompt and replace are given"),
        ({"prompt": "x", "suffix": "b"}, "prompt and prefix or suffix are given"),
        ({"table": "x.csv", "pie_bench": "y"}, "table and pie_bench are given"),
        ({"regex": {}}, "at least 1"),
        ({"regex": {"(a": "b"}}, r"'\(a': 'b' is not \(.*missing \)"),
        ({"regex": {"(?<=a)b": "c"}}, "invalid perl operator"),
        ({"regex": {"a": r"\1"}}, "only has 0 parenthesized"),
        ({"regex": {"(a{1000}){1000}": "b"}}, "invalid repetition size"),
        ({"prefix": ""}, "at least 1"),
        ({"table": "x.txt"}, "ends in one of .csv, .parquet, .jsonl"),
        ({"table": "https://u:pass@host/x.csv"}, "a URL without credentials"),
        ({"prompt": "x", "negative_prompt": "y", "guidance_scale": 1.0}, "other than 1 with negative_prompt"),
        ({"prompt": "x", "strength": 0.5, "steps": 9}, "strength or steps"),
        ({"replace": {}}, "at least 1"),
        ({"replace": {"": "b"}}, "pattern"),
        ({"replace": {"a": ""}}, "pattern"),
        ({"replace": {"a": []}}, "at least 1"),
        ({"replace": {"a": ["b", " "]}}, "pattern"),
        ({"replace": {"a": ["b", "c", "b"]}}, "'b' is listed twice under 'a'"),
        ({"replace": {"Dog": "b", "dog": "c"}}, "'dog' is there twice"),
        ({"prompt": "x", "name": "Snow"}, "pattern"),
        ({"prompt": "x", "name": "-a"}, "pattern"),
        ({"prompt": "x", "name": "a\n"}, "pattern"),
        ({"prompt": "x", "name": "a" * 65}, "at most 64"),
    ],
)
def test_bad_edits(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Edit.model_validate({"name": "a", **fields})


def test_edits_have_distinct_names() -> None:
    with pytest.raises(ValidationError, match="'snow' is there twice"):
        EditSpec.model_validate({**EDIT, "edits": EDIT["edits"] * 2})  # type: ignore[operator]
