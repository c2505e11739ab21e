"""The schemas of a plan: the samples of every shard, the rows of every part, and the units of work."""

import pyarrow as pa

ENTRIES = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
        pa.field("gaps", pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64())]))),
        pa.field("digest", pa.binary(8)),
    ]
)
"""The samples of one version of an input shard: their bytes [offset, end), and the error of invalid samples.

`gaps` are the bytes of a sample that are not read, because they belong to unused members. `digest` is the beginning of
a sha256 over the content of the used members. It is null for objects, whose ETags depend on the content.
"""

ADDED_COLUMNS = frozenset({"gaps", "digest"})
"""Columns that plans of earlier versions lack. They are read as null."""

UNITS = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("count", pa.int32(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("version", pa.string()),
    ]
)
"""The units of work: each is a slice of `count` samples of `source`, from `first`.

`source` is an input shard or a committed part. `ordinal` is its position among the sources, and `size` its bytes.
`version` is the shard's ETag or the part's sha256.
"""

ROWS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("prompts", pa.map_(pa.string(), pa.string())),
        pa.field("masks", pa.map_(pa.string(), pa.list_(pa.int32()))),
        pa.field("mask_files", pa.map_(pa.string(), pa.string())),
    ]
)
"""The rows of one part that an edit job takes. `row` is the position in the part. Units are slices of these rows.

`prompts` and `masks` are from tables, by edit. A mask has 512x512 pixels, row after row, as in PIE-Bench. Its list
alternates the first pixel of each run inside the mask and the number of pixels of that run.

`mask_files` has the sha256 of the row's mask file for each edit; it is null if the file did not exist.
"""

EARLIER_ROWS = ROWS.remove(ROWS.get_field_index("mask_files"))
"""ROWS in plans of earlier versions, which lack `mask_files`."""

PARTS = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
    ]
)
"""The parts of the latent store from which the rows of an edit job were selected, with their sha256."""
