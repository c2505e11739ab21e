"""Ten edits of every row in one job, against ten jobs of one edit: what sharing the regeneration saves.

`python -m benchmarks.bulk`. Both read one latent store, and make the same pictures: their digests are compared. Network
evaluations are those that `edict plan` tells, which tests/jobs/test_examples.py holds against those that are made.
"""

import re
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.record import parser, save
from jobs.demo import SHARDS
from jobs.evaluation.record import table
from jobs.launch import run_spec
from jobs.preview import preview
from pipeline.store.store import Store
from schemas.specs import EditSpec, InvertSpec

ENDINGS = [
    *("in snow", "at night", "in the rain", "on fire", "as a pencil drawing", "in black and white", "seen from above"),
    *("on a red background", "on a blue background", "on a black background"),
]
SPECS: TypeAdapter[InvertSpec | EditSpec] = TypeAdapter(InvertSpec | EditSpec)

Pictures = dict[tuple[str, str], str]
"""The digests of the pictures of a store, by edit and key."""


def run(fields: dict[str, Any]) -> float:
    """Run a job; the seconds it took. Raises RuntimeError where not all of it went well."""
    began = time.perf_counter()
    ran = run_spec(SPECS.validate_python(fields))
    if not ran.status.complete or ran.status.rejected:
        raise RuntimeError(f"{fields['output']}: {ran.status}, {ran.failures}")
    return time.perf_counter() - began


def evaluations(fields: dict[str, Any]) -> int:
    told = re.search(r"network cost +([\d,]+) evaluations", preview(SPECS.validate_python(fields)))
    assert told is not None
    return int(told[1].replace(",", ""))


def pictures(output: str) -> Pictures:
    store = Store(output)
    tables = [
        store.get_table(file.path) for commit in store.commits() for file in commit.files if "parts/" in file.path
    ]
    rows = [row for one in tables for row in one.select(["edit", "source_key", "image_sha256"]).to_pylist()]
    return {(row["edit"], row["source_key"]): row["image_sha256"] for row in rows}


def measure(folder: Path, rows: int, steps: int, strength: float, workers: int) -> dict[str, Any]:
    """One job and ten, side by side."""
    latents, count = str(folder / "latents"), {"count": workers}
    sampler = {"steps": steps, "guidance_scale": 3.0}
    shards = [str(file) for file in sorted(SHARDS.glob("*.tar"))]
    inverted = run({"kind": "invert", "input": shards, "output": latents, "sampler": sampler, "workers": count})
    edits: list[dict[str, Any]] = [
        {"name": f"e{i}", "prompt": f"{{caption}}, {ending}", "strength": strength} for i, ending in enumerate(ENDINGS)
    ]
    common = {"kind": "edit", "latents": latents, "limit": rows, "contact_sheet": 0, "workers": count}
    one: dict[str, Any] = {**common, "output": str(folder / "one"), "edits": edits}
    ten: list[dict[str, Any]] = [{**common, "output": str(folder / edit["name"]), "edits": [edit]} for edit in edits]
    made = {"one job": evaluations(one), "ten jobs": sum(map(evaluations, ten))}
    seconds = {"one job": run(one), "ten jobs": sum(map(run, ten))}
    together, apart = pictures(one["output"]), Pictures()
    for fields in ten:
        apart |= pictures(fields["output"])
    return {
        "rows": rows,
        "strength": strength,
        "seconds of the inversion": inverted,
        "pictures": len(together),
        "pictures that differ": sum(together[name] != apart[name] for name in together.keys() | apart.keys()),
        "evaluations": made,
        "seconds": seconds,
        "ratio of evaluations": made["one job"] / made["ten jobs"],
        "ratio of seconds": seconds["one job"] / seconds["ten jobs"],
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=200)
    arguments.add_argument("--steps", type=int, default=10)
    arguments.add_argument("--strength", type=float, default=0.5)
    arguments.add_argument("--workers", type=int, default=2)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given.rows, given.steps, given.strength, given.workers)
    print(table(("what", "measured"), [[name, value] for name, value in found.items()]))
    print(f"\nwritten to {save('bulk', given, **found)}")


if __name__ == "__main__":
    main()
