"""The shipped model through the commands: `edict run`, `edict verify` in a new process, and an edit with control."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.store.store import Store

ROOT = Path(__file__).parents[2]
SHARD = ROOT / "jobs" / "demo" / "shards" / "demo-00000.tar"

Found = dict[str, Any]


def command(*arguments: str, folder: Path) -> Found:
    """Run `edict` with these arguments in `folder`."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", "from jobs.cli import app; app()", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:  # The time limit (OutOfTime) is not an Exception.
        process.terminate()  # The command then stops Ray.
        process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"edict {' '.join(arguments)}: exit status {process.returncode}: {output}")
    return {"seconds": time.monotonic() - began, "output": output.splitlines()[-20:]}


def write_specs(folder: Path, *, gpus: float, count: int, steps: int) -> None:
    """Write the specs of an inversion of the first `count` shipped images, and of an edit with attention control."""
    with tarfile.open(SHARD) as shard, tarfile.open(folder / "images.tar", "w") as images:
        keys: list[str] = []
        for member in shard:
            key = member.name.partition(".")[0]
            keys += [key] if key not in keys else []
            if len(keys) > count:
                break
            content = shard.extractfile(member)
            images.addfile(member, io.BytesIO(content.read()) if content else None)
    invert = {
        "kind": "invert",
        "input": "images.tar",
        "output": "latents",
        "sampler": {"steps": steps},
        "workers": {"gpus": gpus},
    }
    controlled = {"name": "controlled", "suffix": ", in snow", "strength": 0.5, "control": {}}
    edit = {"kind": "edit", "latents": "latents", "output": "edits", "edits": [controlled], "contact_sheet": 2}
    for name, spec in (("invert", invert), ("edit", edit)):
        (folder / f"{name}.yaml").write_text(json.dumps(spec))


def made(location: str) -> Found:
    """Describe the results of a store's workers, and their machine."""
    commits = list(Store(location).commits())
    seconds = sum(commit.seconds.compute for commit in commits)
    waiting = sum(commit.seconds.read + commit.seconds.write for commit in commits)
    count = sum(commit.ok for commit in commits)
    return {
        "images": count,
        "rejected": sum(commit.rejected for commit in commits),
        "seconds per image": seconds / max(1, count),
        "seconds of reading and writing per image": waiting / max(1, count),
        "worker": commits[0].worker if commits else None,
        "versions": commits[0].versions if commits else None,
    }


def commands(folder: Path, *, gpus: float, small: bool) -> dict[str, Callable[[], Found]]:
    """Return a function per command, in the order to run them."""
    write_specs(folder, gpus=gpus, count=8 if small else 64, steps=4 if small else 50)

    def run() -> Found:
        return command("run", "invert.yaml", folder=folder) | made(str(folder / "latents"))

    def edit() -> Found:
        ran = command("run", "edit.yaml", folder=folder)
        edits = Store(str(folder / "edits"))
        parts = [file.path for commit in edits.commits() for file in commit.files if file.path.startswith("parts/")]
        exact = Counter(row["reconstruction_exact"] for part in parts for row in edits.get_table(part).to_pylist())
        return ran | made(edits.location) | {"reconstructions exact": {str(name): n for name, n in exact.items()}}

    return {"run": run, "verify": partial(command, "verify", "latents", folder=folder), "edit": edit}
