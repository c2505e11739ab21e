"""The schema and the footer of a latent store's parts: one row per inverted image."""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa

from schemas.fingerprint import Document, StoredSchedule, read_sampling
from schemas.sampling import Sampling, Strict

FINGERPRINT = b"edict.fingerprint"
NOISE = b"edict.noise"

FIELDS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("slot", pa.int32(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("caption_truncated", pa.bool_(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("drift", pa.float64(), nullable=False),
        pa.field("std", pa.float64(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("json", pa.string()),
    ]
)
"""The columns of a part, except for the states x and y.

`slot` is the row's position in the batch in which it was inverted, from 0 to `batch_size` - 1 (in the footer). The row
regenerates exactly in this slot. Parts of earlier versions lack this column. The slot of their rows is the position in
the part modulo the batch size.
"""


class Footer(Strict):
    """The footer of a part: the scale of its states, and the settings that made them.

    latent = integer * scale, where scale = 2^-bits * sqrt(alphas_cumprod); the alpha of a flow is 1. The scale of y is
    `scale_y`, which differs for samplers that keep y one step nearer to the clean end (bdia, obelm).

    The states are at `position` of the schedule: 0 is the noisy end. Footers of earlier formats have no `format`. They
    have the fields of `sampling` and `schedule` at the top level, and the alphas under `schedule`.
    """

    format: Literal[3] = 3
    scale: float
    scale_y: float
    bits: int
    alphas_cumprod: float
    batch_size: int
    position: int
    sampling: Sampling
    schedule: StoredSchedule


def read_footer(metadata: Mapping[bytes, bytes]) -> Footer:
    """Return the footer of a part, of any format, from the metadata of its schema.

    Raises:
        KeyError: The metadata is not that of a part.
        ValueError: A field is invalid.
    """
    noise: Document = json.loads(metadata[NOISE])
    if "format" in noise:
        return Footer.model_validate(noise)
    if "steps" not in noise:  # even earlier versions had the steps only in the fingerprint
        made = json.loads(metadata[FINGERPRINT])
        noise |= {"steps": made["steps"], "strength": made["strength"]}
    names = ("scale", "bits", "alphas_cumprod", "batch_size", "position")
    return Footer(
        **{name: noise[name] for name in names},
        scale_y=noise["scale_y"] if "scale_y" in noise else noise["scale"],
        sampling=read_sampling(noise),
        schedule=StoredSchedule(
            timesteps=noise["timesteps"], alphas_cumprod=noise["schedule"], sigmas=noise.get("sigmas")
        ),
    )


def latents_schema(shape: Sequence[int], fingerprint: Document, footer: Footer) -> pa.Schema:
    """Return the Arrow schema of a part: FIELDS, and the states x and y after `caption_truncated`.

    The `shape` of the latents is [C, H, W], [L, D] for tokens, or [C, F, H, W] for video. x and y are int32, as nested
    lists of this shape. The metadata has the footer under `edict.noise`, and the fingerprint of job.json under
    `edict.fingerprint`.
    """
    state: pa.DataType = pa.int32()
    for length in reversed(shape):
        state = pa.list_(state, length)
    fields = list(FIELDS)
    after = FIELDS.get_field_index("caption_truncated") + 1
    fields[after:after] = [pa.field("x", state, nullable=False), pa.field("y", state, nullable=False)]
    return pa.schema(fields, metadata={FINGERPRINT: json.dumps(fingerprint), NOISE: footer.model_dump_json()})
