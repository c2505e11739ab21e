"""The schema of the rows that an edit job shows in its contact sheet and its report, with their images."""

import pyarrow as pa

CONTACT_SHEET = pa.schema(
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
"""`source` is a PNG, and the other images are in the format of the job, all at the model's size.

`source` is null if its shard has changed since the inversion. `exact` is True if the noise pair of the row regenerated
exactly under its own caption. The values of an edit are those of schemas.edits; files of earlier versions lack some.
`edits_left_out` is the number of edits of the row that are not in `edits`, because the size of the file is limited.
Files of earlier versions do not have this field, and have all edits.
"""

MAX_SHOWN = 1000  # edited images in the contact sheets and the report of a job


def edits_shown(rows: int) -> int:
    """Return the number of edits per row to show, so that `rows` rows have at most MAX_SHOWN in all."""
    return max(1, MAX_SHOWN // max(1, rows))
