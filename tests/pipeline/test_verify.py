"""Verify: rows of the same and of other environments, damaged units, and the device of a job."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jobs.cli import app
from jobs.launch import run_spec
from pipeline import verify
from pipeline.inspect.status import status
from pipeline.io.samples import Sample
from pipeline.messages import Machine
from pipeline.plan.job import new_record, open_job
from pipeline.plan.job_changes import JobChanged
from pipeline.store.errors import JobReplaced
from pipeline.store.store import Store
from pipeline.verify import run_verify
from pipeline.workers import provenance
from pipeline.workers.provenance import cpu, differences, processor, to_environment, versions
from pipeline.workers.verify import EditVerifyTask
from schemas.job import JobRecord
from schemas.specs import EditSpec, InvertSpec
from tests.contents import contents
from tests.pipeline.helpers import ShardOf, members_of

BATCH = 4


@pytest.fixture(scope="module")
def latents(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[Sample],
    shard_of: ShardOf,
    local_ray: None,
) -> Path:
    """Make a finished latent store with three units of one batch each."""
    folder = tmp_path_factory.mktemp("verify")
    fields = {
        "kind": "invert",
        "input": str(shard_of(folder / "a.tar", members_of(samples[: 3 * BATCH]))),
        "output": str(folder / "latents"),
        "sampler": {"steps": 2, "guidance_scale": 1.0},
        "workers": {"batch_size": BATCH},
    }
    assert run_spec(InvertSpec.model_validate(fields)).status.complete
    return folder / "latents"


@pytest.fixture
def copied(latents: Path, tmp_path: Path) -> Store:
    shutil.copytree(latents, tmp_path / "latents")
    return Store(str(tmp_path / "latents"))


def recaption(store: Store, unit: str) -> None:
    """Replace the captions of a unit's rows, in a part that its commit names."""
    commit = next(commit for commit in store.commits() if commit.unit == unit)
    path = commit.files[0].path
    table = store.get_table(path)
    swapped = table.set_column(table.column_names.index("caption"), "caption", [["another"] * BATCH])
    file = store.put_table(path, swapped.cast(table.schema)).model_copy(update={"rows": BATCH})
    store.put(f"commits/{unit}.json", commit.model_copy(update={"files": (file,)}).model_dump_json().encode())


def set_environment(store: Store, unit: str, made_on: str | None, **versions: str) -> None:
    """Change the environment in a unit's commit. Without `made_on` it has no processor, as in earlier versions."""
    path = f"commits/{unit}.json"
    commit = store.get_json(path)
    commit["worker"].pop("processor")
    commit["worker"] |= {"processor": made_on} if made_on else {}
    commit["versions"] |= versions
    store.put(path, json.dumps(commit).encode())


def keys(store: Store, unit: str) -> list[str]:
    (file,) = next(commit for commit in store.commits() if commit.unit == unit).files
    return [f"{file.path}: key {key}" for key in store.get_table(file.path)["key"].to_pylist()]


def test_a_commit_has_the_processor(latents: Path) -> None:
    commits = list(Store(str(latents)).commits())
    assert {commit.worker["processor"] for commit in commits} == {processor("cpu")}
    assert {commit.worker["device"] for commit in commits} == {"cpu"}
    assert processor("cpu").startswith(f"{cpu()}, {torch.backends.cpu.get_cpu_capability()}")


@pytest.mark.parametrize(
    ("cpuinfo", "said"),
    [
        ("model name\t: EPYC 7742\nflags\t\t: avx2 sse\nmodel name\t: another\n", "EPYC 7742, {}"),
        ("model name\t: Xeon 8480\nflags\t\t: avx512_bf16 amx_bf16\n", "Xeon 8480, {}, avx512_bf16, amx_bf16"),
        ("Features\t: asimd bf16\n", "{machine}, {}, bf16"),
        (None, "{machine}, {}"),
    ],
)
def test_the_description_of_a_processor(
    cpuinfo: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "cpuinfo")
    machine = platform.processor() or platform.machine()
    assert processor.__wrapped__("cpu") == said.format(torch.backends.cpu.get_cpu_capability(), machine=machine)


def test_environments_are_described_by_their_differences() -> None:
    there = to_environment("NVIDIA A100", {"torch": "2.13.0", "diffusers": "0.42.1", "transformers": "5.1"})
    assert differences([there, to_environment("NVIDIA H200", dict(there) | {"torch": "2.14.0"})]) == [
        "on NVIDIA A100 with torch 2.13.0",
        "on NVIDIA H200 with torch 2.14.0",
    ]
    assert differences(
        [to_environment("a", {"torch": "1", "diffusers": "1"}), to_environment("a", {"torch": "2"})]
    ) == [
        "with diffusers 1, torch 1",
        "with diffusers unrecorded, torch 2",
    ]


def test_rows_of_another_environment_are_distinguished_from_damage(
    copied: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "EXAMPLES", 2)
    here = processor("cpu")
    for unit in ("00000000", "00000001", "00000002"):
        recaption(copied, unit)
    set_environment(copied, "00000000", "NVIDIA A100", torch="0.4.1")
    set_environment(copied, "00000002", None)
    verified = run_verify(copied.location, rows=None, count=1)
    assert (verified.rows, verified.exact) == (12, 0)
    elsewhere, damaged, unknown = (keys(copied, f"0000000{unit}") for unit in range(3))
    torch_now = versions("cpu")["torch"]
    why = f"(inverted on NVIDIA A100 with torch 0.4.1, regenerated on {here} with torch {torch_now}: other last"
    assert [problem for problem in verified.problems if why in problem] == [
        *(f"{row}: does not regenerate its starting lattice {rest(verified.problems, why)}" for row in elsewhere[:2]),
        f"2 more rows: do not regenerate their starting lattices {rest(verified.problems, why)}",
    ]
    same = f"(inverted on the same kind of processor, {here}, with the same versions: it was changed since"
    assert [p.partition(": does")[0] for p in verified.problems if same in p] == damaged
    before = f"(inverted on an unrecorded processor, regenerated on {here}: other last bits are to be expected"
    assert [p.partition(": do")[0] for p in verified.problems if before in p] == [*unknown[:2], "2 more rows"]
    assert len(verified.problems) == 3 + 4 + 3


def rest(problems: list[str], why: str) -> str:
    return next(problem[problem.index(why) :] for problem in problems if why in problem)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch has no other instructions here")
def test_with_other_instructions_rows_are_close(latents: Path) -> None:
    """Fewer instructions in torch are like another processor."""
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, "-c", "from jobs.cli import app; app()", "verify", str(latents)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 1, ran.stderr
    other = processor("cpu").replace(torch.backends.cpu.get_cpu_capability(), "DEFAULT")
    said = f"does not regenerate its starting lattice (inverted on {processor('cpu')}, regenerated on {other}: other"
    found = re.search(r"^(\d+) of 12 rows regenerate", ran.stdout, re.MULTILINE)
    assert found is not None
    assert ran.stdout.count(f"{said} last bits are to be expected") == 12 - int(found[1]) > 0


def test_verify_and_edits_use_the_machine_of_the_job(copied: Store, tmp_path: Path) -> None:
    job = copied.get_json("job.json") | {"machine": {"device": "cuda", "threads": 1, "gpus": 1000.0}}
    copied.put("job.json", json.dumps(job).encode())
    said = CliRunner().invoke(app, ["verify", copied.location])
    assert said.exit_code == 2
    assert re.search("1 workers of 1000 GPU each .* --gpus 0", said.stderr)
    said = CliRunner().invoke(app, ["verify", copied.location, "--gpus", "0", "--rows", "1"])
    assert (said.exit_code, said.stdout) == (
        0,
        "1 of 1 rows regenerate their image latent, integer for integer\n"
        "of the other rows, only the names and sizes of files were checked; "
        "run edict verify without --rows to read all\n",
    )
    assert "note: inverted on cuda, regenerated on cpu" in said.stderr
    edit = {"kind": "edit", "latents": copied.location, "output": str(tmp_path / "edits")}
    (tmp_path / "edit.json").write_text(json.dumps(edit | {"edits": [{"name": "a", "prompt": "b"}]}))
    said = CliRunner().invoke(app, ["run", str(tmp_path / "edit.json")])
    assert said.exit_code == 2
    assert re.search("1 workers of 1000 GPU each .* set workers.gpus: 0", said.stderr)
    said = CliRunner().invoke(app, ["plan", str(tmp_path / "edit.json"), "-s", "workers.gpus=0"])
    assert said.exit_code == 0
    assert "note: inverted on cuda, edited on cpu" in said.stderr


def test_the_requested_number_of_rows_is_verified(latents: Path) -> None:
    for rows in (1, 5, 12, 100):
        verified = run_verify(str(latents), rows=rows, count=1)
        assert (verified.rows, verified.exact, verified.problems) == (min(rows, 12), min(rows, 12), [])


def test_a_worker_does_not_verify_the_store_of_another_job(copied: Store) -> None:
    """With a relative path, or a disk that nodes do not share, a worker can find another store."""
    task = EditVerifyTask(copied.location, copied.key())
    assert task.open().location == copied.location
    copied.put("job.json", json.dumps(copied.get_json("job.json") | {"id": "another"}).encode())
    with pytest.raises(JobReplaced):
        task.open()


def test_damaged_units_are_repaired(copied: Store, latents: Path) -> None:
    """A missing part, a part of another length and one with a flipped bit are named, dropped, and made again."""
    spec = InvertSpec.model_validate(copied.job().spec | {"output": copied.location})
    missing, cut, flipped = (copied.read_commit(f"{unit:08d}").files[0].path for unit in range(3))
    copied.delete(missing)
    copied.put(cut, copied.get(cut)[:-1])
    data = copied.get(flipped)
    copied.put(flipped, data[:400] + bytes([data[400] ^ 1]) + data[401:])
    assert not status(copied).complete
    found = run_verify(copied.location, rows=None, count=1)
    assert len(found.problems) == 3
    assert all(path in "".join(found.problems) for path in (missing, cut, flipped))
    assert (found.exact, found.damaged) == (0, ["00000000", "00000001", "00000002"])
    said = CliRunner().invoke(app, ["verify", copied.location, "--repair"])
    assert said.exit_code == 1
    assert "the commits of 3 damaged units are dropped; run the job's spec again" in said.stdout
    assert list(copied.names("parts")) == []
    assert run_spec(spec).status.complete
    assert contents(copied) == contents(Store(str(latents)))


def test_the_files_of_edits_are_verified_and_repaired(latents: Path, tmp_path: Path) -> None:
    fields = {"kind": "edit", "latents": str(latents), "output": str(tmp_path / "edits"), "workers": {"count": 2}}
    spec = EditSpec.model_validate(fields | {"edits": [{"name": "snow", "suffix": " in snow", "steps": 1}]})
    assert run_spec(spec).status.complete
    store = Store(spec.output)
    whole = contents(store)
    sound = run_verify(spec.output, rows=None, count=1)
    assert (sound.rows, sound.exact, sound.problems) == (12, 12, [])
    tar, index = (
        next(file.path for file in store.read_commit(unit).files if file.path.startswith(folder))
        for unit, folder in (("00000000", "shards/"), ("00000001", "parts/"))
    )
    for path in (tar, index):
        data = store.get(path)
        store.put(path, data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    found = run_verify(spec.output, rows=None, count=1, repair=True)
    assert found.exact == found.rows - 8
    assert len(found.problems) == 2
    assert all(f"{path} is not the committed file" in "".join(found.problems) for path in (tar, index))
    assert run_spec(spec).status.complete
    assert contents(store) == whole


def test_committed_rows_are_printed_as_json(latents: Path) -> None:
    said = CliRunner().invoke(app, ["read", str(latents), "--columns", "key,width"])
    assert said.exit_code == 0
    rows = [json.loads(line) for line in said.stdout.splitlines()]
    assert [list(row) for row in rows] == [["key", "width"]] * 12


def test_a_job_may_change_its_device_until_it_has_rows(copied: Store, tmp_path: Path) -> None:
    job = copied.job()
    empty = Store(str(tmp_path / "empty"), create=True)
    cuda = Machine("cuda", 1, 1.0)

    def on(machine: Machine) -> JobRecord:
        return new_record("invert", job.spec, job.fingerprint, machine)

    open_job(empty, on(cuda))
    opened = empty.job()
    for machine in (cuda, replace(cuda, gpus=0.5), Machine("cpu", 1, 0.0)):
        open_job(empty, on(machine))
        assert empty.job() == opened.model_copy(update={"machine": asdict(machine)})
    with pytest.raises(JobChanged, match=r"latents has rows made on cpu, .* set workers\.gpus: 0 again"):
        open_job(copied, on(cuda))
    assert copied.job() == job


def test_float16_without_a_gpu_is_noted(copied: Store, tmp_path: Path) -> None:
    job = copied.get_json("job.json")
    (tmp_path / "invert.json").write_text(json.dumps(job["spec"]))
    edit = {"kind": "edit", "latents": copied.location, "output": str(tmp_path / "edits")}
    (tmp_path / "edit.json").write_text(json.dumps(edit | {"edits": [{"name": "a", "prompt": "b"}]}))

    def said(command: str, kind: str, *fields: str) -> str:
        overrides = [word for field in fields for word in ("-s", field)]
        return CliRunner().invoke(app, [command, str(tmp_path / f"{kind}.json"), *overrides]).stderr

    note, float16 = "note: a network in float16 takes a CPU", "model.dtype=float16"
    assert note in said("plan", "invert", float16)
    assert note in said("run", "invert", float16)
    assert note not in said("plan", "invert")
    assert note not in said("plan", "invert", float16, "workers.gpus=1")
    assert note not in said("plan", "edit")
    job["fingerprint"]["dtype"] = "float16"
    copied.put("job.json", json.dumps(job).encode())
    assert note in said("plan", "edit")
    assert note not in said("plan", "edit", "workers.gpus=1")
    assert not (tmp_path / "edits").exists()
