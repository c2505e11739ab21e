"""The files of a unit of edits: a tar of images, an index, and the rows of the contact sheet."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.instructions import instruction_of
from pipeline.io.images import EXTENSIONS, ImageError, encode, prepare
from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_writer import json_member, write_shard
from pipeline.messages import Fault
from pipeline.plan.edit_task import EditTask
from pipeline.store.latents import Latents
from pipeline.store.parts import to_parquet
from pipeline.store.plan import Unit, find_entries, read_units
from pipeline.store.store import Store
from pipeline.workers.edit_requests import EditRequest
from pipeline.workers.image_editor import EditedImage
from schemas.contact_sheet import CONTACT_SHEET, edits_shown
from schemas.edits import EDITS
from schemas.fingerprint import crop_and_resize

Made = Sequence[tuple[EditRequest, EditedImage]]
Results = Iterable[tuple[EditRequest, EditedImage | Fault]]


@dataclass
class EditFiles:
    """Builds the files of a task's units. Source images are read from the shards of `latents` again, at `size` pixels.

    A source image is null if its shard is missing or changed.
    """

    task: EditTask
    latents: Store
    size: int

    def build(self, name: str, rows: Latents, made: Made, reconstructions: Results) -> Iterator[tuple[str, bytes, int]]:
        """Yield the files of the attempt `name` one by one: path, bytes, and number of rows of the index.

        `made` are the edits that succeeded, and `reconstructions` the rows of the contact sheet.
        """
        if made:
            tar = f"{name}.tar"
            index = [self._index_row(rows, request, tar, image) for request, image in made]
            samples = (
                (row["key"], self._members(row, image.file)) for row, (_, image) in zip(index, made, strict=True)
            )
            yield f"shards/{tar}", write_shard(samples), 0
            yield f"parts/{name}.parquet", to_parquet(pa.Table.from_pylist(index, schema=EDITS)), len(index)
        if sheet := self._sheet_rows(rows, made, reconstructions):
            table = pa.Table.from_pylist(sheet, schema=CONTACT_SHEET)
            yield f"pictures/{name}.parquet", to_parquet(table, row_group_size=1), 0  # so that readers can load one row

    def _index_row(self, rows: Latents, request: EditRequest, tar: str, image: EditedImage) -> dict[str, Any]:
        columns = ["key", "shard", "index", "caption", "image_sha256", "json"]
        source = rows.table.slice(request.row, 1).select(columns).to_pylist()[0]
        return {
            "key": f"{request.name}/{source['key']}",
            "shard": tar,
            "edit": request.name,
            "caption": source["caption"],
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "control": request.control.model_dump_json() if request.control else None,
            "reconstruction_exact": image.reconstruction_exact,
            "guidance_scale": request.guidance_scale,
            "strength": self._strength(request),
            "steps": request.steps,
            "drift": image.drift,
            "image_sha256": sha256(image.file).hexdigest(),
            "source_key": source["key"],
            "source_shard": source["shard"],
            "source_index": source["index"],
            "source_image_sha256": source["image_sha256"],
            "source_json": source["json"],
            "instruction": instruction_of(
                request.instruction, source["caption"], request.prompt, request.negative_prompt
            ),
        }

    def _members(self, row: dict[str, Any], image: bytes) -> dict[str, bytes]:
        """Return the members of a sample of the tar, by extension."""
        metadata = {name: value for name, value in row.items() if name != "shard"}
        if row["source_json"] is not None:
            metadata["source_json"] = json.loads(row["source_json"])
        return {
            EXTENSIONS[self.task.spec.images.format]: image,
            "txt": row["prompt"].encode(),
            "json": json_member(metadata),
        }

    def _sheet_rows(self, rows: Latents, made: Made, reconstructions: Results) -> list[dict[str, Any]]:
        """Return the unit's rows of the contact sheet (schemas.contact_sheet)."""
        edits = defaultdict[int, list[dict[str, Any]]](list)
        counts, most = Counter(request.row for request, _ in made), edits_shown(self.task.spec.contact_sheet)
        for request, image in made:
            if len(edits[request.row]) < most:
                edits[request.row].append(
                    {
                        "edit": request.name,
                        "prompt": request.prompt,
                        "image": image.file,
                        "guidance_scale": request.guidance_scale,
                        "strength": self._strength(request),
                        "steps": request.steps,
                        "drift": image.drift,
                    }
                )
        sheet = []
        for request, result in reconstructions:
            if isinstance(result, EditedImage) and request.row in edits:
                row = rows.table.slice(request.row, 1).to_pylist()[0]
                sheet.append(
                    {
                        "key": row["key"],
                        "caption": row["caption"],
                        "exact": result.digest == row["digest"],
                        "source": self._source_image(row),
                        "reconstruction": result.file,
                        "edits": edits[request.row],
                        "edits_left_out": counts[request.row] - len(edits[request.row]),
                    }
                )
        return sheet

    def _strength(self, request: EditRequest) -> float:
        return request.steps / self.task.inversion.fingerprint.sampling.steps

    def _source_image(self, row: dict[str, Any]) -> bytes | None:
        """Return the image that a row was inverted from as PNG; None if its shard is missing or changed."""
        try:
            shard = self._shards[row["shard"]]
            version, entries = find_entries(self.latents, replace(shard, first=row["index"], count=1))
            sample = next(read_samples(shard.source, size=version.size, etag=version.etag, entries=entries))
            if not isinstance(sample, Sample) or sha256(sample.image).hexdigest() != row["image_sha256"]:
                return None
            return encode(
                prepare(sample.image, self.size, *crop_and_resize(self.task.inversion.fingerprint)).image, "png"
            )
        except (JobError, ImageError):
            return None

    @cached_property
    def _shards(self) -> dict[str, Unit]:
        """A unit of each input shard of the latent store. It has the version of the shard that was inverted."""
        return {unit.source: unit for unit in read_units(self.latents)}
