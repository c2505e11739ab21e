"""Export the images of a finished edit, as datasets for training and evaluation.

    export.json                                  the store's fingerprint, the format and the size; written first
    <part>.parquet                               instructpix2pix: the columns of schemas.instruct, with the images
    <edit>/annotation_images/<source key>.png    pie_bench: one tree per edit, as PIE-Bench's evaluation reads it

With pie_bench, an image whose key is in several source shards is at
<edit>/annotation_images/<shard>/<source key>.png.

Parts are numbered as in an export of latents (pipeline.export.latents). The source image of a row is read again from
its shard, and its sha256 is compared with that of the inverted image. If the image changed or is missing, the row is
left out and counted, and a note gives the difference. A part without rows has no file.
"""

import io
import itertools
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.errors import add_note_on_error
from pipeline.export.latents import ExportError, claim
from pipeline.inspect.status import status
from pipeline.instructions import instruction_of
from pipeline.io.errors import BadName, NotFound
from pipeline.io.images import EXTENSIONS, IMAGE_FORMATS, encode, prepare
from pipeline.io.samples import ShardChanged, read_samples
from pipeline.plan.keys import key_table
from pipeline.plan.units import part_units
from pipeline.progress import Progress
from pipeline.store.errors import REPAIR, StoreError
from pipeline.store.files import read_table
from pipeline.store.latents import read_columns
from pipeline.store.parts import to_parquet
from pipeline.store.paths import unit_of
from pipeline.store.plan import Unit, find_entries, parts_of_unit, read_units
from pipeline.store.store import Store
from schemas.fingerprint import crop_and_resize, read_fingerprint
from schemas.instruct import INSTRUCT
from schemas.job import JobRecord
from schemas.rejects import Reject


@dataclass(frozen=True)
class ExportedEdits:
    """A part of an edit's store: its `number`, its index `rows`, the image file of each row, and its `unit`."""

    number: int
    rows: list[dict[str, Any]]
    images: list[bytes]
    unit: Unit


def export_edits(location: str, destination: str, *, format: str) -> dict[str, Any]:
    """Write the images of the finished edit at `location`. Return the content of export.json, and the number `written`.

    `format` is one of EDIT_FORMATS, and `destination` is a folder or a URL. One part is in memory at a time. Repeating
    an export writes the same bytes again, while the source shards do not change.

    Raises:
        StoreError: It is not the finished, undamaged store of an edit, or its latent store does not exist.
        ExportError: The destination has files other than those of the same export, two images would have the same name,
            or a file cannot have its name.
    """
    if format not in EDIT_FORMATS:
        raise ExportError(f"format {format!r} is not valid for edits: give one of {', '.join(EDIT_FORMATS)}")
    store = Store(location)
    job = store.job()
    if job.kind != "edit":
        raise StoreError(
            f"{location} is the store of an {job.kind} job; to export it as {format}, give one that `edit` wrote"
        )
    parts = part_units(store, batch_size=sys.maxsize, workers=1)  # no part is longer, so none is split
    for problem in status(store).problems:  # such as rows of the latent store that are not edited yet
        print(f"note: {problem}", file=sys.stderr)
    units = {unit.unit: unit for unit in read_units(store)}
    description: dict[str, Any] = {
        "format": format,
        "rows": sum(part.count for part in parts),
        "parts": len(parts),
        "parts_sha256": sha256("".join(str(part.version) for part in parts).encode()).hexdigest(),
        "fingerprint": job.fingerprint,
    }
    extension = EXTENSIONS[job.spec["images"]["format"]]
    write = EDIT_FORMATS[format](store, job, parts)
    target = Store(destination, create=True)
    claim(target, description)

    def progress_note(error: BaseException) -> str | None:
        return f"{progress.done} of {description['rows']} rows are exported" if progress.done else None

    written = 0
    with Progress("export", description["rows"], "rows") as progress, add_note_on_error(progress_note):
        for part in parts:
            written += write(target, _read(store, part, units, extension))
            progress.advance(part.count)
    return description | {"written": written}


def _read(store: Store, part: Unit, units: dict[str, Unit], extension: str) -> ExportedEdits:
    """Return a part's rows and images, after checking the sha256 of each. Raises StoreError if one is damaged."""
    data, name = store.get_committed(part.source, part.version), f"{store.location}: {part.source}"
    rows, stem = read_table(data, name).to_pylist(), PurePosixPath(part.source).stem
    files = _files(store, f"shards/{stem}.tar")
    images = [files.get(f"{row['key']}.{extension}", b"") for row in rows]
    for row, image in zip(rows, images, strict=True):
        if sha256(image).hexdigest() != row["image_sha256"]:
            raise StoreError(
                f"{store.location}: shards/{stem}.tar: the image {row['key']!r} is missing or damaged; {REPAIR}"
            )
    return ExportedEdits(part.ordinal, rows, images, units[unit_of(part.source)])


def _files(store: Store, path: str) -> dict[str, bytes]:
    """Return the files of a tar that the store wrote, by name."""
    try:
        with tarfile.open(fileobj=io.BytesIO(store.get(path))) as tar:
            return {info.name: file.read() for info in tar if (file := tar.extractfile(info))}
    except tarfile.TarError as error:
        raise StoreError(f"{store.location}: {path} is damaged ({error}); {REPAIR}") from error


def _instructpix2pix(store: Store, job: JobRecord, parts: Sequence[Unit]) -> Callable[[Store, ExportedEdits], int]:
    """Return a function that writes triplets of a source image, an instruction and the edited image."""
    latents = Store(job.spec["latents"])
    fit = crop_and_resize(read_fingerprint(job.edit.latents))
    shards = {unit.source: unit for unit in read_units(latents)}
    noted = set[str]()

    def write(target: Store, edits: ExportedEdits) -> int:
        side = max(Image.open(io.BytesIO(edits.images[0]), formats=IMAGE_FORMATS).size)
        originals, absent = _originals(latents, shards, edits, side, fit)
        if absent is not None and (shard := edits.rows[0]["source_shard"]) not in noted:
            noted.add(shard)
            print(
                f"note: rows of {shard} are left out: {absent}. Put back the shard that was inverted, and export again",
                file=sys.stderr,
            )
        rows = [
            {
                "key": row["source_key"],
                "edit": row["edit"],
                "original_prompt": row["caption"],
                "original_image": {"bytes": originals[row["source_index"]], "path": None},
                "edit_prompt": _instruction(row),
                "edited_prompt": row["prompt"],
                "edited_image": {"bytes": image, "path": None},
                "source_json": row.get("source_json"),
            }
            for row, image in zip(edits.rows, edits.images, strict=True)
            if row["source_index"] in originals
        ]
        if rows:  # `datasets` does not open a file without rows.
            target.put(f"{edits.number:08d}.parquet", to_parquet(pa.Table.from_pylist(rows, schema=INSTRUCT)))
        return len(rows)

    return write


def _instruction(row: Mapping[str, Any]) -> str:
    """Return the instruction of an edit, which parts of earlier versions do not have."""
    if (written := row.get("instruction")) is not None:
        return str(written)
    return instruction_of(None, row["caption"], row["prompt"], row["negative_prompt"])


def _originals(
    latents: Store, shards: dict[str, Unit], edits: ExportedEdits, side: int, fit: tuple[str, str]
) -> tuple[dict[int, bytes], str | None]:
    """Return the source images of a part's rows as the model got them, by index, and the reason why some are absent.

    An image is absent if it differs from the inverted one. The reason is that of one of them; None if all are present.
    """
    digests = _source_digests(latents, edits)
    if not digests:
        return {}, f"{latents.location} no longer has the rows of {edits.unit.source}"
    shard, first, last = shards[edits.rows[0]["source_shard"]], min(digests), max(digests)
    found, absent = dict[int, bytes](), None
    try:
        version, entries = find_entries(latents, replace(shard, first=first, count=last - first + 1))
        entries = [entry for entry in entries if entry.index in digests]
        for sample in read_samples(shard.source, size=version.size, etag=version.etag, entries=entries):
            name = f"{shard.source}: sample {sample.index} ({sample.key!r})"
            if isinstance(sample, Reject):
                absent = f"{name} is no longer valid: {sample.error}: {sample.message}"
            elif (digest := sha256(sample.image).hexdigest()) == digests[sample.index]:
                found[sample.index] = encode(prepare(sample.image, side, *fit).image, "png")
            else:
                absent = (
                    f"{name}: its image has the sha256 {digest[:12]}, but had {digests[sample.index][:12]} when it "
                    "was inverted"
                )
    except (ShardChanged, NotFound) as error:  # After another error of the storage, an export stops.
        return {}, str(error)
    return found, absent


def _source_digests(latents: Store, edits: ExportedEdits) -> dict[int, str]:
    """Return the sha256 of the image that each row of a part was inverted from, by the row's index in its shard.

    Parts of earlier versions do not have it. Then it is that of the latent row, if one still has this key and caption:
    after a repair, the rows of a unit are in parts with other names, and may be fewer.
    """
    if "source_image_sha256" in edits.rows[0]:
        return {row["source_index"]: row["source_image_sha256"] for row in edits.rows}
    wanted = {row["source_index"]: (row["source_key"], row["caption"]) for row in edits.rows}
    return {
        row["index"]: row["image_sha256"]
        for part in parts_of_unit(latents, unit_of(edits.unit.source))
        for row in read_columns(latents, part, ["index", "key", "caption", "image_sha256"]).to_pylist()
        if wanted.get(row["index"]) == (row["key"], row["caption"])
    }


def _pie_bench(store: Store, job: JobRecord, parts: Sequence[Unit]) -> Callable[[Store, ExportedEdits], int]:
    """Return a function that writes the edited images as files: one tree per edit, as PIE-Bench's evaluation reads it.

    Memory has the keys that are in several source shards, about 200 bytes per key.
    """
    extension = EXTENSIONS[job.spec["images"]["format"]]
    repeated, folders = _repeated_keys(store, parts)
    if repeated:
        print(
            f"note: {len(repeated)} keys occur in several shards; their images are in annotation_images/SHARD/",
            file=sys.stderr,
        )

    def write(target: Store, edits: ExportedEdits) -> int:
        for row, image in zip(edits.rows, edits.images, strict=True):
            key, shard = row["source_key"], row["source_shard"]
            name = f"{folders[shard]}/{key}" if key in repeated else key
            path = f"{row['edit']}/annotation_images/{name}.{extension}"
            try:
                is_new = target.put_new(path, image)
            except BadName as error:
                raise ExportError(
                    f"{target.location}: {path}: the key {key!r} makes a name that no file can have here "
                    f"({error}); export as instructpix2pix, which stores keys as text"
                ) from error
            if not is_new:
                raise ExportError(
                    f"{target.location}: {path} exists already, with another image than that of {key!r} of {shard}; "
                    "export to an empty destination, or as instructpix2pix"
                )
        return len(edits.rows)

    return write


def _repeated_keys(store: Store, parts: Sequence[Unit]) -> tuple[frozenset[str], dict[str, str]]:
    """Return the keys that are in several source shards, and a unique folder name per shard."""
    folders, names = dict[str, str](), set[str]()
    with key_table() as keys:
        for part in parts:
            data = store.get_committed(part.source, part.version)
            rows = read_table(data, f"{store.location}: {part.source}").select(["source_key", "source_shard"])
            for row in rows.group_by("source_shard").aggregate([("source_key", "list")]).to_pylist():
                keys.add(row["source_shard"], row["source_key_list"])
                if row["source_shard"] not in folders:
                    stem = PurePosixPath(row["source_shard"]).stem
                    numbered = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
                    folders[row["source_shard"]] = name = next(name for name in numbered if name not in names)
                    names.add(name)
        _, found = keys.repeated()
    return frozenset(key for key, _, _ in found), folders


EDIT_FORMATS: dict[str, Callable[[Store, JobRecord, Sequence[Unit]], Callable[[Store, ExportedEdits], int]]] = {
    "instructpix2pix": _instructpix2pix,
    "pie_bench": _pie_bench,
}
"""The exports by format. Each takes an edit's store, job.json and parts. It returns a function that writes a part and
returns the number of rows that it wrote."""
