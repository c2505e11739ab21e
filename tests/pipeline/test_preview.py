"""The lines of `edict plan` about the input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.preview.build import preview
from jobs.preview.text import as_text
from schemas.specs import InvertSpec
from tests.edict.pipeline_checkpoints import save
from tests.pipeline.helpers import Members, ShardOf, complete_members


def test_a_pipeline_whose_schedule_only_its_call_knows_is_planned(tmp_path: Path, shard_of: ShardOf) -> None:
    checkpoint = save("wan", tmp_path / "model")
    shard = shard_of(tmp_path / "a.tar", complete_members("a", "b"))
    fields = {"kind": "invert", "input": str(shard), "output": str(tmp_path / "latents")}
    fields |= {"model": {"path": str(checkpoint)}, "sampler": {"steps": 4, "strength": 0.75}}
    said = as_text(preview(InvertSpec.model_validate(fields))).replace(f"{tmp_path}/", "").splitlines()
    assert "  model         model, float32" in said
    assert "  sampler       edict, 3 steps, p 0.93, guidance scale 3" in said
    assert "  network calls 12 per image, 24 in total" in said


@pytest.fixture
def plan(tmp_path: Path, shard_of: ShardOf) -> Callable[..., list[str]]:
    """Return a function that writes each list of members as a shard, and returns the lines of the plan."""

    def run(*shards: Members) -> list[str]:
        paths = [str(shard_of(tmp_path / f"{number}.tar", members)) for number, members in enumerate(shards)]
        spec = {"kind": "invert", "input": paths, "output": str(tmp_path / "latents")}
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        result = CliRunner().invoke(app, ["plan", str(tmp_path / "spec.json")])
        assert result.exit_code == 0, result.output
        return result.stdout.replace(f"{tmp_path}/", "").splitlines()

    return run


def test_the_first_rejects_of_each_error_are_shown(plan: Callable[..., list[str]]) -> None:
    screenshots = [(f"at 10.{i:02d}.png", b"i") for i in range(500)]
    captions = [("a.png", b"i"), ("a.json", b"{}")]
    lines = plan(
        [*screenshots, *complete_members("b")],
        captions,
        [("\x1b[31m.mp4", b"v"), *complete_members("c" * 9000), ("d.png", b"i")],
    )
    (first,) = [number for number, line in enumerate(lines) if line.startswith("  rejected")]
    assert lines[first] == "  rejected      503  DottedKey 500  MissingCaption 2  MissingImage 1"
    shown = [line.split(": ")[:2] for line in lines[first + 1 : first + 7]]
    assert shown == [
        ["    - DottedKey", "'at 10.00' of 0.tar"],
        ["    - DottedKey", "'at 10.01' of 0.tar"],
        ["    - DottedKey", "'at 10.02' of 0.tar"],
        ["    - MissingCaption", "'a' of 1.tar"],
        ["    - MissingCaption", "'d' of 2.tar"],
        ["    - MissingImage", "'\\x1b[31m' of 2.tar"],
    ]
    assert lines[first + 4].endswith("captions in a .json are not read: write it to a .txt with the same key")
    assert max(map(len, lines)) < 1000
    assert not [line for line in lines if "repeated" in line]


def test_keys_that_repeat_over_shards_are_reported(plan: Callable[..., list[str]]) -> None:
    lines = plan(
        complete_members("a", "b", "c", "d"),
        complete_members("x", "b"),
        [*complete_members("a", "b", "c"), ("x.png", b"i")],
        complete_members("d"),
    )
    first = next(number for number, line in enumerate(lines) if line.startswith("  repeated"))
    assert lines[first].startswith("  repeated      4 keys are in several shards")
    assert lines[first + 1 : first + 4] == [
        "    - 'a' in 0.tar and 2.tar",
        "    - 'b' in 0.tar and 2.tar",
        "    - 'c' in 0.tar and 2.tar",
    ]
    assert lines[first + 4].startswith("  units")
