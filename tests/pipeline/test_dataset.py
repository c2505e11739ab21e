"""Exports of a small, real edit, read by the libraries of their users."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from datasets import Image as HFImage
from datasets import load_dataset
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.prompts import resolve
from pipeline.export.edits import EDIT_FORMATS, export_edits
from pipeline.export.latents import ExportError, export
from pipeline.inspect.sheet import read_shown_rows
from pipeline.instructions import instruction_of
from pipeline.io.images import prepare
from pipeline.io.samples import Sample
from pipeline.plan.edit_task import edit_task
from pipeline.plan.invert_task import invert_task
from pipeline.plan.job import open_job
from pipeline.plan.job_changes import JobChanged
from pipeline.plan.opened_job import open_invert
from pipeline.plan.selection import read_selection
from pipeline.plan.units import part_units, plan_shards, spread
from pipeline.store.errors import StoreError
from pipeline.store.parts import to_parquet
from pipeline.store.plan import read_units, write_units
from pipeline.store.store import Store
from pipeline.workers.edit import EditWorker
from pipeline.workers.invert import InvertWorker
from schemas.commit import Commit
from schemas.specs import EditSpec, InvertSpec
from tests.pipeline.helpers import ShardOf

EDITS = [
    {"name": "snow", "prompt": "{caption}, in snow", "instruction": "make it snow: {added}"},
    {"name": "red", "replace": {"background": "backdrop"}},
]
INSTRUCTIONS = {"snow": "make it snow: in snow", "red": 'replace "background" with "backdrop"'}
SOURCE_JSON = '{"url": "https://example.org/ä.jpg",  "licence": "CC-BY-4.0", "sha256": "abc", "source_json": 1e400}'


def large(sample: Sample) -> bytes:
    """Return a sample's image as a JPEG that is larger than the model's size and not square."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(sample.image)).convert("RGB").resize((150, 100)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample], shard_of: ShardOf) -> Path:
    """Make a folder of two shards with the same keys, their latents and edits of them, by workers in this process."""
    folder = tmp_path_factory.mktemp("dataset")
    for i, part in enumerate((samples[:3], samples[3:5])):
        members = [
            member
            for j, sample in enumerate(part)
            for member in (
                (f"犬/{j:03d}.jpg", large(sample)),
                (f"犬/{j:03d}.txt", sample.caption.encode()),
                *([(f"犬/{j:03d}.json", SOURCE_JSON.encode())] if j else []),
            )
        ]
        shard_of(folder / f"{i}.tar", members)
    fields: dict[str, Any] = {"kind": "invert", "input": str(folder / "{0..1}.tar"), "output": str(folder / "latents")}
    invert = InvertSpec.model_validate(
        fields | {"sampler": {"steps": 1, "guidance_scale": 1.0}, "workers": {"batch_size": 2}}
    )
    job, store = invert_task(invert), Store(invert.output, create=True)
    open_job(store, job.record)
    write_units(store, plan_shards(store, invert.input, 2, 1))
    inverter = InvertWorker(replace(job, key=store.key()))
    for unit in read_units(store):
        inverter.process(unit, 1, None, {})
    write_edits(folder, "edits")
    write_edits(folder, "jpegs", images={"format": "jpeg", "quality": 40})
    return folder


def write_edits(folder: Path, output: str, **more: Any) -> None:
    fields = {"kind": "edit", "latents": str(folder / "latents"), "output": str(folder / output), "edits": EDITS}
    spec = EditSpec.model_validate(fields | more)
    edits, latents, store = resolve(spec.edits), Store(spec.latents), Store(spec.output, create=True)
    task = edit_task(spec, latents, edits, read_selection(spec))
    open_job(store, task.record)
    write_units(store, part_units(latents, task.record.edit.batch_size, 1))
    units = read_units(store)
    editor = EditWorker(replace(task, key=store.key(), shown=spread(units, 3)))
    for unit in units:
        editor.process(unit, 1, None, {})


def test_the_source_json_and_the_instruction_are_in_index_and_tars(made: Path, tmp_path: Path) -> None:
    """The index has the source JSON byte for byte, and tars have it as JSON, or null."""
    rows = index(made / "edits")
    with_json = [row["source_json"] is not None for row in rows]
    assert sum(with_json) == 6 and {row["source_json"] for row in rows} == {None, SOURCE_JSON}
    assert all(row["instruction"] == INSTRUCTIONS[row["edit"]] for row in rows)
    metadata = {}
    for tar in sorted((made / "edits" / "shards").iterdir()):
        metadata |= {
            (tar.name, sample["__key__"]): json.loads(sample["json"])
            for sample in webdataset.WebDataset(str(tar), shardshuffle=False)
        }
    expected = json.loads(SOURCE_JSON)
    for row, has in zip(rows, with_json, strict=True):
        found = metadata[row["shard"], row["key"]]
        assert found["source_json"] == (expected if has else None)
        assert found["instruction"] == row["instruction"]
    export(str(made / "latents"), str(tmp_path / "out"), format="webdataset", dtype="float32")
    tars = map(str, sorted((tmp_path / "out").glob("*.tar")))
    of_latents = [
        json.loads(sample["json"])["json"] for tar in tars for sample in webdataset.WebDataset(tar, shardshuffle=False)
    ]
    assert of_latents.count(expected) == 3 and of_latents.count(None) == 2


def rewrite_parts(store: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the committed index of an edit."""
    for path in (store / "commits").iterdir():
        commit = json.loads(path.read_text())
        for file in commit["files"]:
            if file["path"].startswith("parts/"):
                part = store / file["path"]
                part.write_bytes(to_parquet(change(pq.read_table(part))))
                file |= {"sha256": hashlib.sha256(part.read_bytes()).hexdigest(), "bytes": part.stat().st_size}
        path.write_text(json.dumps(commit))


def test_an_edit_of_an_earlier_version_has_the_difference_as_its_instruction(copy: Path, tmp_path: Path) -> None:
    """The store's index lacks these columns, its job.json lacks the field. It can be exported and continued."""
    store = Store(str(copy / "edits"))
    newer = ["reconstruction_exact", "source_image_sha256", "source_json", "instruction"]
    rewrite_parts(copy / "edits", lambda part: part.drop_columns(newer))
    about = export_edits(store.location, str(tmp_path / "out"), format="instructpix2pix")
    assert about["written"] == 10
    rows = [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert {(row["edit"], row["edit_prompt"]) for row in rows} == {
        ("snow", 'add "in snow"'),
        ("red", INSTRUCTIONS["red"]),
    }
    assert {row["source_json"] for row in rows} == {None}
    assert "instruction" not in store.job().edit.edits[1]


def test_each_row_has_the_sha256_of_the_image_that_was_inverted(
    made: Path, copy: Path, samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An export compares it with the source image, even after the latent row was remade from another image."""
    originals = {("0.tar", i): samples[i] for i in range(3)} | {("1.tar", i): samples[3 + i] for i in range(2)}
    for row in index(made / "edits"):
        source = large(originals[Path(row["source_shard"]).name, row["source_index"]])
        assert row["source_image_sha256"] == hashlib.sha256(source).hexdigest()

    def inverted_from_another(part: pa.Table) -> pa.Table:
        at = part.schema.get_field_index("source_image_sha256")
        column = [
            "f" * 64
            if row["source_shard"].endswith("0.tar") and row["source_index"] == 1
            else row[part.schema.names[at]]
            for row in part.to_pylist()
        ]
        return part.set_column(at, part.schema.field(at), pa.array(column, pa.string()))

    rewrite_parts(copy / "edits", inverted_from_another)
    about = export_edits(str(copy / "edits"), str(tmp_path / "out"), format="instructpix2pix")
    assert (about["rows"], about["written"]) == (10, 8)
    digest = hashlib.sha256(large(samples[1])).hexdigest()
    assert capsys.readouterr().err.startswith(
        f"note: rows of {made}/0.tar are left out: {made}/0.tar: sample 1 ('犬/001'): its image has the sha256 "
        f"{digest[:12]}, but had ffffffffffff when it was inverted. Put back the shard that was inverted, and "
    )


@pytest.mark.parametrize(
    ("caption", "prompt", "instruction"),
    [
        ("a dog on grass", "a cat on grass", 'replace "dog" with "cat"'),
        ("a dog", "a dog, covered in snow", 'add "covered in snow"'),
        ("a dog", "a sketch of a dog, on paper", 'add "a sketch of", add "on paper"'),
        ("a red dog and a red cat", "a dog and a blue cat", 'remove "red", replace "red" with "blue"'),
        ("red heart, noto", "heart", 'remove "red", remove "noto"'),
        ("", "a dog", 'add "a dog"'),
        ("a dog", "", 'remove "a dog"'),
        ("a dog.", "a dog!", 'add "!"'),
        ("a dog", "a dog", 'avoid "blurry"'),
        ("白い犬", "黒い犬", 'replace "白い犬" with "黒い犬"'),
        ("dog", "dog,", 'change the image to "dog,"'),
    ],
)
def test_without_a_template_the_instruction_is_the_difference(caption: str, prompt: str, instruction: str) -> None:
    assert instruction_of(None, caption, prompt, "blurry") == instruction


def test_a_long_difference_is_one_change() -> None:
    """Matching 100,000 words would take hours."""
    caption, prompt = ["old"] * 100_000, ["new", *["old"] * 99_000, "newer"]
    said = instruction_of(None, f"a cat, {' '.join(caption)}, on grass", f"a cat, {' '.join(prompt)}, on grass", None)
    assert said == f'replace "{" ".join(caption)}" with "{" ".join(prompt)}"'
    assert instruction_of(None, "w " * 100_000, "w " * 99_999 + "z", None) == 'replace "w" with "z"'


def test_a_difference_with_many_spaces_takes_no_longer() -> None:
    """A regular expression for trailing spaces took minutes here."""
    assert instruction_of(None, "a cat", f"a cat{' ' * 500_000}, {' ' * 500_000}red", None) == 'add "red"'


def test_a_template_has_both_texts_and_their_difference() -> None:
    template = "{{x}} {caption}|{prompt}|{removed}|{added}"
    said = instruction_of(template, "a red dog on grass", "a blue dog on sand, at night", None)
    assert said == "{x} a red dog on grass|a blue dog on sand, at night|red, grass|blue, sand, at night"
    assert instruction_of("turn {removed} into {added}", "{a}", "{a}", None) == "turn  into "


def test_an_image_does_not_depend_on_the_other_edits_of_the_job(made: Path) -> None:
    """Two edits of five rows fill their batches in another way than one edit."""
    write_edits(made, "one", edits=EDITS[:1])
    two, one = (
        {
            (row["source_shard"], row["source_key"]): row["image_sha256"]
            for row in index(made / name)
            if row["edit"] == "snow"
        }
        for name in ("edits", "one")
    )
    assert one == two and len(one) == 5


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder, to be damaged. Its stores name the shards of the original."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def index(folder: Path) -> list[dict[str, Any]]:
    return [row for part in sorted((folder / "parts").iterdir()) for row in pq.read_table(part).to_pylist()]


def test_the_rows_open_in_datasets_as_images(made: Path, samples: list[Sample], tmp_path: Path) -> None:
    about = export_edits(str(made / "edits"), str(tmp_path / "out"), format="instructpix2pix")
    assert (about["rows"], about["written"], about["parts"]) == (10, 10, 3)
    said = json.loads((tmp_path / "out" / "export.json").read_text())
    assert said == {name: value for name, value in about.items() if name != "written"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"export.json", "00000000.parquet", "00000001.parquet", "00000002.parquet"}
    loaded = load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["original_image"], HFImage)
    assert isinstance(loaded.features["edited_image"], HFImage)
    rows = index(made / "edits")
    originals = {("0.tar", i): samples[i] for i in range(3)} | {("1.tar", i): samples[3 + i] for i in range(2)}
    for found, row in zip(loaded, rows, strict=True):
        source = originals[Path(row["source_shard"]).name, row["source_index"]]
        assert found["key"] == row["source_key"]
        assert (found["edit"], found["edit_prompt"]) == (row["edit"], INSTRUCTIONS[row["edit"]])
        assert found["source_json"] == row["source_json"]
        assert (found["original_prompt"], found["edited_prompt"]) == (source.caption, row["prompt"])
        side = found["edited_image"].width
        assert found["original_image"].size == (side, side)
        assert np.array_equal(np.asarray(found["original_image"]), prepare(large(source), side, "center").image)
    raw = [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    digests = [hashlib.sha256(row["edited_image"]["bytes"]).hexdigest() for row in raw]
    assert digests == [row["image_sha256"] for row in rows]


@pytest.mark.parametrize(
    ("damage", "left", "reason"),
    [
        ("changed", 4, "0.tar: sample 0 ('犬/000') has changed since"),
        ("missing", 4, "0.tar: does not exist"),
        ("a byte", 8, "0.tar: sample 0 ('犬/000'): its image has the sha256 "),
    ],
)
def test_rows_whose_source_changed_or_is_missing_are_left_out_and_counted(
    damage: str, left: int, reason: str, made: Path, tmp_path: Path
) -> None:
    shard = made / "0.tar"
    whole, stat = shard.read_bytes(), shard.stat()
    try:
        if damage == "missing":
            shard.rename(tmp_path / "aside.tar")
        elif damage == "changed":
            shard.write_bytes((made / "1.tar").read_bytes())
        else:  # A failing disk changes a byte, but not the file's size and time.
            at = whole.index(b"\xff\xd8") + 500
            shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        given = ["export", str(made / "edits"), str(tmp_path / "out"), "--format", "instructpix2pix"]
        result = CliRunner().invoke(app, given)
    finally:  # Restore the version for the next tests.
        if damage == "missing":
            (tmp_path / "aside.tar").rename(shard)
        shard.write_bytes(whole)
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert result.exit_code == 0, result.output
    assert f"{left} rows of 3 parts, instructpix2pix" in result.stdout
    assert f"{10 - left} of 10 rows are left out: their source shard was changed or removed" in result.stdout
    assert result.stderr.count("note: rows of ") == 1
    assert f"note: rows of {shard} are left out: {made}/{reason}" in result.stderr
    loaded = load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == left


def test_pie_bench_has_a_tree_per_edit(made: Path, tmp_path: Path) -> None:
    """The keys of one shard are unique."""
    single = tmp_path / "single"
    shutil.copytree(made / "jpegs", single)
    part = sorted((single / "commits").iterdir())[2]
    planned = pq.read_table(single / "plan" / "units.parquet").slice(0, 2)
    pq.write_table(planned, single / "plan" / "units.parquet")
    part.unlink()
    store = Store(str(single))
    for file in (single / "commits").iterdir():  # the commits are those of the plan
        commit = Commit.model_validate_json(file.read_bytes())
        file.write_text(commit.model_copy(update={"plan": store.key().plan}).model_dump_json())
    about = export_edits(str(single), str(tmp_path / "out"), format="pie_bench")
    assert (about["rows"], about["written"]) == (6, 6)
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    trees = {f"{edit}/annotation_images/犬/{i:03d}.jpg" for edit in ("snow", "red") for i in range(3)}
    assert found == {"export.json"} | trees
    for row in index(single)[:6]:
        data = (tmp_path / "out" / row["edit"] / "annotation_images" / f"{row['source_key']}.jpg").read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["image_sha256"]
        assert Image.open(io.BytesIO(data)).format == "JPEG"


def test_pie_bench_has_every_row_of_repeated_keys(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """犬/000 and 犬/001 are in both shards, 犬/002 in the first only."""
    for _ in range(2):  # The second export has the same destination.
        about = export_edits(str(made / "edits"), str(tmp_path / "out"), format="pie_bench")
        assert (about["rows"], about["written"]) == (10, 10)
        assert "note: 2 keys occur in several shards" in capsys.readouterr().err
    found = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*.png")}
    expected = {}
    for row in index(made / "edits"):
        folder = "" if row["source_key"] == "犬/002" else f"{Path(row['source_shard']).stem}/"
        name = f"{row['edit']}/annotation_images/{folder}{row['source_key']}.png"
        expected[name] = row["image_sha256"]
    assert len(expected) == 10
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()} == expected


def test_another_image_with_the_same_name_is_an_error(made: Path, tmp_path: Path) -> None:
    export_edits(str(made / "edits"), str(tmp_path / "out"), format="pie_bench")
    (tmp_path / "out" / "snow" / "annotation_images" / "0" / "犬" / "000.png").write_bytes(b"another")
    with pytest.raises(
        ExportError, match=r"000\.png exists already, with another image than that of '犬/000' of .*0\.tar"
    ):
        export_edits(str(made / "edits"), str(tmp_path / "out"), format="pie_bench")


def test_an_interrupted_export_is_finished_to_the_same_bytes(made: Path, tmp_path: Path) -> None:
    for out in ("whole", "cut"):
        export_edits(str(made / "edits"), str(tmp_path / out), format="instructpix2pix")
    (tmp_path / "cut" / "00000000.parquet").write_bytes(b"cut")
    (tmp_path / "cut" / "00000002.parquet").unlink()
    export_edits(str(made / "edits"), str(tmp_path / "cut"), format="instructpix2pix")
    read = [{path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("whole", "cut")]
    assert read[0] == read[1]


def test_damaged_files_are_not_exported(copy: Path, tmp_path: Path) -> None:
    tar = sorted((copy / "edits" / "shards").iterdir())[1]
    data = bytearray(tar.read_bytes())
    data[data.index(b"\x89PNG") + 100] ^= 1
    tar.write_bytes(data)
    with pytest.raises(StoreError, match=rf"shards/{tar.name}: the image '.*' is missing or damaged"):
        export_edits(str(copy / "edits"), str(tmp_path / "a"), format="instructpix2pix")
    tar.write_bytes(data[:700])
    with pytest.raises(StoreError, match=rf"shards/{tar.name}"):
        export_edits(str(copy / "edits"), str(tmp_path / "b"), format="instructpix2pix")
    part = copy / "edits" / "parts" / f"{tar.stem}.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"is not the committed file"):
        export_edits(str(copy / "edits"), str(tmp_path / "c"), format="instructpix2pix")


def test_unfinished_stores_and_stores_of_another_kind_are_not_exported(made: Path, copy: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for format in EDIT_FORMATS:
        with pytest.raises(
            StoreError, match=rf"of an invert job; to export it as {format}, give one that `edit` wrote"
        ):
            export_edits(str(made / "latents"), out, format=format)
    with pytest.raises(StoreError, match=r"is the store of an edit job; give one that `invert` wrote"):
        export(str(made / "edits"), out, format="parquet", dtype="float32")
    sorted((copy / "edits" / "commits").iterdir())[0].unlink()
    with pytest.raises(StoreError, match=r"1 of 3 units are not done"):
        export_edits(str(copy / "edits"), out, format="instructpix2pix")
    with pytest.raises(
        ExportError, match=r"format 'csv' is not valid for edits: give one of instructpix2pix, pie_bench"
    ):
        export_edits(str(made / "edits"), out, format="csv")
    assert not (tmp_path / "out").exists()


def test_two_exports_do_not_mix(made: Path, tmp_path: Path) -> None:
    export_edits(str(made / "edits"), str(tmp_path / "out"), format="instructpix2pix")
    for store, format in (("jpegs", "instructpix2pix"), ("edits", "pie_bench")):
        with pytest.raises(ExportError, match=r"out: contains another export"):
            export_edits(str(made / store), str(tmp_path / "out"), format=format)


def test_shown_edits_have_their_numbers(made: Path) -> None:
    figures = ("edit", "prompt", "guidance_scale", "strength", "steps", "drift")
    rows = {(row["source_shard"], row["caption"], row["edit"]): row for row in index(made / "edits")}
    shown = [
        ({name: edit[name] for name in figures}, row["caption"])
        for row in read_shown_rows(Store(str(made / "edits")))
        for edit in row["edits"]
    ]
    assert len(shown) == 6
    for edit, caption in shown:
        assert edit in [{name: row[name] for name in figures} for key, row in rows.items() if key[1] == caption]


def test_a_finished_run_ends_with_its_pages_and_the_next_command(made: Path, tmp_path: Path) -> None:
    for kind, name in (("invert", "latents"), ("edit", "edits")):
        (tmp_path / f"{name}.json").write_text(json.dumps(Store(str(made / name)).job().spec))
        result = CliRunner().invoke(app, ["run", str(tmp_path / f"{name}.json")])
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert f"report     {made}/{name}/report.html" in lines
        assert (f"sheet      {made}/{name}/contact_sheet.png" in lines) == (kind == "edit")
        next_command = {"invert": f"edict verify {made}/latents", "edit": f"edict export {made}/edits DESTINATION"}[
            kind
        ]
        assert lines[-1].startswith(f"next       {next_command}")
    older = json.loads((tmp_path / "latents.json").read_text())
    del older["model"]["vae_dtype"], older["model"]["channels_last"]  # fields that earlier versions did not have
    assert open_invert(InvertSpec.model_validate(older)).pending == []
    older["sampler"]["steps"] += 1
    with pytest.raises(JobChanged, match=r"sampling\.steps: 1 in the store, 2 in the spec"):
        open_invert(InvertSpec.model_validate(older))
    changed = Store(str(made / "edits")).job().spec
    changed["edits"][1]["replace"]["background"] = "drop"
    (tmp_path / "edits.json").write_text(json.dumps(changed))
    result = CliRunner().invoke(app, ["run", str(tmp_path / "edits.json")])
    assert result.exit_code == 2
    differences = result.stderr.splitlines()[1:]
    assert differences == ["  edits[1].replace.background: 'backdrop' in the store, 'drop' in the spec"]


def test_commands_without_a_model_do_not_import_torch(made: Path, tmp_path: Path) -> None:
    """One process runs finished jobs, a plan, reports, statuses, exports of images, and commands that fail."""
    specs = {name: tmp_path / f"{name}.json" for name in ("latents", "edits")}
    for name, path in specs.items():
        path.write_text(json.dumps(Store(str(made / name)).job().spec))
    latents, edits = str(made / "latents"), str(made / "edits")
    commands = [
        (["run", str(specs["latents"])], 0),
        (["run", str(specs["edits"])], 0),
        (["plan", str(specs["edits"])], 0),
        (["status", latents], 0),
        (["status", edits], 0),
        (["report", latents], 0),
        (["report", edits], 0),
        (["export", edits, str(tmp_path / "out"), "--format", "instructpix2pix"], 0),
        (["export", latents, str(tmp_path / "no"), "--format", "csv"], 2),
        (["retry", latents, "--errors", "WorkerDied"], 2),
        (["verify", str(tmp_path / "nowhere")], 2),
        (["run", str(specs["edits"]), "-s", "edits[0].suffix=x"], 2),
    ]
    program = f"""
import sys
from typer.testing import CliRunner
from jobs.cli import app
for arguments, status in {commands!r}:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, (arguments, result.output)
    heavy = {{"torch", "diffusers", "transformers", "ray"}} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_dtype_of_an_export_of_images_is_refused(made: Path, tmp_path: Path) -> None:
    given = ["export", str(made / "edits"), str(tmp_path / "out"), "--format", "pie_bench", "--dtype", "float32"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert "--dtype is only valid for latents" in result.stderr


def test_the_quality_of_jpegs_is_in_the_fingerprint(made: Path) -> None:
    assert Store(str(made / "jpegs")).job().edit.quality == 40
    assert Store(str(made / "edits")).job().edit.quality is None
