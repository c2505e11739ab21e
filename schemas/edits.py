"""The schema of an edit job's parts: one row per edited image."""

import pyarrow as pa

EDITS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("edit", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("negative_prompt", pa.string()),
        pa.field("control", pa.string()),
        pa.field("reconstruction_exact", pa.bool_()),
        pa.field("guidance_scale", pa.float64(), nullable=False),
        pa.field("strength", pa.float64(), nullable=False),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("drift", pa.float64(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),
        pa.field("source_shard", pa.string(), nullable=False),
        pa.field("source_index", pa.int64(), nullable=False),
        pa.field("source_image_sha256", pa.string()),
        pa.field("source_json", pa.string()),
        pa.field("instruction", pa.string()),
    ]
)
"""The edited image is the sample `key` of `STORE/shards/<shard>`. `strength` and `steps` are those under `prompt`.

`control` is the control of the spec as JSON, or null. With control, the row is also regenerated in the same batch, and
`reconstruction_exact` is True if this gave its starting lattice. It is null without control.

`image_sha256` is that of the edited image's file. `source_image_sha256` is that of the source's image file when it was
inverted: the latent row's `image_sha256`.

`source_json` is the source's own .json, byte for byte, or null. `instruction` describes the change that the edit makes.

Parts of earlier versions lack `reconstruction_exact`, `source_image_sha256`, `source_json` and `instruction`.
"""
