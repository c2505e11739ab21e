"""The rows of a latent store: one exactly inverted picture each."""

import json
from typing import Any

import pyarrow as pa

FINGERPRINT = b"edict.fingerprint"
NOISE = b"edict.noise"


def latents_schema(
    channels: int, height: int, width: int, fingerprint: dict[str, Any], noise: dict[str, Any]
) -> pa.Schema:
    """The Arrow schema of a part.

    x and y are int32 [C][H][W]. latent = integer * scale, where scale = 2^-bits * sqrt(alphas_cumprod) stands in the
    footer under `edict.noise` beside both of its factors, the alpha of a flow being 1; that of y is `scale_y`, another
    one where the `sampler` keeps y a step nearer to the clean end (bdia, obelm). `edict.fingerprint` says what made
    the row.

    `slot` is the row's position in the batch in which it was inverted, from 0 to `batch_size` - 1 (in `edict.noise`).
    The row regenerates exactly in this slot. Parts of earlier versions do not have this column. Their rows have the
    slot that is their position in the part modulo the batch size.
    """
    state = pa.list_(pa.list_(pa.list_(pa.int32(), width), height), channels)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("shard", pa.string(), nullable=False),
            pa.field("index", pa.int64(), nullable=False),
            pa.field("slot", pa.int32(), nullable=False),
            pa.field("caption", pa.string(), nullable=False),
            pa.field("caption_truncated", pa.bool_(), nullable=False),
            pa.field("x", state, nullable=False),
            pa.field("y", state, nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            pa.field("drift", pa.float64(), nullable=False),
            pa.field("std", pa.float64(), nullable=False),
            pa.field("image_sha256", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("json", pa.string()),
        ],
        metadata={FINGERPRINT: json.dumps(fingerprint), NOISE: json.dumps(noise)},
    )
