"""The examples of docs/specs.md: each is planned, the edits are made, and invalid specs give the printed errors."""

import json
import os
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from edict.checkpoint import locate
from edict.model_files import read_shapes
from jobs.launch import run_spec
from jobs.preview.build import preview
from jobs.preview.data import EditPreview
from jobs.preview.text import as_text
from jobs.prompts import resolve
from jobs.spec_file import load
from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_index import index_shard
from pipeline.io.shard_writer import write_shard
from pipeline.plan.edit_task import edit_task
from pipeline.plan.job_changes import JobChanged
from pipeline.plan.selection import read_selection
from pipeline.plan.units import part_units
from pipeline.store.store import Store
from pipeline.workers.edit import EditWorker
from schemas.specs import EditSpec
from tests.jobs.commands import DEMO_SHARD, run_edict

PAGE = (Path(__file__).parents[2] / "docs" / "specs.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
FILES = dict(re.findall(r"^```text (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def examples(title: str) -> list[dict[str, Any]]:
    """Return the specs of a section: the first one, and each of the others merged into it."""
    head, *others = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", SECTIONS[title], re.MULTILINE | re.DOTALL))
    return [head, *(head | other for other in others)]


CONTROLLED = {"held", "shaped", "blended", "named-blend", "masked", "pie-masked"}
INVERTS, ROWS, CHANGES = (examples(title) for title in ("Invert", "Edit: which rows", "Edit: which changes"))
BAD = [
    (title, *(cell.replace(r"\|", "|") for cell in cells))
    for title in SECTIONS
    for cells in re.findall(r"^\| `(.*)` \| `(.*)` \|$", SECTIONS[title], re.MULTILINE)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two shards of 8 images, their latent store with 5 steps, and the files of the page."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    index = index_shard(str(DEMO_SHARD))
    read = list(read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries[:16]))
    for shard in (0, 1):
        some = [sample for sample in read[shard * 8 : shard * 8 + 8] if isinstance(sample, Sample)]
        members = (
            (s.key, {s.extension: s.image, "txt": s.caption.encode(), "json": (s.json or "{}").encode()}) for s in some
        )
        (folder / "photos" / f"{shard:05d}.tar").write_bytes(write_shard(members))
    shutil.copytree(locate(), folder / "my-model", copy_function=os.symlink)
    unet = folder / "my-model" / "unet"
    (unet / "diffusion_pytorch_model.fp16.safetensors").symlink_to(unet / "diffusion_pytorch_model.safetensors")
    shapes = read_shapes(unet / "diffusion_pytorch_model.safetensors")
    name = next(name for name in shapes if name.endswith("attn1.to_q.weight"))
    layer, (out, in_) = name.removesuffix(".weight"), shapes[name]
    lora = {f"unet.{layer}.lora_A.weight": torch.ones(1, in_), f"unet.{layer}.lora_B.weight": torch.ones(out, 1)}
    save_file(lora, folder / "my-lora.safetensors")
    (folder / "masks").mkdir()
    for sample in read:
        mask = Image.new("L", (64, 64))
        mask.paste(255, (16, 16, 48, 56))
        mask.save(folder / "masks" / f"{sample.key}.png")
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    fields = {"input": str(folder / "photos" / "{00000..00001}.tar"), "output": str(folder / "latents")}
    path = folder / "invert.yaml"
    sampler = {"steps": 5, "guidance_scale": 3.0}
    path.write_text(yaml.safe_dump({"kind": "invert", **fields, "sampler": sampler, "workers": {"batch_size": 4}}))
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    assert run_spec(load(path)).status.ok == 16
    yield folder
    ray.shutdown()


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def written(folder: Path, spec: dict[str, Any]) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def planned(folder: Path, spec: dict[str, Any]) -> str:
    return as_text(preview(load(written(folder, spec))))


@pytest.mark.parametrize("spec", INVERTS, ids=lambda spec: "-".join(spec))
def test_every_inversion_can_be_planned(spec: dict[str, Any], here: Path) -> None:
    """The output differs from the store of the fixture, which has another job."""
    assert "invert 16 samples from 2 shards" in planned(here, {**spec, "output": "planned"})


@pytest.mark.parametrize(
    ("spec", "rows"),
    zip(ROWS, (16, 2, 3, 2, 6, 4), strict=True),
    ids=["all", "where", "keys", "file", "sample", "limit"],
)
def test_every_selection_can_be_planned(spec: dict[str, Any], rows: int, here: Path) -> None:
    selected = "16" if rows == 16 else f"{rows} of 16"
    assert planned(here, spec).startswith(f"edit {selected} rows of {here}/latents into {here}/edits\n")


@pytest.mark.parametrize("spec", CHANGES, ids=lambda spec: spec["edits"][0]["name"])
def test_every_edit_can_be_planned(spec: dict[str, Any], here: Path) -> None:
    said = planned(here, spec)
    assert "unused" not in said
    assert re.search(r"^  images        [1-9]", said, re.MULTILINE)


def test_plan_shows_ten_prompts_unused_edits_and_unknown_keys(here: Path) -> None:
    (here / "far.csv").write_text("key,prompt\n000000003,x\nz9,y\nz8,y\n")
    edits = [
        {"name": "snow", "suffix": ", in snow"},
        {"name": "dog", "regex": {"dog": "cat"}},
        {"name": "far", "table": "far.csv"},
        {"name": "other", "table": "prompts.csv"},
    ]
    said = planned(here, CHANGES[0] | {"edits": edits, "where": "key < '000000008'"}).splitlines()
    assert "  images        9  snow 8  far 1" in said
    assert "  filtered      31 (the caption would not change)" in said
    assert [line for line in said if "unused" in line] == [
        f"  unused        {name}: changes no caption" for name in ("dog", "other-1", "other-2")
    ]
    assert "  unknown keys  far: 2 of the 3 keys in its table are not in the store: z8, z9" in said
    assert sum(line.startswith("    + ") for line in said) == 9
    said = planned(here, CHANGES[0]).splitlines()
    assert sum(line.startswith("    + ") for line in said) == 10


def test_plan_json_of_an_edit_has_the_fields_of_the_preview(here: Path) -> None:
    result = run_edict("plan", "--json", written(here, CHANGES[0]))
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert list(plan) == [field.name for field in fields(EditPreview)]
    assert (plan["kind"], plan["rows"], plan["rows_in_store"]) == ("edit", 16, 16)
    assert sum(plan["images"].values()) + plan["filtered"] == 16 * len(plan["images"])
    assert all(example.keys() == {"edit", "caption", "prompt"} for example in plan["prompt_examples"])


def test_all_edits_are_made_of_the_selected_rows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one job on Ray with every edit of the page, on rows that are selected by all four fields."""
    (here / "some.txt").write_text("".join(f"{n:09d}\n" for n in (3, 9, 10, 11, 12)))
    edits = [edit for spec in CHANGES for edit in spec["edits"]]
    edits = list({edit["name"]: edit for edit in edits}.values())
    choice = {"where": "(json->>'vendor') is not null and index < 5", "keys": "some.txt"}
    spec = CHANGES[-1] | {"edits": edits, **choice, "sample": {"count": 4}, "limit": 4}
    ran = run_spec(load(written(here, spec)))
    assert ran.failures == []
    assert ran.status.complete and ran.status.rejected == 0
    index = [row for part in (here / "edits" / "parts").iterdir() for row in pq.read_table(part).to_pylist()]
    assert len(index) == ran.status.ok
    made = {(row["edit"], row["source_key"]): row for row in index}
    keys = {row["source_key"] for row in index}
    assert len(keys) == 4 and keys < {f"{n:09d}" for n in (3, 9, 10, 11, 12)}
    assert {edit for edit, _ in made} >= {"snow", "drawing", "vendor-fluent", "inside-out", "sketch", "late", "clear"}
    found = preview(load(written(here, spec)))
    assert isinstance(found, EditPreview) and sum(found.images.values()) == ran.status.ok
    assert ran.status.input == 4 * (len(edits) + 3)  # Three of them have two variants.
    for (edit, key), row in made.items():
        assert row["negative_prompt"] == ("blurry, dark" if edit == "clear" else None)
        assert (row["control"] is not None) == (edit in CONTROLLED)
        assert row["caption"] == row["prompt"] or edit != "clear"
        if edit == "sketch":
            assert row["prompt"] == f"a sketch of {row['caption']}, on paper"
        if edit.startswith("mine") or edit.startswith("named"):
            assert key in ("000000009", "000000010")
    # Only its negative prompt distinguishes this edit from a regeneration.
    assert {row["image_sha256"] for (edit, _), row in made.items() if edit == "clear"}.isdisjoint(
        row["image_sha256"] for (edit, _), row in made.items() if edit != "clear"
    )
    for change, said in [
        ({"limit": 3}, "limit: 4 in the store, 3 in the spec"),
        ({"keys": ["000000009"]}, "keys: '"),
        ({"where": "true"}, "where: "),
    ]:
        with pytest.raises(JobChanged, match=re.escape(said)):
            run_spec(load(written(here, spec | change)))
    monkeypatch.setitem(FILES, "prompts.csv", FILES["prompts.csv"] + "x,y\n")
    (here / "prompts.csv").write_text(FILES["prompts.csv"])
    with pytest.raises(JobChanged, match=r"edits\[\d+\]\.table: 'sha256:"):
        run_spec(load(written(here, spec)))


def test_the_number_of_network_calls_is_that_of_the_plan(here: Path, tmp_path: Path) -> None:
    """Count the calls in a worker. Every batch is full: 4 images, or 2 controlled edits with their 2 sources."""
    snow = {"suffix": ", in snow"}
    edits = [
        {"name": "a", **snow, "strength": 0.6},
        {"name": "b", "prefix": "a sketch of ", "strength": 0.6},
        {"name": "c", **snow, "steps": 2, "guidance_scale": 1.0},
        {"name": "d", **snow, "steps": 4, "control": {}},
        {"name": "e", **snow, "steps": 4, "guidance_scale": 0.0, "control": {"weights": {"snow": 2.0}}},
    ]
    fields = {"kind": "edit", "latents": "latents", "output": str(tmp_path / "edits"), "edits": edits}
    spec = load(written(here, fields | {"contact_sheet": 0}))
    assert isinstance(spec, EditSpec)
    latents = Store(spec.latents)
    task = edit_task(spec, latents, resolve(spec.edits), read_selection(spec))
    calls = list[int]()
    worker = EditWorker(replace(task, spec=spec.model_copy(update={"output": str(tmp_path)})))
    worker.model.network.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    for unit in part_units(latents, task.record.edit.batch_size, 1):
        worker.probe(unit, 0)
    assert sum(calls) == preview(spec).network_calls


def test_a_row_with_an_invalid_control_is_rejected_with_the_reason(here: Path, tmp_path: Path) -> None:
    masks = {"000000001": (64, 64), "000000002": (64, 40), "000000003": b"not a picture"}
    for key, size in masks.items():
        if isinstance(size, bytes):
            (tmp_path / f"{key}.png").write_bytes(size)
        else:
            Image.new("L", size, 255).save(tmp_path / f"{key}.png")
    edits = [
        {"name": "mask", "suffix": ", in snow", "control": {"mask": {"file": f"{tmp_path}/{{key}}.png"}}},
        {"name": "weight", "suffix": ", in snow", "control": {"weights": {"ice": 2.0}}},
        {"name": "words", "suffix": ", in snow", "control": {"mask": {"words": ["ice", "winter night"]}}},
    ]
    keys = [f"{n:09d}" for n in range(5)]
    spec = {"kind": "edit", "latents": "latents", "output": str(tmp_path / "edits"), "edits": edits, "keys": keys}
    ran = run_spec(load(written(here, spec)))
    assert (ran.status.ok, ran.status.input, ran.status.rejects) == (1, 15, {"MaskError": 4, "WordNotFound": 10})
    said = {
        reject.key: reject.message for commit in Store(str(tmp_path / "edits")).commits() for reject in commit.rejects
    }
    assert "does not exist" in said["mask/000000000"] and f"{tmp_path}/000000000.png" in said["mask/000000000"]
    assert "has 64x40 pixels, but the source has 64x64" in said["mask/000000002"]
    assert "000000003.png: " in said["mask/000000003"]
    assert said["weight/000000001"].startswith("'ice' has a weight, but is not in the prompt")
    assert said["words/000000001"] == (
        "neither the caption nor the prompt has the words of the mask, 'ice', 'winter night'. Use words of one of them"
    )


def error_of(folder: Path, fragment: str, head: dict[str, Any]) -> str:
    """Return the error of `edict plan` for a spec with this fragment, without the file and the line."""
    spec = {**head, "output": "planned"} | yaml.safe_load(fragment)  # The other stores have other jobs.
    result = run_edict("plan", written(folder, spec))
    assert result.exit_code == 2, result.output
    said = result.stderr.removeprefix("error: ").replace(f"{folder}/", "")
    return re.sub(r"(?<=parts/)[\w-]+", "...", re.sub(r"^spec\.yaml, line \d+: ", "", said)).strip()


@pytest.mark.parametrize(("title", "fragment", "says"), BAD, ids=[fragment[:40] for _, fragment, _ in BAD])
def test_every_invalid_spec_gives_the_error_of_the_page(title: str, fragment: str, says: str, here: Path) -> None:
    said = error_of(here, fragment, (INVERTS if "invert" in title else ROWS)[0])
    assert said == says, f"docs/specs.md: | `{fragment}` | `{said}` |"
    assert re.match(r"(edit '\w+', )?[\w.\[\], ]+: |edit '\w+' has", said), "the error must start with a field"


def test_the_page_has_at_least_25_invalid_specs() -> None:
    assert len(BAD) >= 25
