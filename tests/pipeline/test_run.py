"""Whole jobs on a real Ray with the real default model, with few steps and few images."""

import io
import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from edict.checkpoint import DEFAULT, locate
from edict.model_files import weights_digest
from jobs.cli import app
from jobs.launch import run_retry, run_spec
from pipeline.execute import driver
from pipeline.execute.driver import ModelFails
from pipeline.execute.pool import WorkersFailed
from pipeline.inspect.status import status
from pipeline.io.errors import StorageError
from pipeline.io.samples import Sample
from pipeline.messages import Machine, Weights
from pipeline.plan.edit_task import EditError
from pipeline.plan.job_changes import JobChanged
from pipeline.plan.pending_units import RetryError
from pipeline.plan.units import PlanError, spread
from pipeline.store.errors import StoreError
from pipeline.store.plan import Unit
from pipeline.store.store import Store
from pipeline.verify import run_verify
from pipeline.workers.invert import InvertWorker, PreparedSample
from pipeline.workers.model import OtherWeights, load_model
from schemas.latents import NOISE
from schemas.rejects import Reject
from schemas.specs import EditSpec, InvertSpec, ModelSpec
from tests.pipeline.helpers import Members, ShardOf, members_of

pytestmark = pytest.mark.usefixtures("local_ray")


def invert_spec(shard: Path | list[str], output: Path, **more: Any) -> InvertSpec:
    fields = {
        "kind": "invert",
        "input": [str(shard)] if isinstance(shard, Path) else shard,
        "output": str(output),
        "sampler": {"steps": 3},
        "workers": {"batch_size": 4},
    }
    return InvertSpec.model_validate(fields | more)


def edit_spec(latents: Path, output: Path, edits: list[dict[str, Any]], **more: Any) -> EditSpec:
    return EditSpec.model_validate(
        {"kind": "edit", "latents": str(latents), "output": str(output), "edits": edits} | more
    )


@pytest.fixture(scope="module")
def latents(
    tmp_path_factory: pytest.TempPathFactory, samples: list[Sample], shard_of: ShardOf, local_ray: None
) -> Path:
    """Make a finished latent store of 24 rows from two shards, with six units of one batch each."""
    folder = tmp_path_factory.mktemp("run")
    for i, part in enumerate((samples[:20], samples[20:])):
        shard_of(folder / f"{i}.tar", members_of(part, with_json=True))
    workers = {"count": 2, "batch_size": 4}
    ran = run_spec(invert_spec([str(folder / "{0..1}.tar")], folder / "latents", workers=workers))
    assert ran.failures == []
    assert ran.status.complete
    return folder / "latents"


def rows(store: Path) -> list[dict[str, Any]]:
    """Return all rows of a store in the order of its input."""
    found = [row for part in sorted((store / "parts").iterdir()) for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: (row["shard"], row["index"]))


def test_every_sample_becomes_a_row_with_its_own_text(latents: Path, samples: list[Sample]) -> None:
    found = rows(latents)
    assert [(row["key"], row["caption"], row["json"]) for row in found] == [(s.key, s.caption, s.json) for s in samples]
    counts = status(Store(str(latents)))
    assert (counts.input, counts.ok, counts.rejected, counts.filtered, counts.units) == (24, 24, 0, 0, 6)
    assert json.loads(found[0]["json"])["caption"] == found[0]["caption"]


def test_a_stored_pair_has_the_integers_of_the_model_in_this_process(latents: Path, samples: list[Sample]) -> None:
    """The first batch has the same integers here, with the number of threads of a worker."""
    weights = Weights(ModelSpec(), weights_digest(locate()), "float32")
    model = load_model(weights, Machine(**Store(str(latents)).job().machine))
    images = [Image.open(io.BytesIO(sample.image)) for sample in samples[:4]]
    start = model.encode(images)
    pair = model.invert(start, [sample.caption for sample in samples[:4]], steps=3)
    found = rows(latents)[:4]
    assert [row["digest"] for row in found] == start.digests()
    assert np.array_equal(np.array([row["x"] for row in found]), pair.x.numpy())
    assert np.array_equal(np.array([row["y"] for row in found]), pair.y.numpy())
    assert [row["drift"] for row in found] == pair.drift().tolist()


def test_verify_regenerates_every_integer(latents: Path) -> None:
    verified = run_verify(str(latents), rows=None, count=1, gpus=0)
    assert (verified.rows, verified.exact, verified.problems) == (24, 24, [])


def test_verify_finds_a_changed_byte_and_a_changed_caption(
    tmp_path: Path, samples: list[Sample], shard_of: ShardOf
) -> None:
    shard = shard_of(tmp_path / "a.tar", members_of(samples[:8], with_json=True))
    spec = invert_spec(shard, tmp_path / "latents")
    run_spec(spec)
    damaged, part = sorted((tmp_path / "latents" / "parts").iterdir())
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[:400] + bytes([sound[400] ^ 1]) + sound[401:])
    # This part is consistent in itself, but its rows do not belong to their pairs.
    table = pq.read_table(io.BytesIO(part.read_bytes()))
    captions = table.column_names.index("caption")
    swapped = table.set_column(captions, "caption", [["another caption altogether"] * 4])
    pq.write_table(swapped.cast(table.schema), part)
    store = Store(spec.output)
    (commit,) = (commit for commit in store.commits() if commit.files[0].path.endswith(part.name))
    named = store.put(f"parts/{part.name}", part.read_bytes()).model_copy(update={"rows": 4})
    store.put(f"commits/{commit.unit}.json", commit.model_copy(update={"files": (named,)}).model_dump_json().encode())
    verified = run_verify(spec.output, rows=None, count=1, gpus=0)
    assert verified.exact == 0
    assert len(verified.problems) == 5
    (byte,) = (problem for problem in verified.problems if "is not the committed file" in problem)
    assert damaged.name in byte
    for sample in samples[4:8]:
        assert any(sample.key in problem for problem in verified.problems)


def test_a_node_with_other_weights_is_an_error() -> None:
    with pytest.raises(
        OtherWeights, match=r"is not the model of this job \(its sha256 is .*, the job's 000000000000\)"
    ):
        load_model(Weights(ModelSpec(), "0" * 64, "float32"), Machine("cpu", 1, 0))


def test_other_readers_open_the_store_and_its_scale_gives_floats(latents: Path) -> None:
    import datasets

    pattern = str(latents / "parts" / "*.parquet")
    first = sorted((latents / "parts").iterdir())[0]
    noise = json.loads(pq.read_schema(first).metadata[NOISE])
    assert noise["scale"] == 2.0 ** -noise["bits"] * noise["alphas_cumprod"] ** 0.5
    expected = {row["key"]: np.array(row["x"]) for row in rows(latents)}
    by_duckdb = duckdb.sql(f"select key, x from '{pattern}'").fetchall()
    by_polars = polars.read_parquet(pattern).select("key", "x").rows()
    loaded = datasets.load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(latents / ".cache"))
    by_datasets = [(row["key"], row["x"]) for row in loaded]
    for found in (by_duckdb, by_polars, by_datasets):
        assert len(found) == 24
        for key, x in found:
            assert np.array_equal(np.array(x), expected[key])
    floats = np.array(by_duckdb[0][1]) * noise["scale"]
    assert 0.1 < floats.std() < 3


def test_a_second_run_does_nothing_and_another_job_is_refused(latents: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [*(latents / "commits").iterdir(), latents / "report.html"]}
    shards = str(latents.parent / "{0..1}.tar")
    assert run_spec(invert_spec([shards], latents)).status.complete
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(JobChanged, match=r"steps: 3 in the store, 4 in the spec"):
        run_spec(invert_spec([shards], latents, sampler={"steps": 4}))


def test_missing_units_are_finished_with_equal_rows(latents: Path, tmp_path: Path) -> None:
    """A unit without a commit is processed again, with the same rows. The old file without a commit is removed."""
    store = tmp_path / "latents"
    shutil.copytree(latents, store)
    shards = str(latents.parent / "{0..1}.tar")
    (store / "commits" / "00000001.json").unlink()
    (store / "report.html").write_text("the report of another time")
    assert not status(Store(str(store))).complete
    (store / "report.html").unlink()
    (store / "report.html").mkdir()
    with pytest.raises(StorageError, match="a folder has the name of a file to be written") as error:
        run_spec(invert_spec([shards], store))
    assert not hasattr(error.value, "__notes__")  # Nothing was run. The old report is removed first.
    (store / "report.html").rmdir()
    assert run_spec(invert_spec([shards], store)).status.complete
    assert "complete" in (store / "report.html").read_text()
    assert rows(store) == rows(latents)
    assert len(list((store / "parts").iterdir())) == 6


def bad_png_bomb() -> bytes:
    """Return a PNG of 50,000 x 50,000 pixels in about 300 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_every_bad_sample_is_accounted_for(tmp_path: Path, samples: list[Sample], shard_of: ShardOf) -> None:
    good = members_of(samples[:3], with_json=True)
    image = Image.open(io.BytesIO(samples[3].image)).convert("RGB")
    jpeg, gif = io.BytesIO(), io.BytesIO()
    image.save(jpeg, "jpeg")
    image.save(gif, "gif")
    bad: Members = [
        ("corrupt.jpg", jpeg.getvalue()[:600]),
        ("corrupt.txt", b"a corrupt JPEG"),
        ("silent.png", samples[4].image),
        (f"{samples[0].key}.png", samples[5].image),
        (f"{samples[0].key}.txt", b"the key of the first again"),
        ("latin.png", samples[6].image),
        ("latin.txt", "caf\xe9".encode("latin-1")),
        ("empty.png", b""),
        ("empty.txt", b"an image of no bytes"),
        ("still.gif", gif.getvalue()),
        ("still.txt", b"a still GIF is an image"),
        ("bomb.png", bad_png_bomb()),
        ("bomb.txt", b"a bomb"),
    ]
    whole = shard_of(tmp_path / "bad.tar", good + bad)
    cut = shard_of(tmp_path / "cut.tar", members_of(samples[8:11], with_json=True))
    index = cut.read_bytes().index(samples[10].image)
    cut.write_bytes(cut.read_bytes()[: index + 300])
    ran = run_spec(invert_spec([str(whole), str(cut)], tmp_path / "latents", sampler={"steps": 1}))
    assert ran.status.complete
    assert (ran.status.input, ran.status.ok, ran.status.rejected) == (13, 6, 7)
    commits = list(Store(str(tmp_path / "latents")).commits())
    rejects = {(reject.key, reject.error) for commit in commits for reject in commit.rejects}
    assert rejects == {
        ("corrupt", "CorruptImage"),
        ("silent", "MissingCaption"),
        (samples[0].key, "DuplicateKey"),
        ("latin", "CaptionEncoding"),
        ("empty", "EmptyMember"),
        ("bomb", "DecompressionBomb"),
        (samples[10].key, "TruncatedShard"),
    }
    assert {row["key"] for row in rows(tmp_path / "latents")} == {s.key for s in (*samples[:3], *samples[8:10])} | {
        "still"
    }


def test_all_broken_shards_are_reported_and_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("this is not a tar" * 100)
    names = [str(tmp_path / "text.tar"), str(tmp_path / "absent.tar")]
    with pytest.raises(PlanError, match=r"2 of 2 shards") as caught:
        run_spec(invert_spec(names, tmp_path / "latents"))
    assert all(name in str(caught.value) for name in names)
    assert not (tmp_path / "latents" / "plan" / "units.parquet").exists()


def test_edits_make_images_an_index_and_a_sheet(latents: Path, tmp_path: Path) -> None:
    edits = [
        {"name": "snow", "prompt": "{caption}, covered in snow"},
        {"name": "style", "replace": {"noto": ["fluent", "twemoji"]}, "strength": 0.67, "guidance_scale": 5.0},
        {"name": "late", "prompt": "a {caption}", "steps": 1},
    ]
    ran = run_spec(edit_spec(latents, tmp_path / "edits", edits, contact_sheet=5))
    assert ran.failures == []
    noto = sum("noto" in row["caption"] for row in rows(latents))
    assert 0 < noto < 24
    found = ran.status
    assert (found.complete, found.input, found.ok, found.filtered) == (True, 96, 48 + 2 * noto, 2 * (24 - noto))
    index = [
        row for part in sorted((tmp_path / "edits" / "parts").iterdir()) for row in pq.read_table(part).to_pylist()
    ]
    assert {(row["edit"], row["steps"], row["guidance_scale"]) for row in index} == {
        ("snow", 3, 3.0),
        ("style-fluent", 2, 5.0),
        ("style-twemoji", 2, 5.0),
        ("late", 1, 3.0),
    }
    shards = sorted(str(path) for path in (tmp_path / "edits" / "shards").iterdir())
    read = {sample["__key__"]: sample for sample in webdataset.WebDataset(shards, shardshuffle=False)}
    assert read.keys() == {row["key"] for row in index}
    one = next(row for row in index if row["edit"] == "style-fluent")
    sample = read[one["key"]]
    assert sample["txt"].decode() == one["prompt"] == one["caption"].replace("noto", "fluent")
    assert json.loads(sample["json"])["source_key"] == one["source_key"]
    assert Image.open(io.BytesIO(sample["png"])).size == (64, 64)
    shown = [row for path in (tmp_path / "edits" / "pictures").iterdir() for row in pq.read_table(path).to_pylist()]
    assert len(shown) == 5
    assert all(row["exact"] and row["source"] for row in shown)
    assert Image.open(tmp_path / "edits" / "contact_sheet.png").width > 400
    named = {path.name for path in (tmp_path / "edits").glob("contact_sheet-*.png")}
    assert named == {f"contact_sheet-{edit}.png" for row in shown for edit in (edit["edit"] for edit in row["edits"])}
    assert "covered in snow" in (tmp_path / "edits" / "report.html").read_text()


def test_an_edit_with_more_steps_than_the_store_is_refused(
    tmp_path: Path, samples: list[Sample], shard_of: ShardOf
) -> None:
    shard = shard_of(tmp_path / "a.tar", members_of(samples[:1], with_json=True))
    run_spec(invert_spec(shard, tmp_path / "latents", sampler={"steps": 4, "strength": 0.5}))
    with pytest.raises(EditError, match="the latent store has 2 of 4"):
        run_spec(edit_spec(tmp_path / "latents", tmp_path / "edits", [{"name": "a", "prompt": "b", "strength": 0.8}]))
    assert not (tmp_path / "edits").exists()


def test_an_unfinished_store_is_not_edited(latents: Path, tmp_path: Path) -> None:
    shutil.copytree(latents, tmp_path / "latents")
    (tmp_path / "latents" / "commits" / "00000000.json").unlink()
    with pytest.raises(StoreError, match="1 of 6 units are not done"):
        run_spec(edit_spec(tmp_path / "latents", tmp_path / "edits", [{"name": "a", "prompt": "b"}]))


def test_a_second_commit_of_a_unit_does_not_count(latents: Path) -> None:
    store = Store(str(latents))
    commit = next(store.commits())
    assert store.commit(commit.model_copy(update={"attempt": "another"})) is False
    assert next(store.commits()) == commit


def test_shown_rows_are_spread_over_the_units() -> None:
    units = [Unit(f"{i}", "part", i, 0, count, 1, None) for i, count in enumerate((5, 1, 10, 64))]
    assert sum(spread(units, 8).values()) == 8
    assert sum(spread(units, 200).values()) == 80
    assert all(spread(units, 200)[unit.unit] == unit.count for unit in units)


def dies_at(key: str) -> type[InvertWorker]:
    """Return a worker class that dies as by a segfault when it inverts the image with this key."""

    class Dying(InvertWorker):
        def _invert(self, unit: Unit, loaded: list[Any]) -> Any:
            if any(isinstance(item, PreparedSample) and item.sample.key == key for item in loaded):
                os._exit(1)
            return super()._invert(unit, loaded)

    return Dying


def test_a_sample_that_kills_its_workers_is_rejected_and_can_be_tried_again(
    latents: Path, tmp_path: Path, samples: list[Sample], shard_of: ShardOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shard_of(tmp_path / "a.tar", members_of(samples[:8], with_json=True))
    spec = invert_spec(shard, tmp_path / "latents")
    with monkeypatch.context() as patched:
        patched.setattr(driver, "worker_class", lambda task: dies_at(samples[5].key))
        found = run_spec(spec).status
    assert (found.complete, found.ok, found.rejects) == (True, 7, {"WorkerDied": 1})
    journals = [file.read_text() for file in (tmp_path / "latents" / "runs").glob("*.jsonl")]
    assert [json.loads(line)["event"] for text in journals for line in text.splitlines()].count("sample named") == 1

    with pytest.raises(RetryError, match=r"nothing was rejected for Nonsense; its rejects are: WorkerDied \(1\)"):
        run_retry(str(tmp_path / "latents"), ["Nonsense"])
    retried = run_retry(str(tmp_path / "latents"), ["WorkerDied"])
    assert (retried.status.complete, retried.status.ok, retried.status.rejects) == (True, 8, {})
    found_rows = rows(tmp_path / "latents")
    assert len(found_rows) == 8
    for row, undisturbed in zip(found_rows, rows(latents)[:8], strict=True):
        assert [name for name in row if row[name] != undisturbed[name]] == ["shard"]


def test_rejects_of_a_repaired_shard_are_retried(
    latents: Path, tmp_path: Path, samples: list[Sample], shard_of: ShardOf
) -> None:
    """The added caption moves all members behind it. Present rows stay, and the contact sheet finds all images."""
    whole = [members_of([sample], with_json=True) for sample in samples[:8]]
    silent = [member for member in whole[2] if not member[0].endswith(".txt")]
    shard = shard_of(tmp_path / "a.tar", [member for some in (*whole[:2], silent, *whole[3:]) for member in some])
    store, spec = tmp_path / "latents", invert_spec(shard, tmp_path / "latents")
    assert run_spec(spec).status.rejects == {"MissingCaption": 1}
    before = rows(store)
    shard_of(shard, [member for some in whole for member in some])
    retried = run_retry(spec.output, ["MissingCaption"]).status
    assert (retried.complete, retried.problems, retried.ok, retried.rejects) == (True, [], 8, {})
    found = rows(store)
    assert [row["index"] for row in found] == list(range(8))
    assert [row for row in found if row["index"] != 2] == before
    for row, undisturbed in zip(found, rows(latents)[:8], strict=True):
        assert (row["key"], row["caption"], row["digest"]) == tuple(
            undisturbed[n] for n in ("key", "caption", "digest")
        )
    edits = [{"name": "snow", "prompt": "{caption}, in snow", "steps": 1}]
    assert run_spec(edit_spec(store, tmp_path / "edits", edits)).status.complete
    shown = [row for path in (tmp_path / "edits" / "pictures").iterdir() for row in pq.read_table(path).to_pylist()]
    assert len(shown) == 8
    assert all(row["source"] for row in shown)


@pytest.mark.parametrize(
    ("part", "weight", "said"),
    [
        ("unet", "conv_out.bias", r"the network \(unet\)"),
        ("vae", "decoder.conv_out.bias", "the autoencoder"),
    ],
)
def test_a_broken_model_rejects_no_image(
    part: str, weight: str, said: str, tmp_path: Path, samples: list[Sample], shard_of: ShardOf
) -> None:
    """`edict plan` reads no weights, so a worker finds these faults. test_checkpoints has those that `plan` finds."""
    shutil.copytree(DEFAULT, tmp_path / "model")
    (file,) = (tmp_path / "model" / part).glob("*.safetensors")
    state = load_file(file)
    save_file(state | {weight: torch.full_like(state[weight], torch.nan)}, file, {"format": "pt"})
    shard = shard_of(tmp_path / "a.tar", members_of(samples[:1], with_json=True))
    spec = invert_spec(shard, tmp_path / "latents", model={"path": str(tmp_path / "model")})
    with pytest.raises(WorkersFailed, match=f"in {said}: ValueError: its output has NaN or infinity") as caught:
        run_spec(spec)
    assert "\n" not in str(caught.value)
    assert not hasattr(caught.value, "__notes__")  # The exit status is 2.
    assert not (tmp_path / "latents" / "commits").exists()


class Rejecting(InvertWorker):
    """A worker whose model overflows for every image."""

    def _load(self, unit: Unit, excluded: Any = None) -> list[Any]:
        return [Reject(unit.source, unit.first + i, "", "invert", "LatticeOverflow", "no") for i in range(unit.count)]


def test_a_run_ends_if_its_first_units_only_have_one_error(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = invert_spec(
        [str(latents.parent / "{0..1}.tar")], tmp_path / "latents", workers={"count": 2, "batch_size": 4}
    )
    with monkeypatch.context() as patched:
        patched.setattr(driver, "worker_class", lambda task: Rejecting)
        with pytest.raises(
            ModelFails, match=r"the first 3 units have no row.*with LatticeOverflow.*edict retry"
        ) as caught:
            run_spec(spec)
    assert caught.value.__notes__ == ["at least 3 of 6 units are committed"]  # The exit status is 1.
    found = status(Store(spec.output))
    assert found.committed < found.units == 6


def test_a_job_without_a_row_or_with_too_many_rejects_is_not_a_success(
    tmp_path: Path, samples: list[Sample], shard_of: ShardOf
) -> None:
    bad = [("bad.png", b"no image"), ("bad.txt", b"a caption")]
    good = members_of(samples[:1], with_json=True)
    for name, members in (("none", bad), ("half", bad + good)):
        spec = invert_spec(shard_of(tmp_path / f"{name}.tar", members), tmp_path / name, sampler={"steps": 1})
        (tmp_path / f"{name}.json").write_text(spec.model_dump_json(exclude_unset=True))

    def said(name: str, *more: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["run", str(tmp_path / f"{name}.json"), *more])
        return result.exit_code, result.stdout

    code, text = said("none")
    assert (code, "failed: there is no row: 1 of 1 images were rejected" in text) == (1, True)
    assert said("half")[0] == 0
    code, text = said("half", "-s", "rejects.max_share=0.4")
    assert code == 1
    assert "failed: 1 of 2 images were rejected, a share of 0.5, and rejects.max_share is 0.4; retry" in text
    assert said("half", "-s", "rejects.max_share=0.5")[0] == 0


def test_only_files_of_uncommitted_attempts_are_removed(latents: Path, tmp_path: Path) -> None:
    """Only files of this job and of finished units are removed, never a file of another owner."""
    shutil.copytree(latents, tmp_path / "latents")
    store = Store(str(tmp_path / "latents"))
    (tmp_path / "latents" / "commits" / "00000000.json").unlink()
    job = store.job().id[:8]
    kept = [
        f"staging/parts/00000000-7-{job}00000000.parquet",  # of a unit that is not done
        "parts/00000001-7-000000000000cafe.parquet",  # of another job
        "parts/00000001-7-0000cafe.parquet",
        f"parts/00000001-7-{job}00000000.parquet.bak",
        "pictures/00000000-my-cat.jpg",
        "shards/00000001-train.tar",
    ]
    removed = [
        f"{folder}/00000001-7-{job}00000000.{kind}" for folder, kind in (("parts", "parquet"), ("shards", "tar"))
    ]
    removed += [f"staging/{path}" for path in removed]
    removed += [file.path for file in Store(str(latents)).read_commit("00000000").files]  # Its commit was deleted.
    for path in kept + removed[:-1]:
        store.put(path, b"of another attempt")
    before = set(store.names(""))
    assert store.remove_orphan_files() == len(removed)
    assert before - set(store.names("")) == set(removed)
    assert store.remove_orphan_files(max_age=0) == 1  # This is the staged file of an unfinished unit.
    assert set(store.names("")) == before - set(removed) - {kept[0]}
