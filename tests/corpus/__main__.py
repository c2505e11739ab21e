"""Write the page of the documentation about bad input: `python -m tests.corpus > docs/inputs.md`."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tests.corpus.case import Case
from tests.corpus.checkpoints import LAYOUTS, REFUSALS
from tests.corpus.samples import CAPTIONS, IMAGES, JSONS, MEMBERS
from tests.corpus.shards import CHANGED, DAMAGED, UNUSABLE
from tests.corpus.specs import SPECS
from tests.corpus.stores import PARTS, RECORDS

SECTIONS: dict[str, Sequence[Case[Any]]] = {
    "Images": IMAGES,
    "Captions": CAPTIONS,
    "JSON files": JSONS,
    "Members of a tar": MEMBERS,
    "Damaged tars": DAMAGED,
    "Files that are not shards": UNUSABLE,
    "Shards that change between plan and run": CHANGED,
    "Specs": SPECS,
    "Damaged parts": PARTS,
    "Damaged records of a store": RECORDS,
}

RESULTS = ("row", "reject", "error", "problem")

INTRO = """\
# Bad input

Bad input never causes a traceback, and every sample is counted:

- Each sample becomes a **row** or a **reject**. A reject has its stage, its error class and a message, and does not
  affect other samples.
- An **error** stops a job. Its message says what is wrong, where, and what to do. Invalid specs, shards and checkpoints
  are errors before anything is computed, with exit status 2.
- A **problem** is damage that `edict verify` finds in a store. The exit status is 1.

The table has the results of the {count} inputs on this page. An input with several samples has several results:

{summary}
"""

METHOD = """\
## How this page is made

The tests build each input as real bytes, and run `edict` on it (`tests/corpus`, `tests/pipeline/test_corpus.py`). They
check that the result is the one on this page, and that there is no traceback. Each input may take {seconds} seconds and
2 GiB of additional memory. `python -m tests.corpus > docs/inputs.md` writes this page.
"""

CHECKPOINTS = """\
## Checkpoints

`edict plan` reads the configurations of a checkpoint, and the names and shapes of its weights. It prints one line and
ends with exit status 2 if a run would initialize weights at random, or would not compute what diffusers computes. The
tests build each of these {count} checkpoints and LoRAs in a folder `m` (`tests/corpus/checkpoints.py`).

| checkpoint | message of `edict plan` |
|---|---|
{refusals}
These layouts load, with every weight:

{layouts}
"""

SECONDS = 120
"""Time limit of one case."""


def page() -> str:
    count = sum(map(len, SECTIONS.values()))
    sections = "".join(f"## {title}\n\n{table(cases)}\n" for title, cases in SECTIONS.items())
    intro = INTRO.format(count=count, summary=summary())
    return f"{intro}\n{sections}{checkpoints()}\n{METHOD.format(seconds=SECONDS)}"


def summary() -> str:
    """Return a table with the number of results of each kind per section."""
    lines = []
    for title, cases in SECTIONS.items():
        counts = Counter(result.split()[0] for case in cases for result in case.results)
        numbers = [str(counts[kind] or "") for kind in RESULTS]
        lines.append(f"| {' | '.join([title, str(len(cases)), *numbers])} |".replace("  ", " "))
    header = "| section | inputs | rows | rejects | errors | problems |\n|---|---|---|---|---|---|\n"
    return header + "\n".join(lines)


def table(cases: Iterable[Case[Any]]) -> str:
    lines = "".join(f"| {case.description} | {result(case)} |\n" for case in cases)
    return f"| input | result |\n|---|---|\n{lines}"


def result(case: Case[Any]) -> str:
    """Return the results of a case as text: "row, reject (index: TruncatedShard)"."""
    return ", ".join(_text(*result.split()) for result in case.results) or "ignored"


def _text(kind: str, *details: str) -> str:
    if kind == "reject":
        return f"reject ({': '.join(details)})"
    return " ".join([kind, *(f"`{detail}`" for detail in details)])


def checkpoints() -> str:
    refusals = "".join(f"| {case.description} | {case.message} |\n" for case in REFUSALS)
    layouts = "\n".join(f"- {case.description}" for case in LAYOUTS)
    return CHECKPOINTS.format(count=len(REFUSALS), refusals=refusals, layouts=layouts)


if __name__ == "__main__":
    sys.stdout.write(page())
