"""Read a job spec from a YAML or JSON file. An error names the file, the line and the field."""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.errors import expected, is_sentence
from schemas.locations import without_secrets
from schemas.specs import KINDS, EditSpec, InvertSpec

MAX_BYTES = 16 << 20  # size limit of a spec file
START_HINT = "Start it with `kind: invert` or `kind: edit`"

FieldPath = tuple[str | int, ...]
"""The path to a field: ("edits", 1, "strength") is edits[1].strength."""


class SpecError(ValueError):
    """A spec that cannot run. The message has the file, and the line and field of each problem.

    Passwords in URLs are removed from the message.
    """

    def __init__(self, text: str) -> None:
        super().__init__(without_secrets(text))


def load(path: str | Path, overrides: Sequence[str] = ()) -> InvertSpec | EditSpec:
    """Read and validate the spec in `path`: JSON if the name ends in .json, otherwise YAML.

    `overrides` are fields with YAML values, such as `sampler.steps=25` or `edits[0].strength=0.5`. They replace those
    of the file. Relative local paths are resolved against the current working directory, and ~ is the home directory.
    `model.path` is a folder if it exists or starts with `.` or `~`. Otherwise it is a hub id.

    Raises:
        SpecError: The file, an override or a field is not valid. All invalid fields are reported together.
    """
    path = Path(path)
    data, node = _parse(path)
    origins = {_apply_override(data, override): override for override in overrides}

    def location(field: FieldPath) -> str:
        """Return the source of a field: the override that changed a part of it, or the line of the YAML file."""
        for changed, override in origins.items():
            if all(a == b for a, b in zip(field, changed, strict=False)):
                return f"--set {override}"
        return f"line {_line(node, field)}" if node else ""

    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        found = f"found {_show(kind)}" if "kind" in data else "missing"
        hint = _did_you_mean(str(kind), KINDS)
        problem = f"kind: {found}. Set `kind: invert` or `kind: edit`{hint}"
        raise _spec_error(path, [(location(("kind",)), problem)])
    try:
        return KINDS[kind].model_validate(_with_absolute_paths(data))
    except ValidationError as error:
        problems = _problems(KINDS[kind], data, error.errors(include_url=False))
        raise _spec_error(path, [(location(field), problem) for field, problem in problems]) from error


def _spec_error(path: Path, problems: Sequence[tuple[str, str]]) -> SpecError:
    """Return the error of a file with problems. Each has a location in the file, which may be empty, and a message."""
    if len(problems) == 1:
        ((location, problem),) = problems
        return SpecError(f"{path}, {location}: {problem}" if location else f"{path}: {problem}")
    lines = (f"{location}: {problem}" if location else problem for location, problem in problems)
    return SpecError("\n  ".join([f"{path} has {len(problems)} problems:", *lines]))


def _parse(path: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    """Return the mapping of a file, and the YAML node with its lines. Raises SpecError."""
    try:
        with path.open("rb") as file:
            read = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    if len(read) > MAX_BYTES:
        raise SpecError(
            f"{path}: is larger than {MAX_BYTES:,} bytes. Give a list of shards as one pattern, such as "
            "photos/{00000..00031}.tar"
        )
    try:
        text = read.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8") from error
    data, node = _parse_json(path, text) if path.suffix == ".json" else _parse_yaml(path, text)
    if data is None:
        raise SpecError(f"{path}: is empty. {START_HINT}")
    if not isinstance(data, dict):
        # The content is not shown, because the file may be any file.
        found = _show(data) if isinstance(data, list) else "text or a number"
        raise SpecError(f"{path}: found {found} at the top, expected a mapping. {START_HINT}")
    return data, node


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, with an error for repeated keys and for merge keys.

    The safe loader takes the last of two equal keys. With a few lines of merge keys, a mapping can exceed any memory.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                problem = "merge keys (<<) are not read. Write the fields out"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if first := lines.get((key.tag, key.value)):
                    problem = f"the key {key.value!r} is written twice, first on line {first}. Remove one"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                lines[key.tag, key.value] = key.start_mark.line + 1
        return node


def _parse_yaml(path: Path, text: str) -> tuple[Any, yaml.Node | None]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return (loader.construct_document(node) if node else None), node
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        # The scanner stops at the tab or, if text follows the tab, at the next line that makes no sense.
        tabs = [
            number
            for number, content in enumerate(text.splitlines(), 1)
            if re.match(r" *\t", content) and abs(number - line) <= 1
        ]
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        problem = "indented with a tab. Use spaces" if tabs else reason
        raise SpecError(f"{path}, line {tabs[0] if tabs else line}: {problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: cannot be read as YAML: {error}") from error


def _parse_json(path: Path, text: str) -> tuple[Any, None]:
    try:
        return (json.loads(text, object_pairs_hook=_without_repeats) if text.strip() else None), None
    except json.JSONDecodeError as error:
        raise SpecError(f"{path}, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: cannot be read as JSON: {error}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"the key {key!r} is written twice. Remove one")
        data[key] = value
    return data


def _apply_override(data: dict[str, Any], override: str) -> FieldPath:
    """Set one field of `data`, and return its path. Missing sections are added. Raises SpecError."""
    name, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"\w+(\[\d+\]|\.\w+)*", name):
        raise SpecError(f"--set {override}: is not FIELD=VALUE. Write it as sampler.steps=25")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"--set {override}: the value is not YAML ({error}). Quote it if it is text") from error
    path: FieldPath = tuple(int(index) if index else key for index, key in re.findall(r"\[(\d+)\]|(\w+)", name))
    target: Any = data
    for depth, step in enumerate(path):
        if not (isinstance(target, dict) if isinstance(step, str) else isinstance(target, list) and step < len(target)):
            raise SpecError(
                f"--set {override}: {_dotted(path[:depth])} is {_show(target)}, which has no {_dotted((step,))}"
            )
        if depth == len(path) - 1:
            target[step] = value
        elif isinstance(target, dict) and target.get(step) is None:
            target[step] = {}
        target = target[step]
    return path


def _with_absolute_paths(data: dict[str, Any]) -> dict[str, Any]:
    """Return `data` with absolute local paths. Values of other types are left to the validation."""
    resolved = dict(data)
    for field in {"input", "output", "latents"} & data.keys():
        value = data[field]
        resolved[field] = [_absolute(part) for part in value] if isinstance(value, list) else _absolute(value)
    if isinstance(keys := data.get("keys"), str):
        resolved["keys"] = _absolute(keys)
    if isinstance(edits := data.get("edits"), list):
        resolved["edits"] = [_with_absolute_files(edit) if isinstance(edit, dict) else edit for edit in edits]
    model = data.get("model")
    if isinstance(model, dict) and isinstance(path := model.get("path"), str) and path != "default":
        is_folder = path.startswith((".", "~")) or Path(path).is_dir()
        resolved["model"] = {**model, "path": _absolute(path) if is_folder else path}
    return resolved


def _with_absolute_files(edit: dict[str, Any]) -> dict[str, Any]:
    """Return an edit with absolute paths of its table and its masks."""
    edit = edit | {field: _absolute(edit[field]) for field in {"table", "pie_bench"} & edit.keys()}
    match edit:
        case {"control": {"mask": {"file": file, **mask}, **control}, **rest}:
            return rest | {"control": control | {"mask": mask | {"file": _absolute(file)}}}
    return edit


def _absolute(path: Any) -> Any:
    # A location that starts with pipe: is an error of the validation, which needs its original name.
    local = isinstance(path, str) and path and "://" not in path and not path.startswith("pipe:")
    return os.path.abspath(os.path.expanduser(path)) if local else path


def _problems(
    model: type[BaseModel], data: dict[str, Any], errors: Sequence[ErrorDetails]
) -> list[tuple[FieldPath, str]]:
    """Return the path and the problem of each invalid field."""
    by_field: dict[FieldPath, list[ErrorDetails]] = {}
    for error in errors:
        by_field.setdefault(_field_path(data, error), []).append(error)
    # A union such as "text or a list of texts" gives an error per branch. The deepest error is of the intended branch.
    deepest = [
        field for field in by_field if not any(field == other[: len(field)] for other in by_field if other != field)
    ]
    return [(field, f"{_dotted(field)}: {_problem(model, field, by_field[field])}") for field in deepest]


def _problem(model: type[BaseModel], field: FieldPath, errors: Sequence[ErrorDetails]) -> str:
    """Describe the problem of a field, from all errors that pydantic has for it."""
    first = errors[0]
    if first["type"] == "missing":
        return f"missing. It is required: {_section(model, field[:-1]).model_fields[str(field[-1])].description}"
    if first["type"] == "extra_forbidden":
        known = _section(model, field[:-1]).model_fields
        hint = _did_you_mean(str(field[-1]), known) or "."
        return f"unknown field{hint} The fields are {', '.join(known)}"
    is_key = first["loc"][-1:] == ("[key]",)
    branches = [error for error in errors if (error["loc"][-1:] == ("[key]",)) == is_key]
    intended = [error for error in branches if not error["type"].endswith("_type")]
    if all(error["type"] == "literal_error" for error in intended):  # A single word is only one of the branches.
        intended = branches
    wanted = " or ".join(map(expected, intended))
    value = intended[0]["input"]
    if is_sentence(intended[0]) and isinstance(value, dict | list):
        return wanted
    unquoted = intended[0]["type"] == "string_type" and not isinstance(value, dict | list | None)
    found = f"the key {_show(value)}" if is_key or first["type"] == "invalid_key" else _show(value)
    if is_sentence(intended[0]):
        return f"found {found}: {wanted}"
    return f"found {found}, expected {wanted}{' (put it in quotes)' if unquoted else ''}"


def _field_path(data: Any, error: ErrorDetails) -> FieldPath:
    """Return pydantic's location of an error without the names of union branches."""
    path: list[str | int] = []
    for step in error["loc"]:
        if (isinstance(data, dict) and step in data) or (isinstance(data, list) and isinstance(step, int)):
            data = cast(Any, data)[step]
            path.append(step)
    return (*path, error["loc"][-1]) if error["type"] == "missing" else tuple(path)


def _section(model: type[BaseModel], path: FieldPath) -> type[BaseModel]:
    """Return the model of the mapping at `path`, which has names of sections and indices of lists of them."""
    for step in path:
        if isinstance(step, str):
            annotation = model.model_fields[step].annotation
            candidates = (annotation, *get_args(annotation))
            model = next(kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model


def _line(node: yaml.Node, path: FieldPath) -> int:
    """Return the line of the deepest part of `path` that the file has."""
    line = int(node.start_mark.line)
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = (node.value[step], node.value[step])
        else:
            found = None
        if found is None:
            break
        line, node = int(found[0].start_mark.line), found[1]
    return line + 1


def _dotted(path: FieldPath) -> str:
    """Return a path as it is written in an override, such as edits[0].strength."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".") or "the spec"


def _did_you_mean(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _show(value: Any) -> str:
    """Return a value as it appears in a message: as JSON, without secrets, and shortened if it is long."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        value = without_secrets(value)  # This precedes the shortening, after which a URL may not be recognized.
    text = (
        json.dumps(value, ensure_ascii=False) if value is None or isinstance(value, str | bool | float) else str(value)
    )
    return text if len(text) <= 200 else f"{text[:197]}..."
