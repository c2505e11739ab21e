"""Read a job spec: YAML or JSON in, a validated spec out, or an error that says which line to mend."""

import difflib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.errors import expected, is_sentence
from schemas.locations import without_secrets
from schemas.specs import KINDS, EditSpec, InvertSpec

LARGEST = 16 << 20  # bytes of a spec

FieldPath = tuple[str | int, ...]  # ("edits", 1, "strength"), written edits[1].strength


class SpecError(ValueError):
    """A spec that cannot run. The text is for a person: the file, then each problem with its line and field.

    A password that somebody wrote into a URL is not repeated in it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(without_secrets(text))


def load(path: str | Path, overrides: Sequence[str] = ()) -> InvertSpec | EditSpec:
    """Read, override, resolve and validate the spec in `path`: JSON where the name ends in .json, else YAML.

    `overrides` are fields with YAML values, `sampler.steps=25` or `edits[0].strength=0.5`, and win over the file.
    Relative local paths in input, output, latents, keys, tables and model.path are taken from the current working
    directory, and ~ from the home; URLs are left alone. model.path is a folder if there is one of that name or it
    starts with `.` or `~`; otherwise it is a hub id.

    Raises SpecError for anything wrong with the file, the overrides or the fields, all of the fields' problems at once.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            read = file.read(LARGEST + 1)
        if len(read) > LARGEST:
            raise SpecError(f"{path}: is larger than {LARGEST:,} bytes; name shards with braces, {{00000..00031}}.tar")
        text = read.decode("utf-8-sig")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not UTF-8 text; save it as UTF-8 ({error})") from error
    data, node = _parse_json(path, text) if path.suffix == ".json" else _parse_yaml(path, text)
    if data is None:
        raise SpecError(f"{path}: is empty; expected a mapping that starts with kind: invert or kind: edit")
    if not isinstance(data, dict):
        # the content is not shown, because it may be any file
        found = _show(data) if isinstance(data, list) else "text or a number"
        raise SpecError(f"{path}: found {found} at the top, expected a mapping with kind: invert or kind: edit")
    origins = {_override(data, override): override for override in overrides}

    def where(place: FieldPath) -> str:
        """Where a person finds `place`: an override that had a part in it, or the line of the YAML file."""
        for changed, override in origins.items():
            if all(a == b for a, b in zip(place, changed, strict=False)):
                return f"override {override}: "
        return f"line {_line(node, place)}: " if node else ""

    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        found = f"found {_show(kind)}, " if "kind" in data else "missing, "
        problem = f"{where(('kind',))}kind: {found}expected invert or edit{_did_you_mean(str(kind), KINDS)}"
        raise SpecError(f"{path}: 1 problem\n  {problem}")
    try:
        return KINDS[kind].model_validate(_resolved(data))
    except ValidationError as error:
        problems = _problems(KINDS[kind], data, error.errors(include_url=False), where)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError("\n  ".join([f"{path}: {count}", *problems])) from error


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which lets the last of two equal keys win, made to refuse the second.

    It refuses merges too: a few lines of them, each of all before, make a mapping that no memory holds.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                problem = "merge keys (<<) are not read; write the fields out"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if first := lines.get((key.tag, key.value)):
                    problem = f"the key {key.value!r} is written twice, first on line {first}"
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
        # The scanner stops at the tab or, where the tab goes on with a text, at what makes no sense after it.
        tabs = [
            n for n, written in enumerate(text.splitlines(), 1) if re.match(r" *\t", written) and abs(n - line) <= 1
        ]
        said = ", ".join(part for part in (error.context, error.problem) if part)
        problem = "indented with a tab; YAML wants spaces" if tabs else said
        raise SpecError(f"{path}: line {tabs[0] if tabs else line}: {problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: cannot be read as YAML: {error}") from error


def _parse_json(path: Path, text: str) -> tuple[Any, None]:
    try:
        return (json.loads(text, object_pairs_hook=_once_each) if text.strip() else None), None
    except json.JSONDecodeError as error:
        raise SpecError(f"{path}: line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: cannot be read as JSON: {error}") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"the key {key!r} is written twice")
        data[key] = value
    return data


def _override(data: dict[str, Any], override: str) -> FieldPath:
    """Set one field of `data` and return its place; sections that are absent are made."""
    path, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"\w+(\[\d+\]|\.\w+)*", path):
        raise SpecError(f"override {override!r}: expected field=value, such as sampler.steps=25")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"override {override!r}: the value is not YAML; quote it if it is text ({error})") from error
    place: FieldPath = tuple(int(index) if index else name for index, name in re.findall(r"\[(\d+)\]|(\w+)", path))
    target: Any = data
    for depth, step in enumerate(place):
        if not (isinstance(target, dict) if isinstance(step, str) else isinstance(target, list) and step < len(target)):
            here = _dotted(place[:depth])
            raise SpecError(f"override {override!r}: {here} is {_show(target)}, which has no {_dotted((step,))}")
        if depth == len(place) - 1:
            target[step] = value
        elif isinstance(target, dict) and target.get(step) is None:
            target[step] = {}
        target = target[step]
    return place


def _resolved(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with absolute local paths; whatever is not text is left for validation to refuse."""
    resolved = dict(data)
    for field in {"input", "output", "latents"} & data.keys():
        value = data[field]
        resolved[field] = [_absolute(part) for part in value] if isinstance(value, list) else _absolute(value)
    if isinstance(keys := data.get("keys"), str):
        resolved["keys"] = _absolute(keys)
    if isinstance(edits := data.get("edits"), list):
        resolved["edits"] = [
            _resolved_control(edit | {field: _absolute(edit[field]) for field in {"table", "pie_bench"} & edit.keys()})
            if isinstance(edit, dict)
            else edit
            for edit in edits
        ]
    model = data.get("model")
    if isinstance(model, dict) and isinstance(path := model.get("path"), str) and path != "default":
        folder = path.startswith((".", "~")) or Path(path).is_dir()
        resolved["model"] = {**model, "path": _absolute(path) if folder else path}
    return resolved


def _resolved_control(edit: dict[str, Any]) -> dict[str, Any]:
    """An edit whose masks, where they are files, have an absolute name."""
    match edit:
        case {"control": {"mask": {"file": file, **mask}, **control}, **rest}:
            return rest | {"control": control | {"mask": mask | {"file": _absolute(file)}}}
    return edit


def _absolute(path: Any) -> Any:
    # a pipe: is refused by its name, which as a path it would not have
    local = isinstance(path, str) and path and "://" not in path and not path.startswith("pipe:")
    return os.path.abspath(os.path.expanduser(path)) if local else path


def _problems(
    model: type[BaseModel], data: dict[str, Any], errors: list[ErrorDetails], where: Callable[[FieldPath], str]
) -> list[str]:
    """A line for each place that is wrong."""
    by_place: dict[FieldPath, list[ErrorDetails]] = {}
    for error in errors:
        by_place.setdefault(_field_path(data, error), []).append(error)
    # A union such as "text or a list of texts" complains once a branch: the branch that got furthest is the one meant.
    deepest = [
        place for place in by_place if not any(place == other[: len(place)] for other in by_place if other != place)
    ]
    return [f"{where(place)}{_dotted(place)}: {_problem(model, place, by_place[place])}" for place in deepest]


def _problem(model: type[BaseModel], place: FieldPath, errors: list[ErrorDetails]) -> str:
    first = errors[0]
    if first["type"] == "missing":
        return f"missing, expected: {_section(model, place[:-1]).model_fields[str(place[-1])].description}"
    if first["type"] == "extra_forbidden":
        known = _section(model, place[:-1]).model_fields
        return f"unknown field, expected one of {', '.join(known)}{_did_you_mean(str(place[-1]), known)}"
    of_key = first["loc"][-1] == "[key]"
    branches = [error for error in errors if (error["loc"][-1] == "[key]") == of_key]
    meant = [error for error in branches if not error["type"].endswith("_type")]
    if all(error["type"] == "literal_error" for error in meant):  # the one word that is taken is one of the branches
        meant = branches
    wanted = " or ".join(map(expected, meant))
    value = meant[0]["input"]
    if is_sentence(meant[0]) and isinstance(value, dict | list):
        return wanted
    unquoted = meant[0]["type"] == "string_type" and not isinstance(value, dict | list | None)
    found = f"the key {_show(value)}" if of_key or first["type"] == "invalid_key" else _show(value)
    if is_sentence(meant[0]):
        return f"found {found}: {wanted}"
    return f"found {found}, expected {wanted}{' (put it in quotes)' if unquoted else ''}"


def _field_path(data: Any, error: ErrorDetails) -> FieldPath:
    """pydantic's location of an error, without the names of union branches that it holds."""
    place: list[str | int] = []
    for step in error["loc"]:
        if (isinstance(data, dict) and step in data) or (isinstance(data, list) and isinstance(step, int)):
            data = cast(Any, data)[step]
            place.append(step)
    return (*place, error["loc"][-1]) if error["type"] == "missing" else tuple(place)


def _section(model: type[BaseModel], place: FieldPath) -> type[BaseModel]:
    """The model of the mapping at `place`, which holds names of sections and indices of lists of them."""
    for step in place:
        if isinstance(step, str):
            annotation = model.model_fields[step].annotation
            candidates = (annotation, *get_args(annotation))
            model = next(kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model


def _line(node: yaml.Node, place: FieldPath) -> int:
    """The line of the deepest part of `place` that the file holds."""
    line = int(node.start_mark.line)
    for step in place:
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


def _dotted(place: FieldPath) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".") or "the spec"


def _did_you_mean(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        value = without_secrets(value)  # before it is cut short, where a URL would not be known for one
    text = (
        json.dumps(value, ensure_ascii=False) if value is None or isinstance(value, str | bool | float) else str(value)
    )
    return text if len(text) <= 200 else f"{text[:197]}..."
