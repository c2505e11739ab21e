"""What is planned before anything runs: the samples of every shard, and the units of work."""

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
"""The samples of one version of an input shard: their bytes [offset, end), and the error of those that cannot be read.

`gaps` are the bytes of a sample that are not read, because they belong to unused members. `digest` is the beginning of
a sha256 over the content of the used members. It is null for objects, whose ETags depend on the content.
"""

ADDED = frozenset({"gaps", "digest"})
"""Columns that plans of earlier versions do not have; they are read as null."""

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
"""A unit is `count` rows from `first` of `source`: the `ordinal`-th input shard, or committed part, of that size.

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
"""The rows of one part that an edit job takes, by their place in it, with the prompts and the masks that tables give
them by edit. A mask is PIE-Bench's: of 512x512 pixels, row after row, runs of (the first inside, how many).

`mask_files` has the sha256 of each mask file of the row's edits, by edit; it is null if the file did not exist.

A unit is then a slice of these, and not of the part.
"""

EARLIER_ROWS = ROWS.remove(ROWS.get_field_index("mask_files"))
"""ROWS in the plans of earlier versions, which have no digests of mask files."""

PARTS = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
    ]
)
"""The parts of the latent store from which the rows of an edit job were planned, with their sha256."""
