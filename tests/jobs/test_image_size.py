"""The image size in `edict plan` for a pipeline without `model.call`."""

from pathlib import Path

import pytest

from edict.checkpoint import Checkpoint
from edict.models import LoadOptions, PipelineModel, describe
from jobs.preview.image_size import planned_image_size
from jobs.spec_file import load
from tests.edict.pipeline_checkpoints import save
from tests.jobs.commands import run_edict, write_invert_spec


@pytest.mark.parametrize("name", ["sana", "chroma", "qwen-image"])
def test_planned_image_size_is_that_of_the_loaded_model(name: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(save(name, tmp_path / "model"))
    model = describe(checkpoint, LoadOptions())
    assert isinstance(model, PipelineModel) and model.planned_size is None
    planned = planned_image_size(model)
    assert planned is not None
    assert planned == describe(checkpoint, LoadOptions()).load(checkpoint, LoadOptions()).size


def test_planned_image_size_is_none_if_the_loaded_model_has_none(tmp_path: Path) -> None:
    assert planned_image_size(describe(Checkpoint(save("wan", tmp_path / "model")), LoadOptions())) is None


def test_plan_shows_the_default_image_size_of_a_pipeline(tmp_path: Path) -> None:
    model = {"path": str(save("sana", tmp_path / "model"))}
    path = write_invert_spec(tmp_path / "latents", model=model)
    assert load(path).model.path == model["path"]
    plan = run_edict("plan", path)
    assert plan.exit_code == 0, plan.output
    assert "image size    1024 x 1024 pixels" in plan.stdout
    given = run_edict("plan", path, "-s", "model.call={height: 64, width: 64}")
    assert "image size    64 x 64 pixels" in given.stdout
