"""Invalid specs, from typing errors to hostile files. Each is written to a folder with a demo.tar."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.corpus.case import Case

Spec = Case[Callable[[Path], object]]

NO_SPEC, NO_PLAN = ("error SpecError",), ("error PlanError",)
INVERT = {"kind": "invert", "input": "demo.tar", "output": "latents"}
BASE = "kind: invert\ninput: demo.tar\noutput: latents\n"
LAUGHS = "a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n"
MERGES = "a: &a {ha: ha}\n"
for before, here in zip("abcdefghijkl", "bcdefghijklm", strict=True):
    LAUGHS += f"{here}: &{here} [{', '.join([f'*{before}'] * 9)}]\n"
    MERGES += f"{here}: &{here} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
FAN = {f"word{i}": [f"w{j}" for j in range(100)] for i in range(6)}


def text(name: str, description: str, written: str | bytes, message: str, results: tuple[str, ...] = NO_SPEC) -> Spec:
    data = written.encode() if isinstance(written, str) else written
    return Case(name, description, lambda path: path.write_bytes(data), results, message)


def shards(name: str, description: str, given: object, message: str, results: tuple[str, ...] = NO_PLAN) -> Spec:
    """Return an inversion whose only error is its input."""
    return text(name, description, json.dumps(INVERT | {"input": given}), message, results)


def edit(name: str, description: str, edits: object, message: str) -> Spec:
    return text(name, description, json.dumps({"kind": "edit", "latents": "x", "output": "y", "edits": edits}), message)


def rows(name: str, description: str, where: object, message: str) -> Spec:
    """Return an edit job whose only error is its `where`."""
    fields = {"kind": "edit", "latents": "x", "output": "y", "edits": [{"name": "a", "prompt": "x"}], "where": where}
    return text(name, description, json.dumps(fields), message)


SPECS: list[Spec] = [
    Case("spec-absent", "no spec", lambda path: None, NO_SPEC, "cannot be read: No such file"),
    Case(
        "spec-folder", "a spec that is a folder", lambda path: path.mkdir(), NO_SPEC, "cannot be read: Is a directory"
    ),
    Case(
        "spec-endless",
        "a spec without an end (/dev/zero)",
        lambda path: path.symlink_to("/dev/zero"),
        NO_SPEC,
        "is larger than",
    ),
    text("spec-empty", "an empty spec", "", "is empty"),
    text("spec-list", "a spec that is a list", "- kind: invert\n", "found a list of 1 at the top"),
    text("spec-latin", "a spec in Latin-1", BASE.encode() + b"# caf\xe9\n", "is not UTF-8"),
    text("spec-utf-16", "a spec in UTF-16", BASE.encode("utf-16"), "is not UTF-8"),
    text("spec-nul", "a spec with a NUL byte", BASE + "\0", "unacceptable character #x0000"),
    text("spec-tab", "a spec indented with a tab", "kind: invert\nmodel:\n\tpath: x\n", "line 3: indented with a tab"),
    text("spec-kind", "an unknown kind of job", "kind: insert\n", "did you mean invert?"),
    text("spec-unknown", "an unknown field", BASE + "samplr: {}\n", "line 4: samplr: unknown field"),
    text(
        "spec-type",
        "text instead of a number",
        BASE + 'workers: {count: "2"}\n',
        'workers.count: found "2", expected a whole',
    ),
    text("spec-negative", "a negative count", BASE + "workers: {count: -3}\n", "found -3, expected at least 1"),
    text(
        "spec-nan", "NaN as a number", BASE + "sampler: {guidance_scale: .nan}\n", "sampler.guidance_scale: found NaN"
    ),
    text("spec-digits", "a number of 5,000 digits", BASE + "workers: {count: " + "9" * 5000 + "}\n", "4300 digits"),
    text(
        "spec-twice",
        "a key that is written twice",
        BASE + "output: other\n",
        "line 4: the key 'output' is written twice, first on line 3",
    ),
    text(
        "spec-python",
        "a tag that runs Python",
        BASE + "model: !!python/object/apply:os.mkdir [made]\n",
        "line 4: could not determine a constructor",
    ),
    text("spec-documents", "two documents", BASE + "---\n" + BASE, "line 4: expected a single document"),
    text(
        "spec-laughs",
        'a "billion laughs" bomb of nested aliases',
        LAUGHS + BASE.replace("demo.tar", "*m"),
        "input[0]: found a list of 9",
    ),
    text("spec-merges", 'a "billion laughs" bomb of merge keys', MERGES + BASE, "line 2: merge keys (<<) are not read"),
    text(
        "spec-itself",
        "an alias inside its own anchor",
        "&a {kind: invert, input: x, output: y, model: *a}\n",
        "model.kind: unknown field",
    ),
    text("spec-deep", "10^5 nested brackets", "[" * 100_000, "cannot be read as YAML: maximum recursion"),
    text(
        "spec-secret",
        "a password in a URL (the message does not repeat it)",
        BASE.replace("demo.tar", "s3://ann:hunter2@bucket/a.tar"),
        "the URL contains credentials",
    ),
    text("spec-surrogate", "an unpaired surrogate", BASE.replace("demo.tar", r'"\ud800.tar"'), "unpaired surrogates"),
    text("spec-same", "an output that is the input", BASE.replace("latents", "demo.tar"), "the same location as input"),
    text("json-spec-cut", "a JSON spec that is cut", '{"kind": "invert",', "line 1"),
    text(
        "json-spec-twice",
        "a JSON spec with the same key twice",
        '{"kind": "invert", "kind": "edit"}',
        "'kind' is written twice",
    ),
    text(
        "json-spec-deep",
        "a JSON spec with 10^5 nested lists",
        "[" * 100_000,
        "cannot be read as JSON: maximum recursion",
    ),
    edit("edits-none", "an edit job without edits", [], "at least one entry"),
    edit(
        "edit-attribute",
        "a template with an attribute of a Python object",
        [{"name": "a", "prompt": "{caption.__class__}"}],
        "the unknown placeholder {caption",
    ),
    edit(
        "edit-fill",
        "a template that pads to a billion characters",
        [{"name": "a", "prompt": "{caption:>1000000000}"}],
        "the unknown placeholder {caption",
    ),
    edit("edit-path", "an edit named ../../x", [{"name": "../../x", "prompt": "x"}], "edits[0].name"),
    edit(
        "edit-fan", "lists of words with 10^12 combinations", [{"name": "a", "replace": FAN}], "make 1,000,000,000,000"
    ),
    edit(
        "edit-pattern",
        "a pattern with unlimited backtracking in Python",
        [{"name": "a", "regex": {r"(a+)+\1": "x"}}],
        "invalid escape sequence",
    ),
    edit(
        "edit-pattern-large",
        "a pattern of 10^6 states",
        [{"name": "a", "regex": {"(a{1000}){1000}": "x"}}],
        "invalid repetition size",
    ),
    edit(
        "edit-table-secret",
        "a password in the URL of a table (the message does not repeat it)",
        [{"name": "a", "table": "https://ann:hunter2@host/a.csv"}],
        "the URL contains credentials",
    ),
    edit(
        "edit-two",
        "an edit with two kinds of change",
        [{"name": "a", "prompt": "x", "table": "x.csv"}],
        "exactly one of",
    ),
    rows("where-half", "an incomplete SQL expression", "drift <", 'where: found "drift <": Parser Error: syntax error'),
    rows("where-reads", "SQL that reads a file", "exists (from read_text('/etc/passwd'))", "a subquery is not allowed"),
    rows("where-writes", "SQL that writes a file", "true; copy (select 1) to 'made'", "more than one statement"),
    rows("where-injects", "SQL that closes a bracket too early", "true) or (true", "syntax error"),
    rows("where-random", "SQL with a random number", "random() < 0.5", "the function random is not allowed"),
    rows(
        "where-bill",
        "SQL that makes a text of 4 GB",
        "repeat('x', 4000000000) = key",
        "the function repeat is not allowed",
    ),
    rows("where-deep", "SQL with 10^4 nested brackets", "(" * 10_000, "10000 nested brackets"),
    rows("where-number", "a number instead of SQL", 7, "where: found 7, expected text"),
    shards("input-nothing", "shards that do not exist", "photos/{00000..00003}.tar", "4 of 4 shards cannot be used"),
    shards("input-wildcard", "a wildcard", "*.tar", "use braces"),
    shards("input-braces", "braces that do not match", "{0..3.tar", "the braces do not match"),
    shards("input-billion", "braces that name 10^9 shards", "{000000000..999999999}.tar", "names 1,000,000,000 shards"),
    shards(
        "input-nested",
        "nested braces that name 10^12",
        "{{0..999999}{0..999999},x}.tar",
        "names 1,000,000,000,001 shards",
    ),
    shards("input-twice", "a shard that is named twice", ["demo.tar", "./x/../demo.tar"], "named twice"),
    shards("input-shell", "a pipe: to a shell", "pipe:touch made", "because they run a shell"),
    shards("input-scheme", "a URL of an unknown kind", "hf://some/where.tar", "hf:// is not supported"),
    shards("input-nul", "a NUL in a name", "a\0b.tar", "the name contains control characters", NO_SPEC),
    shards("input-none", "an empty list", [], "at least one entry", NO_SPEC),
]
