"""The command line: exit statuses and output."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.preview.build import preview
from jobs.preview.data import InvertPreview
from jobs.spec_file import load
from jobs.terminal import edit_counts, print_result
from pipeline import progress
from pipeline.inspect.status import Status
from pipeline.progress import Progress
from pipeline.run import RunResult
from tests.jobs.commands import run_edict, write_invert_spec


@pytest.mark.parametrize(
    "arguments", [["run", "absent.yaml"], ["plan", "absent.yaml"], ["batch", "absent.yaml"], ["status", "nowhere"]]
)
def test_commands_that_need_no_model_do_not_import_torch(arguments: list[str]) -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from jobs.cli import app; "
        f"assert CliRunner().invoke(app, {arguments}).exit_code == 2; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_version_and_help_options() -> None:
    result = run_edict("--version")
    assert (result.exit_code, result.stdout) == (0, f"edict-pipeline {version('edict-pipeline')}\n")
    for command in ([], ["run"], ["eval"], ["eval", "edits"]):
        short, long = (run_edict(*command, option) for option in ("-h", "--help"))
        assert short.exit_code == 0 and short.stdout == long.stdout


def test_shells_complete_commands() -> None:
    for shell in ("bash", "zsh", "fish"):
        script = CliRunner().invoke(app, [], prog_name="edict", env={"_EDICT_COMPLETE": f"source_{shell}"})
        assert script.exit_code == 0 and "EDICT_COMPLETE" in script.stdout
    environment = {"_EDICT_COMPLETE": "complete_bash", "COMP_WORDS": "edict st", "COMP_CWORD": "1"}
    found = CliRunner().invoke(app, [], prog_name="edict", env=environment)
    assert found.stdout.split() == ["status"]


def test_plan_counts_and_writes_nothing(tmp_path: Path) -> None:
    spec = write_invert_spec(tmp_path / "latents", sampler={"steps": 50})
    result = run_edict("plan", spec)
    assert result.exit_code == 0, result.output
    assert "invert 64 samples from 1 shard" in result.stdout
    assert "network calls 200 per image, 12,800 in total" in result.stdout
    assert "image size    64 x 64 pixels" in result.stdout
    assert not (tmp_path / "latents").exists()


def test_plan_json_has_the_fields_of_the_preview(tmp_path: Path) -> None:
    spec = write_invert_spec(tmp_path / "latents", sampler={"steps": 50})
    result = run_edict("plan", "--json", spec)
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert list(plan) == [field.name for field in fields(InvertPreview)]
    assert InvertPreview(**plan) == preview(load(spec))
    assert plan["samples"] == plan["accepted"] == 64
    assert (plan["image_size"], plan["units"], plan["units_done"]) == (64, 4, 0)
    assert (plan["sampler"], plan["steps"], plan["parameters"]) == ("edict", 50, {"p": 0.93})
    assert (plan["network_calls_per_image"], plan["network_calls"]) == (200, 12_800)
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "absent.yaml"], "absent.yaml"),
        (["plan", "SPEC", "-s", "sampler.stepz=3"], "did you mean steps?"),
        (["plan", "SPEC", "-s", "input=absent.tar"], "absent.tar"),
        (["plan", "SPEC", "-s", "model.path=./nowhere"], "no such folder"),
        (["batch", "SPEC", "-s", "model.path=./nowhere"], "no such folder"),
        (["run", "SPEC", "-s", "workers.gpus=1"], "GPU"),
        (["status", "nowhere"], "no such folder"),
        (["verify", "nowhere"], "no such folder"),
        (["report", "nowhere"], "no such folder"),
        (["schema", "sculpt"], "sculpt"),
    ],
)
def test_errors_are_printed_without_a_traceback(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_invert_spec(tmp_path / "latents")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # One case assumes a machine without a GPU.
    result = run_edict(*(spec if argument == "SPEC" else argument for argument in arguments))
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "text",
    [
        "StorageError: /data/x[/y].tar: gone",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] out of memory",
        "KeyError: [link=http://host]click[/link]",
        "[bold]x[/bold] \\[x] :smile:",
        "a\x1b[31m\x07\r\nb",
        "half a pair \ud800",
    ],
)
def test_status_prints_any_text_literally(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    run = {
        "run": text,
        "host": "h",
        "time": 1.0,
        "ended": text,
        "queued": 0,
        "workers": 0,
        "starting": 0,
        "at_work": [],
    }
    counts = {"planned": 2, "input": 1, "ok": 1, "rejected": 0, "filtered": 0, "units": 2, "committed": 1}
    found = Status("invert", **counts, complete=False, problems=[text], notes=[text], rejects={text: 1}, run=run)
    print_result(text, RunResult(replace(found, stragglers=[text]), [text]))
    said = capsys.readouterr().out
    assert said.count(shown) == 8
    assert "\x1b" not in said


def test_the_counts_of_an_edit_are_one_line() -> None:
    counts = {"planned": 192, "input": 192, "ok": 107, "rejected": 0, "filtered": 85, "units": 4, "committed": 4}
    said = "107 edited, 85 filtered (the caption would not change), 0 rejected: 192 of 192 images"
    assert edit_counts(Status("edit", **counts, complete=True)) == said


def test_progress_has_no_rate_before_the_first_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 61.0, 61.0, 122.0, 122.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(times)))
    shown = Progress("edit", 192, "images")
    shown.advance(0, "loading the model on 1 worker")
    shown.advance(61)
    assert capsys.readouterr().err.splitlines() == [
        "edit: 0/192 images, 61 s, loading the model on 1 worker",
        "edit: 61/192 images, 0.50/s, 122 s, 262 s left",
    ]


@pytest.mark.parametrize("kind", ["invert", "edit"])
def test_schema_prints_the_committed_schema(kind: str) -> None:
    committed = Path(__file__).parents[2] / "schemas" / f"{kind}.schema.json"
    result = run_edict("schema", kind)
    assert json.loads(result.stdout) == json.loads(committed.read_text())


@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_output_that_is_a_file_is_refused(command: str, tmp_path: Path) -> None:
    file = tmp_path / "photos.tar"
    file.write_bytes(b"")
    path = write_invert_spec(tmp_path / "latents")
    result = run_edict(command, path, "-s", f"output={file}")
    assert result.exit_code == 2 and f"error: {file}: is a file; give a folder" in result.stderr
