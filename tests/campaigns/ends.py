"""Print the last lines and the exit status of commands, for every way in which a command can end.

`python -m tests.campaigns.ends [NAME ...]` prints the table of docs/guarantees.md, or the rows with these names. Each
end is a small job of the shipped model, usually of one step, in a process of its own. Filesystems that are full,
read-only or out of inodes are small tmpfs mounts, which need root on Linux. Without root the table has the reason.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import EDICT, shipped_samples
from pipeline.io.shard_writer import write_shard

ROOT = Path(__file__).parents[2]
LINES = 3  # the most lines per end in the table
PROGRESS = re.compile(r"\w+: \d+/\d+ \w+, |(invert|units|input|filtered|rate|attempts|report|next) ")
LONG = 64  # images of a job that is stopped while it runs
SLOW: dict[str, Any] = {"sampler": {"steps": 30}, "workers": {"count": 1, "batch_size": 1}}


class Unavailable(Exception):
    """This machine does not permit something that an end requires."""


@dataclass(frozen=True)
class Ended:
    """The output of a command, stdout and stderr in their order, and its exit status."""

    output: str
    status: int

    @property
    def last(self) -> list[str]:
        """The last lines, without progress and counts that do not concern the end.

        They begin with the error, or with the note of a damaged commit, if there is one.
        """
        lines = [line.strip() for line in self.output.splitlines() if line.strip() and not PROGRESS.match(line)]
        first = [i for i, line in enumerate(lines) if line.startswith(("error: ", "note: commits/"))]
        return lines[min([*first, max(0, len(lines) - LINES)]) :]


@dataclass(frozen=True)
class Workspace:
    """A folder in which commands run, with a job of two images: job.json, a.tar, latents/."""

    folder: Path

    def write_shard(self, name: str, samples: Sequence[tuple[str, bytes, str]]) -> None:
        members = ((key, {"png": image, "txt": caption.encode()}) for key, image, caption in samples)
        (self.folder / name).write_bytes(write_shard(members))

    def write_spec(self, name: str = "job.json", **fields: Any) -> None:
        spec = {
            "kind": "invert",
            "input": "a.tar",
            "output": "latents",
            "sampler": {"steps": 1, "guidance_scale": 1.0},
            "workers": {"count": 1, "batch_size": 2},
        }
        (self.folder / name).write_text(json.dumps(spec | fields))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment}
        return subprocess.Popen(
            [sys.executable, *EDICT, *arguments],
            cwd=self.folder,
            env={name: value for name, value in env.items() if name != "RAY_ADDRESS" or "RAY_ADDRESS" in environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str]) -> Ended:
        output, _ = process.communicate(timeout=600)
        return Ended(output.replace(f"{self.folder}/", "").replace(str(self.folder), "."), process.returncode)

    def run(self, *arguments: str, **environment: str) -> Ended:
        return self.end(self.start(*(arguments or ("run", "job.json")), **environment))

    def forget(self, *units: int) -> None:
        """Delete the commits of units."""
        for unit in units:
            (self.folder / f"latents/commits/{unit:08d}.json").unlink()

    def await_commit(self, process: subprocess.Popen[str]) -> None:
        """Wait until a unit is committed."""
        while process.poll() is None and not list((self.folder / "latents").glob("commits/*.json")):
            time.sleep(0.05)


End = Callable[[Workspace], Ended]
ENDS: dict[str, End] = {}


def named(name: str) -> Callable[[End], End]:
    def add(end: End) -> End:
        ENDS[name] = end
        return end

    return add


@named("complete")
def _(workspace: Workspace) -> Ended:
    return workspace.run()


@named("complete, with rejects")
def _(workspace: Workspace) -> Ended:
    workspace.write_shard("a.tar", [*samples(1), ("bad", b"no image", "a caption")])
    return workspace.run()


@named("nothing to do")
def _(workspace: Workspace) -> Ended:
    workspace.run()
    return workspace.run()


@named("incomplete: a shard has changed since it was planned")
def _(workspace: Workspace) -> Ended:
    workspace.write_shard("b.tar", samples(2))
    workspace.write_spec(input=["a.tar", "b.tar"])
    workspace.run()
    workspace.forget(1)
    workspace.write_shard("b.tar", samples(1))
    return workspace.run()


@named("five units in a row fail")
def _(workspace: Workspace) -> Ended:
    for i in range(6):
        workspace.write_shard(f"{i}.tar", samples(1))
    workspace.write_spec(input="{0..5}.tar", workers={"count": 1, "batch_size": 1})
    workspace.run()
    workspace.forget(*range(1, 6))
    for i in range(1, 6):
        workspace.write_shard(f"{i}.tar", samples(2)[1:])
    return workspace.run()


def stopped(workspace: Workspace, *signals: signal.Signals) -> Ended:
    """Send signals to a running job: the first after its first commit, each later one 0.2 s after the one before."""
    workspace.write_shard("a.tar", samples(LONG))
    workspace.write_spec(**SLOW)
    process = workspace.start("run", "job.json")
    workspace.await_commit(process)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)  # as a user would
    return workspace.end(process)


@named("Ctrl-C")
def _(workspace: Workspace) -> Ended:
    return stopped(workspace, signal.SIGINT)


@named("Ctrl-C, three times")
def _(workspace: Workspace) -> Ended:
    return stopped(workspace, signal.SIGINT, signal.SIGINT, signal.SIGINT)


@named("SIGTERM")
def _(workspace: Workspace) -> Ended:
    return stopped(workspace, signal.SIGTERM)


@named("SIGKILL")
def _(workspace: Workspace) -> Ended:
    return stopped(workspace, signal.SIGKILL)


@named("the run after a SIGKILL")
def _(workspace: Workspace) -> Ended:
    stopped(workspace, signal.SIGKILL)
    return workspace.run()


@named("the spec is wrong")
def _(workspace: Workspace) -> Ended:
    workspace.write_spec(sampler={"stepz": 3})
    return workspace.run()


@named("an input is missing")
def _(workspace: Workspace) -> Ended:
    workspace.write_spec(input="absent.tar")
    return workspace.run()


@named("RAY_ADDRESS names a cluster that is gone")
def _(workspace: Workspace) -> Ended:
    return workspace.run(RAY_ADDRESS="127.0.0.1:63791")


@named("the cluster lacks resources")
def _(workspace: Workspace) -> Ended:
    workspace.write_spec(workers={"count": 1, "gpus": 64})
    return workspace.run()


@named("a weight file is damaged")
def _(workspace: Workspace) -> Ended:
    shutil.copytree(ROOT / "edict" / "default", workspace.folder / "model")
    weights = next((workspace.folder / "model" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    workspace.write_spec(model={"path": "./model"})
    return workspace.run()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a tmpfs at a folder within the block.

    Raises:
        Unavailable: Mounting is not permitted.
    """
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True).returncode:
        raise Unavailable("mounting a tmpfs is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@named("the disk is full at the start")
def _(workspace: Workspace) -> Ended:
    with mounted(workspace.folder / "latents", "size=4k"):
        return workspace.run()


@named("the disk is full while units are written")
def _(workspace: Workspace) -> Ended:
    workspace.write_shard("a.tar", samples(LONG))
    workspace.write_spec(workers={"count": 1, "batch_size": 1})
    with mounted(workspace.folder / "latents", "size=200k"):
        return workspace.run()


@named("the disk is read-only")
def _(workspace: Workspace) -> Ended:
    with mounted(workspace.folder / "latents", "ro"):
        return workspace.run()


@named("the disk is read-only, and the job was complete")
def _(workspace: Workspace) -> Ended:
    with mounted(workspace.folder / "latents", "size=10m"):
        workspace.run()
        subprocess.run(["mount", "-o", "remount,ro", str(workspace.folder / "latents")], check=True)
        return workspace.run()


@named("no inodes are left")
def _(workspace: Workspace) -> Ended:
    with mounted(workspace.folder / "latents", "nr_inodes=4"):
        return workspace.run()


@named("the home cannot be written")
def _(workspace: Workspace) -> Ended:
    return workspace.run(HOME="/proc/absent")


@named("a TMPDIR too long for Ray's sockets")
def _(workspace: Workspace) -> Ended:
    long = workspace.folder / ("long" * 25)
    long.mkdir()
    return workspace.run(TMPDIR=str(long))


@named("a commit is damaged")
def _(workspace: Workspace) -> Ended:
    workspace.run()
    commit = workspace.folder / "latents/commits/00000000.json"
    commit.write_bytes(commit.read_bytes()[:100])
    return workspace.run()


@named("a commit is damaged: edict status")
def _(workspace: Workspace) -> Ended:
    workspace.run()
    commit = workspace.folder / "latents/commits/00000000.json"
    commit.write_bytes(commit.read_bytes()[:100])
    return workspace.run("status", "latents")


@named("the store is another job's")
def _(workspace: Workspace) -> Ended:
    workspace.run()
    workspace.write_spec(sampler={"steps": 2, "guidance_scale": 1.0})
    return workspace.run()


@named("the store is of a newer version")
def _(workspace: Workspace) -> Ended:
    workspace.run()
    job = workspace.folder / "latents/job.json"
    job.write_text(json.dumps({**json.loads(job.read_text()), "format": 99}))
    return workspace.run()


def samples(count: int) -> list[tuple[str, bytes, str]]:
    """Return the keys, images and captions of the first shipped samples."""
    return [(sample.key, sample.image, sample.caption) for sample in shipped_samples()[:count]]


def make(name: str) -> Ended:
    """Run the command of an end, in a folder of its own.

    Raises:
        Unavailable: This machine does not permit it.
    """
    with tempfile.TemporaryDirectory(prefix="ends-") as folder:
        workspace = Workspace(Path(folder))
        workspace.write_shard("a.tar", samples(2))
        workspace.write_spec()
        return ENDS[name](workspace)


def main(names: Sequence[str]) -> None:
    """Print the table of docs/guarantees.md."""
    print("| end | exit status | last lines |\n|---|---:|---|")
    for name in names or ENDS:
        try:
            ended = make(name)
            lines = "<br>".join(f"`{line}`" for line in ended.last).replace("|", "\\|")
            print(f"| {name} | {ended.status} | {lines} |", flush=True)
        except Unavailable as error:
            print(f"| {name} | | not made: {error} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
