"""Reading a spec: valid specs are read as written, and the errors of invalid specs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.spec_file import SpecError, load
from schemas.specs import EditSpec, InvertSpec

INVERT = "kind: invert\ninput: photos.tar\noutput: latents\n"
EDIT = "kind: edit\nlatents: latents\noutput: edits\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


BAD = {
    "empty": ("", ["is empty", "`kind: invert` or `kind: edit`"]),
    "only a comment": ("# nothing\n", ["is empty"]),
    "list": ("- kind: invert\n", ["found a list of 1 at the top", "expected a mapping"]),
    "text": ("invert\n", ["found text or a number at the top", "expected a mapping"]),
    "no kind": ("input: a\nsampler: {}\n", ["kind: missing. Set `kind: invert` or `kind: edit`"]),
    "wrong kind": (
        "kind: invret\n",
        ['line 1: kind: found "invret". Set `kind: invert` or `kind: edit`; did you mean invert?'],
    ),
    "tab": ("kind: invert\nsampler:\n\tsteps: 5\n", ["line 3", "indented with a tab"]),
    "tab after text": ("kind: invert\n\tinput: a\n", ["line 2", "indented with a tab"]),
    "bad yaml": ("kind: invert\ninput: [a, b\n", ["line 3: while parsing a flow sequence, expected"]),
    "twice": (INVERT + "output: b\n", ["line 4", "'output' is written twice, first on line 3"]),
    "twice below": (INVERT + "workers:\n  count: 1\n  count: 2\n", ["line 6", "'count' is written twice"]),
    "two documents": (INVERT + "---\n" + INVERT, ["line 4", "single document"]),
    "code": (INVERT + "model: !!python/object/apply:os.getcwd []\n", ["line 4", "could not determine a constructor"]),
    "no such day": (INVERT + "model: {revision: 2024-13-45}\n", ["cannot be read as YAML", "month"]),
    "missing": ("kind: invert\ninput: a\n", ["line 1: output: missing. It is required: The latent store"]),
    "unknown": (INVERT + "smapler: {}\n", ["line 4: smapler: unknown field", "did you mean sampler?"]),
    "unknown below": (INVERT + "sampler:\n  step: 5\n", ["line 5: sampler.step: unknown field", "did you mean steps?"]),
    "number key": (INVERT + "1: x\n", ["line 4", "found the key 1, expected text"]),
    "no steps": (INVERT + "sampler:\n  steps: 0\n", ["line 5: sampler.steps: found 0, expected at least 1"]),
    "many steps": (INVERT + "sampler: {steps: 1001}\n", ["line 4: sampler.steps: found 1001, expected at most 1000"]),
    "text number": (INVERT + "sampler: {steps: '50'}\n", ['sampler.steps: found "50", expected a whole number']),
    "fraction": (INVERT + "workers: {count: 1.5}\n", ["workers.count: found 1.5, expected a whole number"]),
    "yes": (INVERT + "workers: {gpus: yes}\n", ["workers.gpus: found true, expected a number"]),
    "strength": (INVERT + "sampler: {strength: 0.0}\n", ["sampler.strength: found 0.0, expected more than 0"]),
    "nan": (INVERT + "sampler: {guidance_scale: .nan}\n", ["guidance_scale: found NaN, expected a finite number"]),
    "inf": (INVERT + "workers: {gpus: .inf}\n", ["workers.gpus: found Infinity, expected a finite number"]),
    "nan for an int": (INVERT + "sampler: {bits: .nan}\n", ["sampler.bits: found NaN, expected a whole number"]),
    "p": (INVERT + "sampler: {p: 0.3}\n", ["sampler.p: found 0.3, expected at least 0.5"]),
    "no step runs": (INVERT + "sampler: {strength: 0.01}\n", ["line 4: sampler:", "50 * 0.01 = 0.5 executes no step"]),
    "choice": (INVERT + "model: {dtype: fp16}\n", ['found "fp16", expected', "'float32', 'bfloat16' or 'float16'"]),
    "null section": (INVERT + "workers:\n", ["line 4: workers: found null, expected a mapping"]),
    "no input": ("kind: invert\ninput: []\noutput: b\n", ["line 2: input: found an empty list", "at least one entry"]),
    "empty input": ("kind: invert\ninput: ''\noutput: b\n", ['input: found "", expected text that is not empty']),
    "number input": ("kind: invert\ninput: 5\noutput: b\n", ["input: found 5, expected text or a list"]),
    "one bad input": (
        "kind: invert\ninput:\n  - a.tar\n  - 7\noutput: b\n",
        ["job.yaml, line 4: input[1]: found 7, expected text (put it in quotes)"],
    ),
    "same place": (
        "kind: invert\ninput: a\noutput: ./a/\n",
        ["line 3: output:", "the output is the same location as input"],
    ),
    "no edits": (EDIT + "edits: []\n", ["line 4: edits: found an empty list, expected at least one entry"]),
    "edit strength": (
        EDIT + "edits:\n- {name: a, prompt: x}\n- name: b\n  prompt: y\n  strength: 2\n",
        ["line 8: edits[1].strength: found 2, expected at most 1"],
    ),
    "edit field": (
        EDIT + "edits:\n- {name: a, prompt: x}\n- {name: b, promt: x}\n",
        ["line 6: edits[1].promt: unknown field", "did you mean prompt?"],
    ),
    "edit name": (
        EDIT + "edits: [{name: A b, prompt: x}]\n",
        ['edits[0].name: found "A b", expected text that matches'],
    ),
    "edit date": (
        EDIT + "edits: [{name: 2024-01-01, prompt: x}]\n",
        ["found 2024-01-01, expected text (put it in quo"],
    ),
    "placeholder": (EDIT + "edits: [{name: a, prompt: '{dog}'}]\n", ['edits[0].prompt: found "{dog}"', "{caption}"]),
    "neither": (
        EDIT + "edits:\n- name: a\n",
        ["line 5: edits[0]:", "exactly one of prompt, replace, regex", "but none is given"],
    ),
    "same names": (
        EDIT + "edits: [{name: a, prompt: x}, {name: a, prompt: y}]\n",
        ["line 4: edits:", "two edits have the name 'a'"],
    ),
    "norway": (EDIT + "edits: [{name: a, replace: {on: off}}]\n", ["edits[0].replace", "put it in quotes"]),
    "blank key": (EDIT + "edits: [{name: a, replace: {' ': b}}]\n", ['found the key " ", expected text that matches']),
    "blank word": (EDIT + "edits: [{name: a, replace: {d: ['']}}]\n", ['edits[0].replace.d[0]: found ""']),
    "rows": (
        EDIT + "edits: [{name: a, prompt: x}]\ncontact_sheet: -1\n",
        ["contact_sheet: found -1, expected at least 0"],
    ),
    "quality of png": (
        EDIT + "edits: [{name: a, prompt: x}]\nimages: {quality: 90}\n",
        ["images: ", "quality has no effect with png, which is lossless; remove it, or use jpeg or webp"],
    ),
    "quality beyond": (
        EDIT + "edits: [{name: a, prompt: x}]\nimages: {format: webp, quality: 101}\n",
        ["images.quality: found 101, expected at most 100"],
    ),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD.keys())
def test_invalid_specs_are_errors_with_line_and_field(here: Path, text: str, said: list[str]) -> None:
    path = write(here, text)
    with pytest.raises(SpecError) as caught:
        load(path)
    message = str(caught.value)
    assert re.match(rf"{re.escape(str(path))}(, line \d+)?: ", message)
    assert [part for part in said if part not in message] == [], message


@pytest.mark.parametrize(
    "location", ["s3://AKIAKEY:pass@bucket/x", f"s3://AKIAKEY:pass{'/' * 200}@b/x", "https://host/x?sig=pass"]
)
def test_a_secret_in_a_location_is_not_shown(here: Path, location: str) -> None:
    path = write(here, INVERT)
    in_file = write(here, INVERT.replace("photos.tar", f"[photos.tar, {location!r}]"), "secret.yaml")
    for file, overrides in [(in_file, []), (path, [f"output={location}"]), (path, [f"kind={location}"])]:
        with pytest.raises(SpecError) as caught:
            load(file, overrides)
        assert "..." in str(caught.value)
        assert "pass" not in str(caught.value) and "AKIA" not in str(caught.value)


def test_all_problems_are_reported_together(here: Path) -> None:
    path = write(here, INVERT + "sampler: {steps: 0, bits: 3}\nimage: {crop: left}\n")
    with pytest.raises(
        SpecError, match=r"job\.yaml has 3 problems:\n  line 4: sampler.steps.*\n.*sampler.bits.*\n.*image.crop"
    ):
        load(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ('{"kind": "invert",\n "input" 1}', "line 2"),
        ('{"kind": "invert", "kind": "edit"}', "'kind' is written twice"),
        ('{"kind": "invert", "input": "a", "output": "b", "workers": {"gpus": NaN}}', "workers.gpus: found NaN"),
        ('{"kind": "invert", "input": "a", "output": "b", "workers": {"gpus": 1e999}}', "workers.gpus: found Infinity"),
    ],
)
def test_invalid_json(here: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load(write(here, text, "job.json"))


def test_unreadable_files(here: Path) -> None:
    with pytest.raises(SpecError, match=r"absent\.yaml: cannot be read: No such file"):
        load("absent.yaml")
    (here / "latin.yaml").write_bytes("kind: é".encode("latin-1"))
    with pytest.raises(SpecError, match="not UTF-8"):
        load("latin.yaml")


def test_yaml_and_json_give_the_same_spec(here: Path) -> None:
    data: dict[str, Any] = {
        "kind": "edit",
        "latents": "latents/",
        "output": "edits/",
        "edits": [
            {"name": "snow", "prompt": "{caption}, covered in snow"},
            {"name": "breed", "replace": {"dog": ["cat", "fox"]}, "guidance_scale": 5.0, "strength": 0.8},
        ],
        "images": {"format": "png"},
        "workers": {"count": 2, "gpus": 0, "batch_size": 16},
    }
    from_yaml = load(write(here, "\ufeff" + yaml.safe_dump(data)))
    assert from_yaml == load(write(here, json.dumps(data, indent="\t"), "job.json"))
    assert isinstance(from_yaml, EditSpec)
    assert from_yaml.edits[1].replace == {"dog": ["cat", "fox"]}


def test_paths_are_relative_to_the_working_directory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    (here / "models" / "mine").mkdir(parents=True)
    path = write(here, "kind: invert\ninput: ['a/{0..3}.tar', 's3://b/c.tar', /d.tar, ~/e.tar]\noutput: ../latents/\n")
    spec = load(path)
    assert isinstance(spec, InvertSpec)
    assert spec.input == [f"{here}/a/{{0..3}}.tar", "s3://b/c.tar", "/d.tar", "/home/someone/e.tar"]
    assert spec.output == f"{here.parent}/latents"
    assert [
        load(path, [f"model.path={name}"]).model.path for name in ("default", "org/name", "models/mine", "./new")
    ] == [  # type: ignore[union-attr]
        "default",
        "org/name",
        f"{here}/models/mine",
        f"{here}/new",
    ]


def test_overrides(here: Path) -> None:
    path = write(here, INVERT + "sampler: {steps: 10}\nworkers:\n")
    changes = [
        "sampler.steps=25",
        "sampler.p=null",
        "workers.count=4",
        "input=[a, b]",
        "input[1]=s3://c",
        "model.path=x=y",
    ]
    spec = load(path, changes)
    assert isinstance(spec, InvertSpec)
    assert (spec.sampler.steps, spec.sampler.p, spec.workers.count, spec.model.path) == (25, None, 4, "x=y")
    assert spec.input == [f"{here}/a", "s3://c"]
    edit = load(write(here, EDIT + "edits: [{name: a, prompt: x}]\n"), ["edits[0].strength=0.5"])
    assert isinstance(edit, EditSpec)
    assert edit.edits[0].strength == 0.5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sampler.steps", "is not FIELD=VALUE. Write it as sampler.steps=25"),
        ("sampler..steps=1", "is not FIELD=VALUE"),
        ("=1", "is not FIELD=VALUE"),
        ("sampler.steps=0", "--set sampler.steps=0: sampler.steps: found 0, expected at least 1"),
        ("sampler.step=3", "--set sampler.step=3: sampler.step: unknown field; did you mean steps?"),
        ("sampler.strength=0.01", "--set sampler.strength=0.01: sampler: .* executes no step"),
        ("input[0]=x", 'input is "photos.tar", which has no'),
        ("kind.x=1", 'kind is "invert", which has no x'),
        ("sampler={steps: 1, steps: 2}", "'steps' is written twice"),
        ("sampler={", "the value is not YAML"),
        ("kind=edti", "--set kind=edti: kind: .* did you mean edit?"),
    ],
)
def test_invalid_overrides(here: Path, override: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load(write(here, INVERT), [override])


SEGMENT = st.text("abcé狗0_-", min_size=1, max_size=5)
URL = st.builds("s3://{}/{}".format, SEGMENT, SEGMENT) | SEGMENT.map("/data/{}".format)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=5)
UNIT = st.floats(0.01, 1)
GUIDANCE = st.floats(0, 100)


def workers(batch: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional={"count": st.integers(1), "gpus": st.floats(0, 8), "batch_size": batch})


def sampler() -> st.SearchStrategy[Any]:
    optional = {
        "strength": UNIT,
        "guidance_scale": GUIDANCE,
        "p": st.none() | st.floats(0.5, 1),
        "bits": st.integers(4, 20),
    }
    return st.fixed_dictionaries({"steps": st.integers(100, 1000)}, optional=optional)


INVERTS = st.fixed_dictionaries(
    {
        "kind": st.just("invert"),
        "input": URL | st.lists(URL, min_size=1, max_size=3),
        "output": st.just("/out"),
        "sampler": sampler(),
    },
    optional={
        "model": st.fixed_dictionaries({"path": st.just("org/name"), "revision": st.none() | TEXT.filter(bool)}),
        "image": st.fixed_dictionaries({"posterior_seed": st.none() | st.integers(0, 2**63 - 1)}),
        "workers": workers(st.integers(1, 1024)),
    },
)
TEMPLATES = TEXT.map(lambda text: text.replace("{", "{{").replace("}", "}}") + "{caption}")
REPLACES = st.dictionaries(
    WORDS, WORDS | st.lists(WORDS, min_size=1, max_size=3, unique=True), min_size=1, max_size=3
).filter(lambda words: len({key.casefold() for key in words}) == len(words))
EDITS = st.lists(
    st.fixed_dictionaries({"name": st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)}).flatmap(
        lambda name: st.one_of(
            st.fixed_dictionaries({"prompt": TEMPLATES}, optional={"strength": UNIT, "guidance_scale": GUIDANCE}),
            st.fixed_dictionaries({"replace": REPLACES}, optional={"steps": st.none() | st.integers(1, 1000)}),
            st.fixed_dictionaries({"suffix": TEXT.filter(bool)}, optional={"negative_prompt": TEXT.filter(bool)}),
            st.fixed_dictionaries({"regex": st.dictionaries(WORDS.map(re.escape), SEGMENT, min_size=1, max_size=2)}),
            st.fixed_dictionaries({"table": URL.map("{}.csv".format)}),
            st.fixed_dictionaries({"pie_bench": URL}),
        ).map(lambda fields: {**name, **fields})
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda edit: edit["name"],
)
EDIT_SPECS = st.fixed_dictionaries(
    {"kind": st.just("edit"), "latents": URL, "output": st.just("/out"), "edits": EDITS},
    optional={
        "images": st.fixed_dictionaries({"format": st.sampled_from(["png", "jpeg", "webp"])})
        | st.fixed_dictionaries({"format": st.sampled_from(["jpeg", "webp"]), "quality": st.integers(1, 100)}),
        "workers": workers(st.none() | st.integers(1, 1024)),
        "contact_sheet": st.integers(0, 64),
        "where": st.sampled_from(["drift < 0.5", "(json->>'n') = 'é'", "key in ('a', 'b') -- these"]),
        "keys": URL | st.lists(SEGMENT, min_size=1, max_size=3),
        "sample": st.fixed_dictionaries({"count": st.integers(1)}, optional={"seed": st.integers(0, 9)}),
        "limit": st.none() | st.integers(1),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(INVERTS.map(InvertSpec.model_validate) | EDIT_SPECS.map(EditSpec.model_validate))
def test_a_spec_is_unchanged_by_yaml_and_json(tmp_path: Path, spec: InvertSpec | EditSpec) -> None:
    assert load(write(tmp_path, yaml.safe_dump(spec.model_dump(), allow_unicode=True))) == spec
    assert load(write(tmp_path, spec.model_dump_json(), "job.json")) == spec
