"""The README's commands and Python code run as printed, and its links lead to files."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import duckdb
import polars
import pyarrow.parquet
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from edict import EDICT
from jobs.cli import app
from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_index import index_shard
from schemas.specs import InvertSpec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_EDIT = "From the demo to an edit of your own"
TABLE = re.findall(r"^\| `(edict [^`]*)` \|", README, re.MULTILINE)
ELSEWHERE = ("edict batch", "edict submit")  # they take minutes, or a cluster; their own tests run them
STEPS = ("sampler: {guidance_scale: 1.0}", "sampler: {steps: 5, guidance_scale: 1.0}")  # 50 steps take a minute


def block(title: str, language: str) -> str:
    """Return the code block of a section."""
    section = README.partition(f"## {title}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(found)


def samples(count: int) -> list[Sample]:
    """Return the first samples of the demo's shard."""
    index = index_shard(str(ROOT / "jobs" / "demo" / "shards" / "demo-00000.tar"))
    read = read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries[:count])
    return [sample for sample in read if isinstance(sample, Sample)]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with this environment's `edict` on the PATH, on a Ray of its own."""
    environment: Mapping[str, str] = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }
    return subprocess.run(["bash", "-e"], input=command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def own_edit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder in which the section's commands ran, and their output."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    for i, sample in enumerate(samples(2)):  # of a photograph's size and format
        (folder / "photos" / f"cat{i}.txt").write_text(sample.caption)
        Image.open(BytesIO(sample.image)).convert("RGB").resize((640, 480)).save(folder / "photos" / f"cat{i}.jpg")
    first, *commands = block(OWN_EDIT, "bash").splitlines()
    assert first == "source .venv/bin/activate"
    assert len(commands) <= 10
    script = "\n".join(commands)
    assert script.count(STEPS[0]) == 1
    ran = shell(script.replace(*STEPS), folder)
    assert ran.returncode == 0, ran.stderr
    return folder, ran.stdout


def test_the_commands_of_an_edit_of_your_own_run(own_edit: tuple[Path, str]) -> None:
    folder, printed = own_edit
    assert "4  night 2  night-controlled 2" in printed
    with Image.open(folder / "edits" / "contact_sheet.png") as sheet:
        assert sheet.width > sheet.height > 300
    assert (folder / "edits" / "report.html").stat().st_size > 10_000


def test_the_spec_of_a_real_run_is_valid() -> None:
    spec = InvertSpec.model_validate(yaml.safe_load(block(OWN_EDIT, "yaml")))
    assert spec.dtype == "bfloat16" and spec.workers.gpus == 1


@pytest.mark.parametrize("command", [command for command in TABLE if not command.startswith(ELSEWHERE)])
def test_a_command_of_the_table_runs_on_these_stores(command: str, own_edit: tuple[Path, str]) -> None:
    ran = shell(command, own_edit[0])
    if command.startswith("edict retry"):
        assert ran.returncode == 2 and "nothing was rejected for WorkerDied" in ran.stderr
    else:
        assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("command", ELSEWHERE)
def test_a_command_of_the_table_that_other_tests_run_exists(command: str) -> None:
    assert any(row.startswith(command) for row in TABLE)
    assert CliRunner().invoke(app, [command.split()[1], "--help"]).exit_code == 0


def test_a_store_opens_in_every_reader_of_the_page(
    own_edit: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "specs.md").read_text(encoding="utf-8").partition("## Reading a latent store\n")[2]
    readers, scales = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(own_edit[0])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    names: dict[str, Any] = {"duckdb": duckdb, "polars": polars, "pyarrow": pyarrow, "datasets": datasets, "json": json}
    for line in readers.splitlines():
        exec(line, names)
        rows = names["rows"]
        assert len(rows["train"] if isinstance(rows, datasets.DatasetDict) else rows) == 2
    exec(scales, names | {"part": next((own_edit[0] / "latents" / "parts").iterdir())}, found := dict[str, float]())
    assert found["x_scale"] == found["y_scale"] > 0


def test_the_python_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = block("In Python", "python")
    assert code.count("steps=50") == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.open(BytesIO(samples(1)[0].image)).convert("RGB").resize((640, 480)).save("photos/cat.jpg")
    names = dict[str, Any]()
    exec(code.replace("steps=50", "steps=5"), names)
    model: EDICT = names["model"]
    assert names["same"] == model.encode(names["images"]) != names["pair"]
    assert [image.size for image in names["edits"]] == [(64, 64)]


def test_the_named_version_of_torch_is_the_pinned_one() -> None:
    (version,) = re.findall(r"tested: torch ([\d.]+\d)", README)
    assert f"\ntorch=={version}\n" in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_the_file_of_a_link_exists(link: str) -> None:
    assert (ROOT / link).exists()
