"""Export a finished latent store as floats, for training code.

    export.json                  the store's fingerprint, and the format and size of the export; written first
    <part>.parquet               parquet: key, shard, index, caption, x, y, json; x and y are floats, nested lists
    <part>.npy, <part>.parquet   npy: floats [N, 2, ...], x then y; key, shard, index, caption, json of its N rows
    <part>.tar                   webdataset: key.npy [2, ...], x then y; key.txt, the caption; key.json, with
                                 the sample's own under `json`

A file has the rows of one part. Parts are numbered from 00000000, in the order of the store's units, and an export is
complete when it has as many as export.json counts. The dots are the shape of the model's latents, such as [C, H, W].
float = integer * 2^-bits * sqrt(alphas_cumprod), the model's usual scale, in float64, rounded once. Floats are not
exact: only the store itself regenerates images bit for bit.

pyarrow and polars read float16 in Parquet as such, and DuckDB reads it as FLOAT.
"""

import io
import json
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import JobError, add_note_on_error
from pipeline.io.shard_writer import BadMemberName, json_member, write_shard
from pipeline.plan.units import part_units
from pipeline.progress import Progress
from pipeline.store.errors import StoreError
from pipeline.store.latents import Latents, read_latents
from pipeline.store.parts import to_nested_lists, to_parquet
from pipeline.store.plan import Unit
from pipeline.store.store import Store, check_outside_stores
from schemas.latents import read_footer

DTYPES = ("float32", "float16")
DESCRIPTION_FILE = "export.json"
TEXT_COLUMNS = ["key", "shard", "index", "caption", "json"]


class ExportError(JobError):
    """An export that cannot be written in this format or to this destination."""


def export(location: str, destination: str, *, format: str, dtype: str) -> dict[str, Any]:
    """Write the finished latent store at `location` as floats. Return the content of export.json.

    `format` is parquet, npy or webdataset, `dtype` is float32 or float16, and `destination` is a folder or a URL. One
    part is in memory at a time. Repeating an export writes the same bytes again.

    Raises:
        StoreError: It is not a finished, undamaged latent store.
        ExportError: The destination has files other than those of the same export, a value is beyond float16, or a key
            cannot be in a WebDataset shard.
    """
    if format not in LATENT_FORMATS or dtype not in DTYPES:
        raise ExportError(
            f"format {format!r} with dtype {dtype!r} is not valid: the formats are {', '.join(LATENT_FORMATS)} for "
            f"latents, and instructpix2pix or pie_bench for edits; the dtypes are {' or '.join(DTYPES)}"
        )
    store = Store(location)
    job = store.job()
    if job.kind == "edit":
        raise StoreError(
            f"{location} is the store of an edit job; give one that `invert` wrote, or export it as instructpix2pix or "
            "pie_bench"
        )
    units = part_units(store, batch_size=sys.maxsize, workers=1)  # no part is longer, so none is split
    description: dict[str, Any] = {
        "format": format,
        "dtype": dtype,
        "rows": sum(unit.count for unit in units),
        "parts": len(units),
        "parts_sha256": sha256("".join(str(unit.version) for unit in units).encode()).hexdigest(),
        "fingerprint": job.fingerprint,
    }
    target = Store(destination, create=True)
    claim(target, description)

    def progress_note(error: BaseException) -> str | None:
        return f"{progress.done} of {description['rows']} rows are exported" if progress.done else None

    with Progress("export", description["rows"], "rows") as progress, add_note_on_error(progress_note):
        for unit in units:
            latents = read_latents(store, unit)
            try:
                for extension, data in LATENT_FORMATS[format](latents, _floats(unit, latents, dtype)):
                    target.put(f"{unit.ordinal:08d}.{extension}", data)
            except BadMemberName as error:
                raise ExportError(f"{unit.source}: {error}, or export to another destination as parquet") from error
            progress.advance(unit.count)
    return description


def claim(target: Store, description: dict[str, Any]) -> None:
    """Reserve a destination for one export, so that its files are never those of two exports.

    Raises:
        ExportError: The destination has other files, or another export.
        StoreError: The destination is in a folder of a store.
    """
    check_outside_stores(target.location)
    if not target.has(DESCRIPTION_FILE) and (found := next(target.names(""), None)) is not None:
        raise ExportError(
            f"{target.location}: is not empty (it has {found}) and is not an export; give another destination"
        )
    if (
        not target.put_new(DESCRIPTION_FILE, json.dumps(description, indent=2).encode())
        and target.get_json(DESCRIPTION_FILE) != description
    ):
        raise ExportError(
            f"{target.location}: contains another export (see its {DESCRIPTION_FILE}); give another destination"
        )


def _floats(unit: Unit, latents: Latents, dtype: str) -> NDArray[Any]:
    """Return the pairs in the model's scale, [N, 2, ...]. Raises ExportError if a value overflows."""
    import torch

    exact = torch.stack(latents.pair.to_float(), 1).numpy()
    with np.errstate(over="ignore"):  # The check follows.
        # numpy rounds once. torch would round twice, from float64 to float32 to float16.
        floats = exact.astype(dtype)
    overflowing = np.flatnonzero(np.isinf(floats).reshape(len(floats), -1).any(1))
    if len(overflowing):
        row = int(overflowing[0])
        raise ExportError(
            f"{unit.source}: key {latents.column('key')[row]!r}: has the value {np.abs(exact[row]).max():.6g}, and the "
            f"limit of {dtype} is {np.finfo(floats.dtype).max:.6g}; export to another destination as float32"
        )
    return floats


def _parquet(latents: Latents, floats: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    columns = {name: latents.table[name] for name in TEXT_COLUMNS[:-1]}
    columns |= {"x": to_nested_lists(floats[:, 0]), "y": to_nested_lists(floats[:, 1]), "json": latents.table["json"]}
    fields = [pa.field(name, column.type, nullable=name == "json") for name, column in columns.items()]
    # The constants in the footer are already applied. This entry distinguishes an export from a part.
    marker = {b"edict.export": json.dumps({"dtype": str(floats.dtype), "scale_applied": True}).encode()}
    table = pa.table(list(columns.values()), schema=pa.schema(fields, metadata=latents.table.schema.metadata | marker))
    # Byte streams make float32 a tenth smaller. DuckDB cannot read them for float16.
    yield "parquet", to_parquet(table, "BYTE_STREAM_SPLIT" if floats.dtype == np.float32 else "PLAIN")


def _npy(latents: Latents, floats: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    yield "npy", _to_npy(floats)
    yield "parquet", to_parquet(latents.table.select(TEXT_COLUMNS))


def _webdataset(latents: Latents, floats: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    """Yield a tar. Its keys are unique, because a part has rows of one shard, in which planning keeps each key once."""
    constants = read_footer(latents.table.schema.metadata).model_dump(include={"scale", "bits", "alphas_cumprod"})
    rows = latents.table.select(["key", "caption", "shard", "index", "image_sha256", "json"]).to_pylist()
    samples = []
    for row, sample in zip(rows, floats, strict=True):
        key, caption = row.pop("key"), row.pop("caption")
        if row["json"] is not None:
            row["json"] = json.loads(row["json"])
        members = {"npy": _to_npy(sample), "txt": caption.encode(), "json": json_member(row | constants)}
        samples.append((key, members))
    yield "tar", write_shard(samples)


LATENT_FORMATS: dict[str, Callable[[Latents, NDArray[Any]], Iterator[tuple[str, bytes]]]] = {
    "parquet": _parquet,
    "npy": _npy,
    "webdataset": _webdataset,
}
"""The function of each format, which yields the files of a part: extensions and bytes."""


def _to_npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
