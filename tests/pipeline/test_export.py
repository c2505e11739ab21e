"""Exports of small latent stores with known integers, read by the libraries of their users."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from numpy.typing import NDArray
from typer.testing import CliRunner

from edict.pair import Pair
from edict.schedule import Schedule
from jobs.cli import app
from pipeline.export.latents import DTYPES, LATENT_FORMATS, ExportError, export
from pipeline.store.errors import StoreError
from pipeline.store.parts import Row, to_parquet, to_table
from pipeline.store.plan import Unit, write_units
from pipeline.store.store import Store
from schemas.commit import Commit, Seconds
from schemas.latents import FINGERPRINT, NOISE
from schemas.rejects import Reject
from schemas.sampling import Sampling

SCHEDULE = Schedule((999, 500), (0.0047, 0.3, 1.0))
FINGERPRINTED = {"weights": "abc123", "bits": 12}
C, H, W = 4, 3, 2

Written = list[tuple[Row, NDArray[np.int64]]]
"""The rows of a store, in order, each with its integers [2, ...]."""


def unit(number: int, count: int) -> Unit:
    return Unit(f"{number:08d}", f"in/{number}.tar", number, 0, count, 1, None)


def row(shard: str, index: int, key: str, caption: str, json: str | None = None) -> Row:
    return Row(key, shard, index, caption, False, "digest", f"sha of {shard} {index}", 64, 64, json, 0)


def write_unit(store: Store, planned: Unit, pair: Pair, rows: list[Row]) -> None:
    """Commit a unit: its rows, and a reject for each sample that has none."""
    rejects = tuple(
        Reject(planned.source, i, f"bad{i}", "decode", "CorruptImage", "cut") for i in range(len(rows), planned.count)
    )
    files = []
    if rows:
        part = to_parquet(to_table(rows, pair, FINGERPRINTED))
        files.append(store.put(f"parts/{planned.unit}-1.parquet", part).model_copy(update={"rows": len(rows)}))
    assert store.commit(
        Commit(
            unit=planned.unit,
            attempt="1",
            source=planned.source,
            input=planned.count,
            ok=len(rows),
            rejected=len(rejects),
            filtered=0,
            files=tuple(files),
            rejects=rejects,
            seconds=Seconds(read=1.0, compute=1.0, write=1.0),
            started=0.0,
            finished=1.0,
            worker={},
            versions={},
        )
    )


def put_job(store: Store, kind: str) -> None:
    job = {"kind": kind, "spec": {}, "fingerprint": FINGERPRINTED, "machine": {}}
    store.put("job.json", json.dumps(job).encode())


def write_store(
    folder: Path,
    *,
    bits: int = 12,
    spread: float = 30_000.0,
    kind: str = "invert",
    shape: tuple[int, ...] = (C, H, W),
) -> Written:
    """Write a store of three units: 5 rows; only rejects; 3 rows and a reject, with keys of the first unit."""
    random = np.random.default_rng(0)
    store = Store(str(folder), create=True)
    put_job(store, kind)
    units = [unit(0, 5), unit(1, 2), unit(2, 4)]
    write_units(store, units)
    captions = ["a dog", "ein Hündchen, süß", "雪の中の犬", "كلب في الثلج", '🐕 "quoted"\nin two lines']
    keys = ["000", "folder.of/001", "k" * 120, "日本/犬", "004"]
    # The last key of the first shard is the first key of the next, so that both follow each other in a reader of tars.
    first = [row("in/0.tar", i, keys[i], captions[i], f'{{"i":  {i}}}' if i % 2 else None) for i in range(5)]
    last = [row("in/2.tar", i, f"{4 - i:03d}", captions[i] + "!") for i in range(3)]
    written = []
    for planned, rows in zip(units, (first, [], last), strict=True):
        integers = np.rint(random.standard_normal((len(rows), 2, *shape)) * spread).astype(np.int64)
        x, y = torch.from_numpy(integers[:, 0]), torch.from_numpy(integers[:, 1])
        write_unit(store, planned, Pair(x, y, SCHEDULE, 0, Sampling(bits=bits, p=0.93), 4), rows)
        written += list(zip(rows, integers, strict=True))
    return written


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    return tmp_path / "latents"


def in_floats(integers: NDArray[np.int64], dtype: str, bits: int = 12) -> NDArray[Any]:
    """Return int * 2^-bits * sqrt(alpha), computed in float64 and then rounded."""
    return (integers.astype(np.float64) * 2.0**-bits * math.sqrt(0.0047)).astype(dtype)


Read = list[tuple[dict[str, Any], NDArray[Any]]]


def read_parquet(folder: Path) -> Read:
    found: Read = []
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, page_checksum_verification=True)
        states = [np.stack([polars.from_arrow(table)[name].to_numpy() for name in ("x", "y")], 1)]  # type: ignore[index]
        found += zip(table.drop_columns(["x", "y"]).to_pylist(), np.concatenate(states), strict=True)
    return found


def read_npy(folder: Path) -> Read:
    found: Read = []
    for path in sorted(folder.glob("*.npy")):
        rows = pq.read_table(path.with_suffix(".parquet"), page_checksum_verification=True).to_pylist()
        found += zip(rows, np.load(path, mmap_mode="r"), strict=True)
    return found


def read_webdataset(folder: Path) -> Read:
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = webdataset.WebDataset(tars, shardshuffle=False).decode()
    return [({"key": s["__key__"], "caption": s["txt"], **s["json"]}, s["npy"]) for s in samples]


READERS: dict[str, Callable[[Path], Read]] = {
    "parquet": read_parquet,
    "npy": read_npy,
    "webdataset": read_webdataset,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", LATENT_FORMATS)
def test_every_row_once_in_order_with_its_floats_and_text(
    format: str, dtype: str, latents: Path, tmp_path: Path
) -> None:
    written = write_store(latents)
    about = export(str(latents), str(tmp_path / "out"), format=format, dtype=dtype)
    assert (about["rows"], about["parts"]) == (8, 2)
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == about
    found = READERS[format](tmp_path / "out")
    for (said, floats), (row, integers) in zip(found, written, strict=True):
        assert floats.dtype == dtype
        assert floats.shape == (2, C, H, W)
        assert floats.tobytes() == in_floats(integers, dtype).tobytes()
        assert {name: said[name] for name in ("key", "shard", "index", "caption")} == {
            "key": row.key,
            "shard": row.shard,
            "index": row.index,
            "caption": row.caption,
        }
        if format == "webdataset":
            scale = math.sqrt(0.0047) / 4096
            assert said["image_sha256"] == row.image_sha256
            assert (said["bits"], said["alphas_cumprod"], said["scale"]) == (12, 0.0047, scale)
        else:
            assert said["json"] == row.json
            assert list(said) == ["key", "shard", "index", "caption", "json"]


@pytest.mark.parametrize("shape", [(6, 8), (4, 2, 3, 5)], ids=["tokens", "video"])
@pytest.mark.parametrize("format", LATENT_FORMATS)
def test_latents_of_any_rank(shape: tuple[int, ...], format: str, latents: Path, tmp_path: Path) -> None:
    """Tokens [L, D] and videos [C, F, H, W]; the other tests have images [C, H, W]."""
    written = write_store(latents, shape=shape)
    export(str(latents), str(tmp_path / "out"), format=format, dtype="float32")
    for (_, floats), (_, integers) in zip(READERS[format](tmp_path / "out"), written, strict=True):
        assert floats.shape == (2, *shape)
        assert floats.tobytes() == in_floats(integers, "float32").tobytes()


@pytest.mark.parametrize("format", LATENT_FORMATS)
def test_files_are_numbered_without_gaps(format: str, latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    export(str(latents), str(tmp_path / "out"), format=format, dtype="float32")
    extensions = {"parquet": ["parquet"], "npy": ["npy", "parquet"], "webdataset": ["tar"]}[format]
    names = {f"{part:08d}.{extension}" for part in (0, 1) for extension in extensions}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"export.json"} | names


@pytest.mark.parametrize("dtype", DTYPES)
def test_duckdb_and_polars_open_the_parquet(dtype: str, latents: Path, tmp_path: Path) -> None:
    written = write_store(latents)
    export(str(latents), str(tmp_path / "out"), format="parquet", dtype=dtype)
    pattern = str(tmp_path / "out" / "*.parquet")
    expected = in_floats(np.stack([integers for _, integers in written]), dtype)
    query = duckdb.read_parquet(pattern).order("shard, index").project("key, caption, x, y")
    assert [str(kind) for kind in query.types[2:]] == ["FLOAT[][][]", "FLOAT[][][]"]
    frame = polars.read_parquet(pattern)
    element = {"float32": polars.Float32, "float16": polars.Float16}[dtype]
    assert frame.schema["x"] == polars.Array(element, (C, H, W))
    for found in (query.fetchall(), frame.select("key", "caption", "x", "y").rows()):
        assert [(key, caption) for key, caption, _, _ in found] == [(row.key, row.caption) for row, _ in written]
        assert np.array_equal(np.array([[x, y] for _, _, x, y in found]), expected.astype(np.float64))


def test_the_footer_has_the_fingerprint_and_the_noise(latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    export(str(latents), str(tmp_path / "out"), format="parquet", dtype="float32")
    part = pq.read_schema(latents / "parts" / "00000002-1.parquet").metadata
    exported = pq.read_schema(tmp_path / "out" / "00000001.parquet").metadata
    assert json.loads(exported[FINGERPRINT]) == FINGERPRINTED
    assert json.loads(exported[NOISE])["alphas_cumprod"] == 0.0047
    assert {name: exported[name] for name in part} == part
    assert json.loads(exported[b"edict.export"]) == {"dtype": "float32", "scale_applied": True}


def test_float16_is_rounded_once(latents: Path, tmp_path: Path) -> None:
    """A value just above 512.25, a tie of float16, would become the tie if it were rounded to float32 first."""
    store = Store(str(latents), create=True)
    put_job(store, "invert")
    write_units(store, [unit(0, 1)])
    states = torch.full((1, 1, 1, 1), 2**30 + 2**19 + 1)
    pair = Pair(states, -states, Schedule((1,), (0.25, 1.0)), 0, Sampling(bits=20, p=0.93), 4)
    write_unit(store, unit(0, 1), pair, [row("in/0.tar", 0, "k", "a")])
    export(str(latents), str(tmp_path / "out"), format="npy", dtype="float16")
    assert np.load(tmp_path / "out" / "00000000.npy").ravel().tolist() == [512.5, -512.5]


@pytest.mark.parametrize("format", LATENT_FORMATS)
def test_a_value_beyond_float16_is_an_error_that_names_the_key(format: str, latents: Path, tmp_path: Path) -> None:
    store = Store(str(latents), create=True)
    put_job(store, "invert")
    write_units(store, [unit(0, 2)])
    x = torch.ones(2, 1, 1, 2, dtype=torch.int64)
    y = x.clone()
    y[1, 0, 0, 1] = -(2**31 - 1)  # -65536 at scale 2^-15
    pair = Pair(x, y, Schedule((1,), (0.25, 1.0)), 0, Sampling(bits=14, p=0.93), 4)
    rows = [row("in/0.tar", i, f"key{i}", "a") for i in range(2)]
    write_unit(store, unit(0, 2), pair, rows)
    with pytest.raises(
        ExportError,
        match=r"parts/00000000-1.parquet: key 'key1': has the value 65536, and the limit of float16 is 65504",
    ):
        export(str(latents), str(tmp_path / "half"), format=format, dtype="float16")
    assert [path.name for path in (tmp_path / "half").iterdir()] == ["export.json"]
    export(str(latents), str(tmp_path / "float"), format=format, dtype="float32")
    assert READERS[format](tmp_path / "float")[1][1].min() == -65536.0


def test_a_flipped_byte_in_a_part_is_an_error(latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    part = latents / "parts" / "00000002-1.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(StoreError, match=r"00000002-1.parquet is not the committed file"):
        export(str(latents), str(tmp_path / "out"), format="npy", dtype="float32")
    assert not (tmp_path / "out" / "00000001.npy").exists()


def test_page_checksums_are_checked_even_if_the_sha256_is_right(latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    store = Store(str(latents))
    data = bytearray(store.get("parts/00000000-1.parquet"))
    column = pq.read_metadata(io.BytesIO(data)).row_group(0).column(5)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    named = store.put("parts/00000000-1.parquet", bytes(data))
    commit = next(store.commits())
    commit = commit.model_copy(update={"files": (named.model_copy(update={"rows": commit.ok}),)})
    store.put("commits/00000000.json", commit.model_dump_json().encode())
    with pytest.raises(StoreError, match=r"00000000-1.parquet is damaged"):
        export(str(latents), str(tmp_path / "out"), format="npy", dtype="float32")


def test_an_unfinished_store_and_an_edit_store_are_refused(latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    (latents / "commits" / "00000001.json").unlink()
    with pytest.raises(StoreError, match=r"1 of 3 units are not done; finish its job first: edict run SPEC"):
        export(str(latents), str(tmp_path / "out"), format="parquet", dtype="float32")
    write_store(tmp_path / "edits", kind="edit")
    with pytest.raises(StoreError, match=r"is the store of an edit job; give one that `invert` wrote"):
        export(str(tmp_path / "edits"), str(tmp_path / "out"), format="parquet", dtype="float32")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_or_dtype_is_refused(latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    for format, dtype in (("csv", "float32"), ("npy", "float64")):
        with pytest.raises(ExportError, match=r"the formats are parquet, npy, webdataset for latents"):
            export(str(latents), str(tmp_path / "out"), format=format, dtype=dtype)
    assert not (tmp_path / "out").exists()


def test_two_exports_do_not_mix(latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    out = tmp_path / "out"
    export(str(latents), str(out), format="parquet", dtype="float32")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_store(tmp_path / "other", spread=20_000.0)
    for store, format, dtype in (
        (latents, "npy", "float32"),
        (latents, "parquet", "float16"),
        (tmp_path / "other", "parquet", "float32"),
    ):
        with pytest.raises(ExportError, match=r"out: contains another export \(see its export.json\)"):
            export(str(store), str(out), format=format, dtype=dtype)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_destination_with_other_files_is_refused(latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    with pytest.raises(ExportError, match=r"latents: is not empty \(it has .*\) and is not an export"):
        export(str(latents), str(latents), format="parquet", dtype="float32")
    (tmp_path / "empty").mkdir()
    export(str(latents), (tmp_path / "empty").as_uri(), format="parquet", dtype="float32")
    assert len(read_parquet(tmp_path / "empty")) == 8


@pytest.mark.parametrize("format", LATENT_FORMATS)
def test_an_interrupted_export_is_finished_to_the_same_bytes(format: str, latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    shutil.copytree(latents, tmp_path / "copy")
    export(str(latents), str(tmp_path / "whole"), format=format, dtype="float32")
    export(str(latents), str(tmp_path / "cut"), format=format, dtype="float32")
    files = sorted(path for path in (tmp_path / "cut").iterdir() if path.name != "export.json")
    files[0].write_bytes(b"cut")
    files[-1].unlink()
    export(str(tmp_path / "copy"), str(tmp_path / "cut"), format=format, dtype="float32")
    read = [{path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("whole", "cut")]
    assert read[0] == read[1]


def test_the_command(latents: Path, tmp_path: Path) -> None:
    write_store(latents)
    given = ["export", str(latents), str(tmp_path / "out"), "--format", "webdataset", "--dtype", "float16"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert "8 rows of 2 parts, float16 webdataset" in result.stdout
    assert "export: 8/8 rows" in result.stderr
    assert len(read_webdataset(tmp_path / "out")) == 8
    refused = CliRunner().invoke(app, [*given[:-1], "float32"])
    assert refused.exit_code == 2
    assert "contains another export" in refused.stderr
    assert "Exported floats are not exact" in " ".join(CliRunner().invoke(app, ["export", "--help"]).stdout.split())
