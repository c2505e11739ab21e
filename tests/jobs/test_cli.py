"""The command line as a person uses it: exit status, what is printed, and a driver that is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.store import Store

DEMO = Path(__file__).parents[2] / "jobs" / "demo" / "shards" / "demo-00000.tar"
EDICT = [str(Path(sys.executable).parent / "edict")]


def write_spec(folder: Path, output: str, **more: Any) -> Path:
    fields = {
        "kind": "invert",
        "input": str(DEMO),
        "output": str(folder / output),
        "sampler": {"steps": 1, "guidance_scale": 1.0},
        "workers": {"count": 2, "batch_size": 4},
    }
    (folder / f"{output}.yaml").write_text(json.dumps(fields | more))
    return folder / f"{output}.yaml"


def rows(store: Path) -> list[dict[str, Any]]:
    found = [row for part in (store / "parts").iterdir() for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: (row["shard"], row["index"]))


def test_a_killed_run_is_finished_by_the_same_command(tmp_path: Path) -> None:
    """SIGKILL to the driver's whole process group once units are committed; the rows end as if nothing had happened."""
    killed, undisturbed = write_spec(tmp_path, "killed"), write_spec(tmp_path, "undisturbed")
    driver = subprocess.Popen([*EDICT, "run", str(killed)], start_new_session=True, stderr=subprocess.DEVNULL)
    commits = tmp_path / "killed" / "commits"
    while not (commits.is_dir() and any(commits.iterdir())):
        try:
            driver.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the driver ended by itself with {driver.returncode}")
    os.killpg(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    done = Store(str(tmp_path / "killed")).committed()
    assert 0 < len(done) < 4

    state = CliRunner().invoke(app, ["status", "--json", str(tmp_path / "killed")])
    assert state.exit_code == 1
    assert json.loads(state.stdout)["complete"] is False

    again = subprocess.run([*EDICT, "run", str(killed)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert subprocess.run([*EDICT, "run", str(undisturbed)], capture_output=True).returncode == 0
    assert rows(tmp_path / "killed") == rows(tmp_path / "undisturbed")
    assert len(rows(tmp_path / "killed")) == 64

    state = CliRunner().invoke(app, ["status", "--json", str(tmp_path / "killed")])
    assert state.exit_code == 0
    counts = {"input": 64, "ok": 64, "rejected": 0, "filtered": 0, "units": 4, "committed": 4, "complete": True}
    assert counts.items() <= json.loads(state.stdout).items()


def test_plan_counts_and_writes_nothing(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, "latents", sampler={"steps": 50})
    said = CliRunner().invoke(app, ["plan", str(spec)])
    assert said.exit_code == 0, said.output
    assert "invert 64 samples of 1 shards" in said.stdout
    assert "200 evaluations a picture, 12,800 in all" in said.stdout
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "absent.yaml"], "absent.yaml"),
        (["plan", "SPEC", "-s", "sampler.stepz=3"], "did you mean"),
        (["plan", "SPEC", "-s", "input=absent.tar"], "absent.tar"),
        (["plan", "SPEC", "-s", "model.path=./nowhere"], "no such folder"),
        (["run", "SPEC", "-s", "workers.gpus=1"], "GPU"),
        (["status", "nowhere"], "no such folder"),
        (["verify", "nowhere"], "no such folder"),
        (["report", "nowhere"], "no such folder"),
        (["schema", "sculpt"], "sculpt"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(tmp_path, "latents")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [str(spec) if argument == "SPEC" else argument for argument in arguments])
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["invert", "edit"])
def test_schema_prints_the_committed_schema(kind: str) -> None:
    committed = Path(__file__).parents[2] / "schemas" / f"{kind}.schema.json"
    said = CliRunner().invoke(app, ["schema", kind])
    assert json.loads(said.stdout) == json.loads(committed.read_text())
