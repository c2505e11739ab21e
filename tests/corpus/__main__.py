"""`python -m tests.corpus > docs/inputs.md`: the table of what bad input gets."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tests.corpus.case import Case
from tests.corpus.checkpoints import LAYOUTS, REFUSALS
from tests.corpus.samples import CAPTIONS, IMAGES, JSONS, MEMBERS
from tests.corpus.shards import CHANGED, DAMAGE, UNUSABLE
from tests.corpus.specs import SPECS
from tests.corpus.stores import PARTS, RECORDS

KINDS: dict[str, Sequence[Case[Any]]] = {
    "Images": IMAGES,
    "Captions": CAPTIONS,
    "Json": JSONS,
    "Members of a tar": MEMBERS,
    "Damaged tars": DAMAGE,
    "What is no shard": UNUSABLE,
    "Shards that change between plan and run": CHANGED,
    "Specs": SPECS,
    "Parts, when verified": PARTS,
    "Records of a store": RECORDS,
}

INTRO = """\
# What bad input gets

Every sample ends as a row or as a reject with its stage, its error class and a message; a reject costs its neighbours
nothing, and no sample is lost. What stops a job is one error that says what is wrong, where, and what to do, with exit
status 2 and nothing run. A problem is what `edict verify` finds in a store, with exit status 1.

Each line below is a file that the tests build and feed to the real thing (`tests/corpus`,
`tests/pipeline/test_corpus.py`); where an input holds several samples, there is one outcome for each.
`python -m tests.corpus > docs/inputs.md` writes this page.
"""


CHECKPOINTS = """\
## Checkpoints

`edict plan` reads the configurations of a checkpoint and the names and shapes of its weights. If a run would draw
weights at random, or would predict something else than diffusers does, `edict plan` prints one line and ends with
status 2. The tests make each of these {count} checkpoints and LoRAs, in a folder `m` (`tests/corpus/checkpoints.py`).

| checkpoint | `edict plan` |
|---|---|
{refusals}
These load, with every weight:

{layouts}"""


def table(cases: Iterable[Case[Any]]) -> str:
    lines = "".join(f"| {case.input} | {outcome(case)} |\n" for case in cases)
    return f"| input | what it gets |\n|---|---|\n{lines}"


def outcome(case: Case[Any]) -> str:
    """In words: "row, reject (index: TruncatedShard)"."""
    said = [gets.split() for gets in case.gets]
    return ", ".join(_words(*words) for words in said) or "passed over"


def _words(kind: str, *about: str) -> str:
    return f"{kind} ({': '.join(about)})" if kind == "reject" else " ".join([kind, *(f"`{word}`" for word in about)])


def page() -> str:
    count = sum(map(len, KINDS.values()))
    sections = "".join(f"\n## {kind}\n\n{table(cases)}" for kind, cases in KINDS.items())
    return f"{INTRO}\n{count} inputs.\n{sections}\n{checkpoints()}"


def checkpoints() -> str:
    refusals = "".join(f"| {case.input} | {case.says} |\n" for case in REFUSALS)
    layouts = "".join(f"- {case.input}\n" for case in LAYOUTS)
    return CHECKPOINTS.format(count=len(REFUSALS), refusals=refusals, layouts=layouts)


if __name__ == "__main__":
    sys.stdout.write(page())
