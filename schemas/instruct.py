"""The schema of edits exported for instruction tuning: the columns of InstructPix2Pix's dataset, and key and edit.

The metadata marks the image columns, so that the library `datasets` decodes them as images.
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
    list(_COLUMNS.items()),  # nullable although nothing is null, because `datasets` skips columns that are not nullable
    metadata={b"huggingface": json.dumps({"info": {"features": _FEATURES}}).encode()},
)
"""`key` is the key of the source, and `edit_prompt` the instruction. `original_image` is a PNG at the model's size.

`source_json` is the source's own .json, byte for byte. It is null if there was none, or if an earlier version made the
edits.
"""
