"""Jobs with pipelines of diffusers, from checkpoints on disk: inverted, verified, edited and resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from edict.errors import ModelError
from jobs.preview.build import preview
from jobs.preview.text import as_text
from jobs.prompts import resolve
from pipeline.io.samples import Sample
from pipeline.messages import ModelFault
from pipeline.plan.edit_task import EditError, edit_task
from pipeline.plan.invert_task import invert_task, stored_inversion
from pipeline.plan.job import open_job
from pipeline.plan.job_changes import JobChanged
from pipeline.plan.selection import read_selection
from pipeline.plan.units import part_units, plan_shards
from pipeline.run import run_edit, run_invert
from pipeline.store.latents import read_latents
from pipeline.store.plan import read_units, write_units
from pipeline.store.store import Store
from pipeline.verify import run_verify
from pipeline.workers.edit import EditWorker
from pipeline.workers.invert import InvertWorker
from pipeline.workers.verify import VerifyTask, VerifyWorker
from schemas.specs import EditSpec, InvertSpec
from tests.edict import pipeline_checkpoints

SHAPES = {"qwen-image": (16, 16), "flux2": (64, 16), "flux2-klein": (64, 16), "wan": (16, 1, 2, 2)}


@pytest.fixture(scope="module")
def spec_of(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[Sample],
    shard_of: Callable[[Path, list[tuple[str, bytes]]], Path],
) -> Callable[..., InvertSpec]:
    """Return a spec that inverts three images with a small checkpoint of a pipeline."""
    folder = tmp_path_factory.mktemp("pipelines")
    members = [
        member
        for i, sample in enumerate(samples[:3])
        for member in ((f"{i:03d}.png", sample.image), (f"{i:03d}.txt", sample.caption.encode()))
    ]
    shard_of(folder / "0.tar", members)

    def spec(name: str, output: Path, **model: Any) -> InvertSpec:
        if not (folder / name).exists():
            pipeline_checkpoints.save(name, folder / name)
        given = {"path": str(folder / name), "dtype": "bfloat16", "call": {"height": 16, "width": 16}}
        return InvertSpec.model_validate(
            {
                "kind": "invert",
                "input": str(folder / "0.tar"),
                "output": str(output),
                "model": given | model,
                "sampler": {"steps": 3, "guidance_scale": 2.0},
                "workers": {"batch_size": 2},
            }
        )

    return spec


def inverted(spec: InvertSpec) -> InvertWorker:
    """Run a job in this process."""
    job, store = invert_task(spec), Store(spec.output, create=True)
    open_job(store, job.record)
    write_units(store, plan_shards(store, spec.input, 2, 1))
    worker = InvertWorker(replace(job, key=store.key()))
    for unit in read_units(store):
        assert worker.process(unit, 1, None, {}).ok == unit.count
    return worker


def edited(latents: Path, output: Path, **edit: Any) -> list[dict[str, Any]]:
    """Return the rows of an edit that runs in this process."""
    fields = {"kind": "edit", "latents": str(latents), "output": str(output)}
    spec = EditSpec.model_validate(fields | {"edits": [{"name": "snow", "prompt": "{caption}, in snow"} | edit]})
    store, edits = Store(spec.output, create=True), resolve(spec.edits)
    task = edit_task(spec, Store(spec.latents), edits, read_selection(spec))
    open_job(store, task.record)
    write_units(store, part_units(Store(spec.latents), 2, 1))
    worker = EditWorker(replace(task, key=store.key()))
    for unit in read_units(store):
        assert worker.process(unit, 1, None, {}).ok == unit.count
    return [row for file in (output / "parts").iterdir() for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("name", SHAPES)
def test_the_store_of_a_pipeline_is_exact_and_edited(
    spec_of: Callable[..., InvertSpec], tmp_path: Path, name: str
) -> None:
    spec = spec_of(name, tmp_path / "latents")
    said = as_text(preview(spec))
    assert f"{spec.model.path}, bfloat16\n  image size    16 x 16 pixels" in said
    assert "edict, 3 steps, p 0.93, guidance scale 2" in said
    inverted(spec)
    store = Store(spec.output)
    units = part_units(store, 2, 1)
    assert tuple(read_latents(store, units[0]).pair.x.shape[1:]) == SHAPES[name]
    verifier = VerifyWorker(VerifyTask(store.location, store.key(), stored_inversion(store)))
    assert [verifier.process(unit, 1, None, {}).inexact for unit in units] == [()] * len(units)
    later = edited(tmp_path / "latents", tmp_path / "edits", strength=0.7)
    assert len(later) == 3 and len({row["image_sha256"] for row in later}) == 3
    if name in ("qwen-image", "wan"):
        other = edited(tmp_path / "latents", tmp_path / "other", strength=0.7, negative_prompt="a dog")
        assert {row["image_sha256"] for row in other}.isdisjoint(row["image_sha256"] for row in later)
    else:
        with pytest.raises(EditError, match=r"has a negative_prompt, which the model of .* does not take"):
            edited(tmp_path / "latents", tmp_path / "other", negative_prompt="a dog")


def test_adapters_and_settings_of_the_model_are_part_of_the_job(
    spec_of: Callable[..., InvertSpec], tmp_path: Path
) -> None:
    plain = spec_of("qwen-image", tmp_path / "latents")
    file = tmp_path / "whole.safetensors"
    save_file(load_file(Path(plain.model.path) / "transformer" / "diffusion_pytorch_model.safetensors"), file)
    single = spec_of("qwen-image", tmp_path / "single", path=str(file), config=plain.model.path)
    quantized = spec_of("qwen-image", tmp_path / "quantized", quantization="int8")
    jobs = [invert_task(spec) for spec in (plain, single, quantized)]
    assert jobs[0].fingerprint.weights == jobs[2].fingerprint.weights != jobs[1].fingerprint.weights
    assert jobs[2].fingerprint.quantization == "int8" and jobs[0].fingerprint.pipeline == "QwenImagePipeline"
    for spec in (single, quantized):
        inverted(spec)
        store = Store(spec.output)
        verifier = VerifyWorker(VerifyTask(store.location, store.key(), stored_inversion(store)))
        assert not verifier.process(part_units(store, 2, 1)[0], 1, None, {}).inexact
    for changed in ({"call": {"height": 16, "width": 16, "max_sequence_length": 64}}, {"quantization": None}):
        with pytest.raises(JobChanged, match=r"call|quantization"):
            open_job(
                Store(quantized.output), invert_task(spec_of("qwen-image", tmp_path / "quantized", **changed)).record
            )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"call": {"height": 16, "width": 32}}, "height is 16 and width is 32, but images are squares"),
        ({"call": {"colour": 1}}, "the call of QwenImagePipeline has no argument 'colour'"),
        ({"path": "/no/such/folder"}, "there is no such folder"),
    ],
)
def test_a_wrong_model_is_an_error_of_edict_plan(
    spec_of: Callable[..., InvertSpec], tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    spec = spec_of("qwen-image", tmp_path / "latents", **model)
    with pytest.raises(ModelError, match=message):
        preview(spec)
    with pytest.raises(ModelError, match=message):
        run_invert(spec)


def test_a_fault_of_the_pipeline_ends_the_job(spec_of: Callable[..., InvertSpec], tmp_path: Path) -> None:
    spec = spec_of("qwen-image", tmp_path / "latents", call={"height": 16, "width": 16, "attention_kwargs": 3})
    with pytest.raises(ModelFault, match="fails on a blank image and an empty caption"):
        inverted(spec)


@pytest.mark.usefixtures("local_ray")
def test_a_job_runs_on_ray(spec_of: Callable[..., InvertSpec], tmp_path: Path) -> None:
    spec = spec_of("wan", tmp_path / "latents")
    assert run_invert(spec).status.ok == 3
    verified = run_verify(spec.output, rows=None, count=1)
    assert (verified.rows, verified.exact, verified.problems) == (3, 3, [])
    fields = {"kind": "edit", "latents": spec.output, "output": str(tmp_path / "edits")}
    wanted = EditSpec.model_validate(fields | {"edits": [{"name": "snow", "prompt": "{caption}, in snow"}]})
    assert run_edit(wanted, resolve(wanted.edits)).status.ok == 3
