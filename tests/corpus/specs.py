"""Specs that cannot run, from a slip of the pen to a bomb. Each is written to a path whose folder has a demo.tar."""

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


def text(name: str, words: str, written: str | bytes, says: str, gets: tuple[str, ...] = NO_SPEC) -> Spec:
    data = written.encode() if isinstance(written, str) else written
    return Case(name, words, lambda path: path.write_bytes(data), gets, says)


def shards(name: str, words: str, given: object, says: str, gets: tuple[str, ...] = NO_PLAN) -> Spec:
    """A spec that is right but for its input."""
    return text(name, words, json.dumps(INVERT | {"input": given}), says, gets)


def edit(name: str, words: str, edits: object, says: str) -> Spec:
    return text(name, words, json.dumps({"kind": "edit", "latents": "x", "output": "y", "edits": edits}), says)


def rows(name: str, words: str, where: object, says: str) -> Spec:
    """An edit that is right but for its where."""
    fields = {"kind": "edit", "latents": "x", "output": "y", "edits": [{"name": "a", "prompt": "x"}], "where": where}
    return text(name, words, json.dumps(fields), says)


SPECS: list[Spec] = [
    Case("spec-absent", "no spec", lambda path: None, NO_SPEC, "cannot be read: No such file"),
    Case(
        "spec-folder", "a spec that is a folder", lambda path: path.mkdir(), NO_SPEC, "cannot be read: Is a directory"
    ),
    Case(
        "spec-endless",
        "a spec that never ends (/dev/zero)",
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
        "text where a number belongs",
        BASE + 'workers: {count: "2"}\n',
        'workers.count: found "2", expected a whole',
    ),
    text("spec-negative", "a negative count", BASE + "workers: {count: -3}\n", "found -3, expected at least 1"),
    text("spec-nan", "not a number", BASE + "sampler: {guidance_scale: .nan}\n", "sampler.guidance_scale: found NaN"),
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
        "a billion laughs: lists of lists of ... aliases",
        LAUGHS + BASE.replace("demo.tar", "*m"),
        "input[0]: found a list of 9",
    ),
    text("spec-merges", "a billion laughs by merge keys", MERGES + BASE, "line 2: merge keys (<<) are not read"),
    text(
        "spec-itself",
        "an alias within what it names",
        "&a {kind: invert, input: x, output: y, model: *a}\n",
        "model.kind: unknown field",
    ),
    text("spec-deep", "10^5 brackets", "[" * 100_000, "cannot be read as YAML: maximum recursion"),
    text(
        "spec-secret",
        "a password in a URL (not repeated)",
        BASE.replace("demo.tar", "s3://ann:hunter2@bucket/a.tar"),
        "the URL contains credentials",
    ),
    text("spec-surrogate", "half a character", BASE.replace("demo.tar", r'"\ud800.tar"'), "unpaired surrogates"),
    text("spec-same", "an output that is the input", BASE.replace("latents", "demo.tar"), "the same location as input"),
    text("json-spec-cut", "a JSON spec that breaks off", '{"kind": "invert",', "line 1"),
    text(
        "json-spec-twice",
        "a JSON spec with one key twice",
        '{"kind": "invert", "kind": "edit"}',
        "'kind' is written twice",
    ),
    text("json-spec-deep", "a JSON spec nested 10^5 deep", "[" * 100_000, "cannot be read as JSON: maximum recursion"),
    edit("edits-none", "an edit job without edits", [], "at least one entry"),
    edit(
        "edit-attribute",
        "a template that reaches into Python",
        [{"name": "a", "prompt": "{caption.__class__}"}],
        "the unknown placeholder {caption",
    ),
    edit(
        "edit-fill",
        "a template that asks for a billion blanks",
        [{"name": "a", "prompt": "{caption:>1000000000}"}],
        "the unknown placeholder {caption",
    ),
    edit("edit-path", "an edit named ../../x", [{"name": "../../x", "prompt": "x"}], "edits[0].name"),
    edit(
        "edit-fan", "lists of words with 10^12 combinations", [{"name": "a", "replace": FAN}], "make 1,000,000,000,000"
    ),
    edit(
        "edit-pattern",
        "a pattern that backtracks for ever, were it Python's",
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
        "a password in a table's URL (not repeated)",
        [{"name": "a", "table": "https://ann:hunter2@host/a.csv"}],
        "the URL contains credentials",
    ),
    edit(
        "edit-two", "an edit that says two things", [{"name": "a", "prompt": "x", "table": "x.csv"}], "exactly one of"
    ),
    rows("where-half", "half an SQL expression", "drift <", 'where: found "drift <", expected an SQL expression'),
    rows("where-reads", "SQL that reads a file", "exists (from read_text('/etc/passwd'))", "a subquery is not allowed"),
    rows("where-writes", "SQL that writes a file", "true; copy (select 1) to 'made'", "more than one statement"),
    rows("where-injects", "SQL that closes its bracket", "true) or (true", "syntax error"),
    rows("where-random", "SQL that rolls dice", "random() < 0.5", "the function random is not allowed"),
    rows(
        "where-bill",
        "SQL that makes a text of 4 GB",
        "repeat('x', 4000000000) = key",
        "the function repeat is not allowed",
    ),
    rows("where-deep", "SQL of 10^4 brackets", "(" * 10_000, "10000 nested brackets"),
    rows("where-number", "no SQL", 7, "where: found 7, expected text"),
    shards(
        "input-nothing", "a pattern that matches nothing", "photos/{00000..00003}.tar", "4 of 4 shards cannot be used"
    ),
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
    shards("input-scheme", "an unknown kind of URL", "hf://some/where.tar", "hf:// is not supported"),
    shards("input-nul", "a NUL in a name", "a\0b.tar", "a name without control characters", NO_SPEC),
    shards("input-none", "an empty list", [], "at least one entry", NO_SPEC),
]
