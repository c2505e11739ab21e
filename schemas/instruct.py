"""The rows of an edit exported for instruction tuning: the columns of InstructPix2Pix's data set, key and edit.

The footer tells `datasets` that the pictures are images, so that they are decoded as such.
"""

import json

import pyarrow as pa

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS = {
    "key": pa.string(),
    "edit": pa.string(),
    "original_prompt": pa.string(),
    "original_image": _IMAGE,
    "edit_prompt": pa.string(),
    "edited_prompt": pa.string(),
    "edited_image": _IMAGE,
    "source_json": pa.string(),
}
_FEATURES = {
    name: {"_type": "Image"} if kind == _IMAGE else {"dtype": "string", "_type": "Value"}
    for name, kind in _COLUMNS.items()
}

INSTRUCT = pa.schema(
    list(_COLUMNS.items()),  # nullable, though nothing is null: `datasets` passes over columns that are not
    metadata={b"huggingface": json.dumps({"info": {"features": _FEATURES}}).encode()},
)
"""`key` is the source's, `edit_prompt` the edit's instruction; `original_image` is PNG at the model's size.

`source_json` is the source's own .json, byte for byte; null where it had none, or an earlier version made the edits.
"""
