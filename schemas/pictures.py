"""The rows an edit job's contact sheet and report show: small, and complete in themselves."""

import pyarrow as pa

PICTURES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("exact", pa.bool_(), nullable=False),
        pa.field("source", pa.binary()),
        pa.field("reconstruction", pa.binary(), nullable=False),
        pa.field(
            "edits",
            pa.list_(
                pa.struct(
                    [
                        ("edit", pa.string()),
                        ("prompt", pa.string()),
                        ("image", pa.binary()),
                        ("guidance_scale", pa.float64()),
                        ("strength", pa.float64()),
                        ("steps", pa.int32()),
                        ("drift", pa.float64()),
                    ]
                )
            ),
            nullable=False,
        ),
        pa.field("edits_left_out", pa.int32()),
    ]
)
"""`source` is PNG, the others are as the job writes its pictures, all at the model's size.

`source` is null where its shard is no longer what was inverted. `exact` says that the row's pair, regenerated under
its own caption, came to the very integers it was inverted from. The figures of an edit are those of schemas.edits;
stores written before they were kept lack them. `edits_left_out` counts the edits of the row that are not in `edits`,
because the size of the file is limited. Files of earlier versions do not have this field, and have all edits.
"""

SHOWN = 1000  # edited images that a job shows, at most: on its sheets, and in its report


def edits_shown(rows: int) -> int:
    """Return the number of edits per row to show, so that `rows` rows have at most SHOWN in all."""
    return max(1, SHOWN // max(1, rows))
