"""Ten edits of every row in one job against ten jobs of one edit, which regenerate every row ten times.

`python -m benchmarks.bulk`. Both read one latent store and make the same images: their digests are compared. The
network calls are those of `edict plan`, which tests/jobs/test_examples.py compares with the calls that are made.
"""

import tempfile
import time
from argparse import Namespace
from typing import Any

from pydantic import TypeAdapter

from benchmarks.harness import program, run, save, show
from jobs.demo import SHARDS
from jobs.launch import run_spec
from jobs.preview.build import preview
from pipeline.store.store import Store
from schemas.specs import EditSpec, InvertSpec

SUFFIXES = (
    *("in snow", "at night", "in the rain", "on fire", "as a pencil drawing", "in black and white", "seen from above"),
    *("on a red background", "on a blue background", "on a black background"),
)
SPECS: TypeAdapter[InvertSpec | EditSpec] = TypeAdapter(InvertSpec | EditSpec)


def run_job(fields: dict[str, Any]) -> float:
    """Run a job and return its seconds.

    Raises:
        RuntimeError: The job is incomplete or has rejects.
    """
    began = time.perf_counter()
    result = run_spec(SPECS.validate_python(fields))
    if not result.status.complete or result.status.rejected:
        raise RuntimeError(f"{fields['output']}: {result.status}, {result.failures}")
    return time.perf_counter() - began


def planned_calls(fields: dict[str, Any]) -> int:
    """Return the network calls that `edict plan` prints for a job."""
    return preview(SPECS.validate_python(fields)).network_calls


def digests(output: str) -> dict[tuple[str, str], str]:
    """Return the digests of the images of a store, by edit and key."""
    store = Store(output)
    files = [file.path for commit in store.commits() for file in commit.files if "parts/" in file.path]
    rows = [row for path in files for row in store.get_table(path).to_pylist()]
    return {(row["edit"], row["source_key"]): row["image_sha256"] for row in rows}


def measure(folder: str, given: Namespace) -> dict[str, Any]:
    """Invert, and run one job and ten jobs."""
    latents, workers = f"{folder}/latents", {"count": given.workers}
    sampler = {"steps": given.steps, "guidance_scale": 3.0}
    shards = [str(file) for file in sorted(SHARDS.glob("*.tar"))]
    inverted = run_job({"kind": "invert", "input": shards, "output": latents, "sampler": sampler, "workers": workers})
    edits: list[dict[str, Any]] = [
        {"name": f"e{i}", "prompt": f"{{caption}}, {suffix}", "strength": given.strength}
        for i, suffix in enumerate(SUFFIXES)
    ]
    common = {"kind": "edit", "latents": latents, "limit": given.rows, "contact_sheet": 0, "workers": workers}
    jobs: dict[str, list[dict[str, Any]]] = {
        "one job": [{**common, "output": f"{folder}/one", "edits": edits}],
        "ten jobs": [{**common, "output": f"{folder}/{edit['name']}", "edits": [edit]} for edit in edits],
    }
    counts = {name: sum(map(planned_calls, specs)) for name, specs in jobs.items()}
    seconds = {name: sum(map(run_job, specs)) for name, specs in jobs.items()}
    one, ten = (dict(item for spec in specs for item in digests(spec["output"]).items()) for specs in jobs.values())
    return {
        "rows": given.rows,
        "strength": given.strength,
        "seconds of the inversion": inverted,
        "images": len(one),
        "images that differ": sum(one.get(name) != ten.get(name) for name in one.keys() | ten.keys()),
        "evaluations": counts,
        "seconds": seconds,
        "ratio of evaluations": counts["one job"] / counts["ten jobs"],
        "ratio of seconds": seconds["one job"] / seconds["ten jobs"],
    }


@program(rows=200, steps=10, strength=0.5, workers=2)
def bulk(given: Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(folder, given)
    show([{"name": name, "value": value} for name, value in found.items()], {"": "name", "measured": "value"})
    save("bulk", given, **found)


if __name__ == "__main__":
    run(__doc__, bulk)
