"""Crashes in every window of a run, on a disk and on S3.

Processes really end there (tests/crash.py). In the end, the store has exactly the rows of an undisturbed run, each
once, with the same sha256 of their content.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from jobs.launch import run_spec
from pipeline.execute import driver as run_driver
from pipeline.inspect.status import status
from pipeline.io.samples import Sample
from pipeline.store import paths
from pipeline.store.store import Store
from pipeline.workers.edit import EditWorker
from pipeline.workers.invert import InvertWorker
from schemas.specs import EditSpec, InvertSpec, JobSpec
from tests.contents import contents
from tests.crash import DRIVER, EDITOR, WORKER, crashing

pytestmark = pytest.mark.usefixtures("local_ray")

# There are many drivers, so they are forked from a process that has imported everything.
DRIVERS = multiprocessing.get_context("forkserver")
DRIVERS.set_forkserver_preload(["tests.crash"])


@pytest.fixture(params=["disk", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the location of the stores."""
    return str(tmp_path / "stores") if request.param == "disk" else request.getfixturevalue("s3")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample], shard_of: Callable[..., Path]) -> str:
    """Write two shards of 11 and 9 samples. One sample has no caption."""
    folder = tmp_path_factory.mktemp("crash")
    for name, part in (("0", samples[:11]), ("1", samples[11:20])):
        members = [
            (f"{sample.key}.{extension}", data)
            for sample in part
            for extension, data in ((sample.extension, sample.image), ("txt", sample.caption.encode()))
            if not (sample is samples[4] and extension == "txt")
        ]
        shard_of(folder / f"{name}.tar", members)
    return str(folder / "{0,1}.tar")


def invert_spec(shards: str, output: str, **workers: int) -> InvertSpec:
    fields: dict[str, Any] = {"kind": "invert", "input": shards, "output": output}
    fields["sampler"] = {"steps": 1, "guidance_scale": 1.0}
    return InvertSpec.model_validate(fields | {"workers": {"count": 3, "batch_size": 2} | workers})


def edit_spec(latents: str, output: str, **workers: int) -> EditSpec:
    edits = [{"name": "snow", "prompt": "{caption} in snow"}, {"name": "colour", "replace": {"red": ["blue", "green"]}}]
    fields = {"kind": "edit", "latents": latents, "output": output, "edits": edits, "contact_sheet": 20}
    return EditSpec.model_validate(fields | {"workers": {"count": 3, "batch_size": 2} | workers})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shards: str, local_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    latents, edits = f"{folder}/latents", f"{folder}/edits"
    for spec in (invert_spec(shards, latents, count=1), edit_spec(latents, edits, count=1)):
        assert run_spec(spec).status.complete
    return folder


def same(location: str, undisturbed: Path) -> None:
    """Check that a store is complete, and has the content of the undisturbed run and no other files."""
    found, expected = Store(location), Store(str(undisturbed))
    assert status(found).complete
    assert contents(found) == contents(expected)
    assert contents(found).total() == status(expected).input - status(expected).filtered
    named = {file.path for commit in found.commits() for file in commit.files}
    assert {path for folder in ("parts", "shards", "pictures", "staging") for path in found.names(folder)} == named


def reached(windows: Mapping[str, Callable[[Any], Any]], location: str) -> Mapping[str, Callable[[Any], Any]]:
    """Return all windows for a disk. For S3, return those from the first write on; the others do not depend on S3."""
    first = 0 if "://" not in location else next(i for i, name in enumerate(windows) if "written" in name)
    return dict(list(windows.items())[first:])


def test_a_worker_dies_in_every_window(
    location: str, shards: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = reached(WORKER, location)
    with monkeypatch.context() as patched:
        patched.setattr(run_driver, "worker_class", lambda task: crashing(InvertWorker, windows, tmp_path))
        assert run_spec(invert_spec(shards, f"{location}/latents")).failures == []
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"loading", *windows}
    same(f"{location}/latents", undisturbed / "latents")
    # Two windows come after the commit, and a committed unit is not tried again.
    assert status(Store(f"{location}/latents")).attempts == 11 + len(windows) - 2


def test_an_editor_dies_in_every_window(
    location: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = reached(EDITOR, location)
    with monkeypatch.context() as patched:
        patched.setattr(run_driver, "worker_class", lambda task: crashing(EditWorker, windows, tmp_path))
        assert run_spec(edit_spec(str(undisturbed / "latents"), f"{location}/edits")).failures == []
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"loading", *windows}
    same(f"{location}/edits", undisturbed / "edits")


def test_a_run_is_killed_with_all_its_processes(shards: str, undisturbed: Path, tmp_path: Path) -> None:
    """A run with its own Ray is killed after its first commit. The same command finishes the missing units."""
    spec = tmp_path / "spec.json"
    spec.write_text(invert_spec(shards, str(tmp_path / "latents"), count=2).model_dump_json())
    command = [str(Path(sys.executable).parent / "edict"), "run", str(spec)]
    killed = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    commits = tmp_path / "latents" / "commits"
    while not (commits.is_dir() and any(commits.iterdir())):
        try:
            killed.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the run ended by itself with {killed.returncode}")
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    state = status(Store(str(tmp_path / "latents")))
    assert 0 < state.committed < state.units
    assert not state.complete
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    same(str(tmp_path / "latents"), undisturbed / "latents")


def drive(spec: JobSpec, environment: dict[str, str], window: str | None) -> None:
    """Run a job as a driver process, which dies in the `window` if one is given."""
    os.environ.update(environment)
    paths.BLOCK_SIZE = 2
    if window is not None:
        DRIVER[window]()
    assert run_spec(spec).status.complete


def driver(spec: JobSpec, window: str | None = None) -> Any:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    process = DRIVERS.Process(target=drive, args=(spec, environment, window))
    process.start()
    return process


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read checkpoints with the block size of `drive`."""
    monkeypatch.setattr(paths, "BLOCK_SIZE", 2)


@pytest.mark.usefixtures("small_blocks")
def test_the_driver_dies_in_every_window(location: str, shards: str, undisturbed: Path) -> None:
    """Each driver continues from the state that the previous ones left."""
    spec = invert_spec(shards, f"{location}/latents", count=1)
    for window in DRIVER:
        if window == "while the files of uncommitted attempts are removed":
            store = Store(spec.output)
            store.put(f"parts/00000000-7-{store.key().id[:8]}aaaaaaaa.parquet", b"of an attempt that did not commit")
        dying = driver(spec, window)
        dying.join()
        assert dying.exitcode == -signal.SIGKILL, window
    last = driver(spec)
    last.join()
    assert last.exitcode == 0
    same(spec.output, undisturbed / "latents")
    assert Store(spec.output).checkpoint_blocks() == [0, 1]


@pytest.mark.usefixtures("small_blocks")
def test_two_drivers_of_one_job(location: str, shards: str, undisturbed: Path) -> None:
    """A cluster may restart a job that still runs. Each unit then has one commit, and both drivers succeed."""
    spec = invert_spec(shards, f"{location}/latents", count=1)
    both = [driver(spec), driver(spec)]
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    Store(spec.output).remove_orphan_files()
    same(spec.output, undisturbed / "latents")
