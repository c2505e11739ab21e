"""Helpers of the tests: run a command, and write a small spec."""

import json
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from jobs.cli import app
from jobs.demo import SHARDS

DEMO_SHARD = SHARDS / "demo-00000.tar"


def run_edict(*arguments: object) -> Result:
    """Run an `edict` command in this process. Return its exit code and its output."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_invert_spec(store: Path, **fields: Any) -> Path:
    """Write STORE.yaml, the spec of an inversion of the first demo shard with one step. Return its path.

    `fields` replace those of the spec.
    """
    spec = {
        "kind": "invert",
        "input": str(DEMO_SHARD),
        "output": str(store),
        "sampler": {"steps": 1, "guidance_scale": 1.0},
        "workers": {"count": 2, "batch_size": 4},
    }
    path = store.with_suffix(".yaml")
    path.write_text(json.dumps(spec | fields), encoding="utf-8")
    return path
